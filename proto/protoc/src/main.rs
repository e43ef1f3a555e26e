//! A `protoc` for build scripts of dependencies, so that no machine needs one installed.
//!
//! It knows only what prost-build asks of protoc: `-I<path>` or `-I <path>`, `-o <file>` and the
//! files to compile. The result is a descriptor set with imports and source locations.

use std::path::PathBuf;

use protox::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut includes = Vec::new();
    let mut output = None;
    let mut files = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-o" => output = arguments.next().map(PathBuf::from),
            "-I" => includes.extend(arguments.next().map(PathBuf::from)),
            other => match other.strip_prefix("-I") {
                Some(include) => includes.push(PathBuf::from(include)),
                None if other.starts_with('-') => {}
                None => files.push(PathBuf::from(other)),
            },
        }
    }
    let output = output.ok_or("-o <file> is missing")?;
    let mut compiler = Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    std::fs::write(output, compiler.encode_file_descriptor_set())?;
    Ok(())
}
