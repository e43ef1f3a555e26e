//! The verbs of the command line, as a person or a script types them.

use std::{process::Output, time::Duration};

use crate::harness::{
    eventually,
    process::{Process, hookfleet, standalone},
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn verbs_do_what_they_say_and_json_is_for_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let receiver = Receiver::start().await;
    let created = run(&server, &["tenant", "create", "acme"]);
    assert!(created.contains("tenants/acme"), "{created}");
    let url = receiver.url("hook");
    let created = run(
        &server,
        &[
            "subscription",
            "create",
            "acme",
            &url,
            "orders",
            "--id",
            "hook",
        ],
    );
    assert!(created.contains("whsec_"), "{created}");
    let listed = run(
        &server,
        &["subscription", "list", "acme", "--output", "json"],
    );
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["name"], "tenants/acme/subscriptions/hook");
    assert!(
        listed.get("signingSecret").is_none(),
        "secrets are shown once"
    );

    eventually("the subscription is in force", PATIENCE, || async {
        let got = run(&server, &["subscription", "get", "acme", "hook"]);
        if got.contains("ACTIVE") {
            Ok(())
        } else {
            Err(got)
        }
    })
    .await;
    let published = run(
        &server,
        &[
            "publish",
            "acme",
            "orders.created",
            r#"{"a":1}"#,
            "--id",
            "e1",
        ],
    );
    assert!(published.contains("accepted"), "{published}");
    let delivery = eventually("the delivery", PATIENCE, || async {
        let listed = run(
            &server,
            &[
                "deliveries",
                "list",
                "acme",
                "-o",
                "json",
                "--filter",
                "state = SUCCEEDED",
            ],
        );
        serde_json::from_str::<serde_json::Value>(&listed).map_err(|_| listed)
    })
    .await;
    let name = delivery["name"].as_str().unwrap();
    let attempts = run(&server, &["deliveries", "attempts", name]);
    assert!(attempts.contains("DELIVERED"), "{attempts}");
    let again = run(&server, &["deliveries", "redeliver", name]);
    assert!(again.contains("PENDING"), "{again}");
    eventually("two callbacks", PATIENCE, || async {
        let n_received = receiver.received_at("hook").len();
        if n_received == 2 {
            Ok(())
        } else {
            Err(n_received)
        }
    })
    .await;
    run(&server, &["subscription", "suspend", "acme", "hook"]);
    run(&server, &["subscription", "resume", "acme", "hook"]);
    run(&server, &["subscription", "rotate-secret", "acme", "hook"]);
    run(&server, &["subscription", "delete", "acme", "hook"]);
    run(&server, &["tenant", "delete", "acme"]);
}

#[tokio::test]
async fn a_refusal_names_every_field_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    run(&server, &["tenant", "create", "acme"]);
    let refused = output(
        &server,
        &["subscription", "create", "acme", "ftp://x", "a..b"],
    );
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    for field in [
        "subscription.callback_url",
        "subscription.event_types[0]",
        "INVALID_REQUEST",
    ] {
        assert!(text.contains(field), "{field} is missing in {text}");
    }
}

#[test]
fn the_demo_runs_to_its_end() {
    let output = hookfleet().arg("demo").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("BAD"), "{text}");
    assert!(text.contains("75 signatures verified"), "{text}");
}

#[test]
fn a_standalone_server_is_not_for_others() {
    let output = hookfleet()
        .args(["standalone", "--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("must be on loopback"), "{text}");
}

fn run(server: &Process, arguments: &[&str]) -> String {
    let output = output(server, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn output(server: &Process, arguments: &[&str]) -> Output {
    let url = format!("http://{}", server.address);
    hookfleet()
        .args(arguments)
        .args(["--server", &url])
        .output()
        .unwrap()
}
