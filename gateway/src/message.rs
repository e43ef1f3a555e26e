//! The head that gRPC puts before a message: a flag and a length. Knows nothing of what is in the message.

/// A flag and a length.
pub(crate) const HEAD_BYTES: usize = 5;
/// As large as the largest message that a service takes.
pub(crate) const MAX_BYTES: usize = 9 << 20;

/// What stands before a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) is_compressed: bool,
    /// Of the message, without this.
    pub(crate) length: usize,
}

/// The head that data begins with, if it is here whole.
pub(crate) fn head(data: &[u8]) -> Option<Head> {
    let [flag, length @ ..] = *data.first_chunk::<HEAD_BYTES>()?;
    Some(Head {
        is_compressed: flag != 0,
        length: usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX),
    })
}
