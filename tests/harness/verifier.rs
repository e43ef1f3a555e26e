//! The judge of signatures: the Standard Webhooks library of PyPI, in a process of its own.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::receiver::Received;

/// Verifies callbacks, each with its secret; panics at the first that is not signed with it.
pub fn verify(callbacks: &[(String, Received)]) {
    let mut child = python("verify_signatures.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    for (secret, received) in callbacks {
        let header = |name: &str| received.header(name).to_owned();
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers: serde_json::Map<String, serde_json::Value> = names
            .iter()
            .map(|it| ((*it).to_owned(), header(it).into()))
            .collect();
        let body = STANDARD.encode(&received.body);
        let line = json!({"secret": secret, "headers": headers, "body": body});
        if writeln!(stdin, "{line}").is_err() {
            break;
        }
    }
    drop(stdin);
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "a signature is not good");
    let count = String::from_utf8_lossy(&output.stdout);
    assert_eq!(count.trim(), callbacks.len().to_string());
}

/// A script of `tests/` in the Python that `tests/run` has given its libraries.
pub fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("target/test-tools/venv/bin/python");
    let python = std::env::var_os("HOOKFLEET_TEST_PYTHON").map_or(own, PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: `tests/run` makes it",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(root.join("tests").join(script));
    command
}
