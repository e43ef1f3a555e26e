//! The comments of the protos, which their descriptors keep.

use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor, prost_types::FileDescriptorProto,
};

/// What is described: has a comment above it, perhaps.
pub(super) trait Described {
    /// The comment, as Markdown; empty if there is none.
    fn comment(&self) -> String;
}

macro_rules! described {
    ($($name:ty: $of:expr),* $(,)?) => {$(
        impl Described for $name {
            fn comment(&self) -> String {
                let file = $of(self);
                read(file.file_descriptor_proto(), self.path())
            }
        }
    )*};
}

described! {
    ServiceDescriptor: Self::parent_file,
    MethodDescriptor: |it: &Self| it.parent_service().parent_file(),
    MessageDescriptor: Self::parent_file,
    FieldDescriptor: |it: &Self| it.parent_message().parent_file(),
    EnumDescriptor: Self::parent_file,
    EnumValueDescriptor: |it: &Self| it.parent_enum().parent_file(),
}

/// A comment's first sentence, without its full stop.
pub(super) fn summary(comment: &str) -> String {
    let line = comment.replace('\n', " ");
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim_end_matches('.').to_owned()
}

fn read(file: &FileDescriptorProto, path: &[i32]) -> String {
    let places = file.source_code_info.as_ref().map(|it| &it.location);
    let place = places.and_then(|it| it.iter().find(|it| it.path == path));
    let comment = place.and_then(|it| it.leading_comments.as_deref());
    let lines = comment.unwrap_or_default().lines();
    let lines: Vec<_> = lines
        .map(|it| it.strip_prefix(' ').unwrap_or(it).trim_end())
        .collect();
    lines.join("\n").trim().to_owned()
}
