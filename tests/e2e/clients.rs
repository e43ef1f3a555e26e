//! Clients that others have written, and that know of the API what reflection tells.

use crate::harness::{process::standalone, verifier};

#[tokio::test]
async fn the_grpc_library_of_pypi_lists_and_calls_without_generated_code() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let mut command = verifier::python("call_methods.py");
    let output = command.arg(server.address.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    for service in [
        "Tenant",
        "Subscription",
        "Publisher",
        "Delivery",
        "Fleet",
        "Key",
    ] {
        let name = format!("hookfleet.v1.{service}Service");
        assert!(listed.lines().any(|it| it == name), "{name} in {listed}");
    }
}
