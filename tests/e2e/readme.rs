//! The README's lines, as typed: run by a shell, against a server that listens elsewhere because
//! tests have no fixed ports, with the binary in place of `cargo run --release`.

use std::{path::Path, process::Command, time::Duration};

use crate::harness::{
    eventually,
    process::{Process, hookfleet, standalone},
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_line_works_as_typed() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let lines = lines();
    let find = |what: &str| {
        let found = lines.iter().find(|it| it.contains(what));
        found.unwrap_or_else(|| panic!("the README has no line with {what}"))
    };
    let here = |line: &str| line.replace("localhost:7070", &server.address.to_string());

    let tenant = shell(
        &here(find("v1/tenants?tenantId=acme")),
        &server.address.to_string(),
    );
    assert!(tenant.contains(r#""name":"tenants/acme""#), "{tenant}");
    let created = shell(
        &here(find("subscriptionId=orders")),
        &server.address.to_string(),
    );
    assert!(created.contains("whsec_"), "{created}");
    let listed = shell(
        &here(find("localhost:7070 list")),
        &server.address.to_string(),
    );
    assert!(
        listed.contains("hookfleet.v1.SubscriptionService"),
        "{listed}"
    );
    let described = shell(
        &here(find("describe hookfleet.v1.Subscription")),
        &server.address.to_string(),
    );
    assert!(described.contains("callback_url"), "{described}");
    let created = shell(
        &here(find("SubscriptionService/CreateSubscription")),
        &server.address.to_string(),
    );
    assert!(created.contains("whsec_"), "{created}");
    let measured = shell(&here(find("7070/metrics")), &server.address.to_string());
    assert!(measured.contains("hookfleet_subscriptions"), "{measured}");
    // Subscriptions are in force a moment after they are created.
    eventually("both subscriptions are in force", PATIENCE, || async {
        let url = format!("http://{}", server.address);
        let arguments = [
            "subscription",
            "list",
            "acme",
            "--filter",
            "state = ACTIVE",
            "--server",
            &url,
        ];
        let output = hookfleet().args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.matches("ACTIVE").count() == 2 {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    let published = shell(&here(find("events:publish")), &server.address.to_string());
    assert!(published.contains(r#""deliveryCount":2"#), "{published}");
    let published = shell(&here(find("publish acme")), &server.address.to_string());
    assert!(published.contains("accepted"), "{published}");
    let deliveries = eventually("four deliveries", PATIENCE, || async {
        let text = shell(
            &here(find("subscriptions/-/deliveries")),
            &server.address.to_string(),
        );
        if text.matches(r#""eventType":"orders.created""#).count() == 4 {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    assert!(
        deliveries.contains("tenants/acme/subscriptions/all/deliveries/dlv_"),
        "{deliveries}"
    );
    let listed = shell(
        &here(find("deliveries list acme")),
        &server.address.to_string(),
    );
    assert!(listed.contains("orders.created"), "{listed}");
    let spread = shell(find("--spread"), &server.address.to_string());
    assert!(spread.contains("tenants/huge"), "{spread}");
    for service in ["-- standalone", "-- control-plane", "-- agent"] {
        let config = shell(
            &format!("{} --print-config", find(service)),
            &server.address.to_string(),
        );
        assert!(config.contains("listen"), "{config}");
    }
}

#[tokio::test]
async fn the_lines_about_keys_work_as_typed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = hookfleet();
    command.args(["standalone", "--authentication", "--data-dir"]);
    command.arg(dir.path().join("hookfleet-data"));
    let server = Process::start(command, "127.0.0.1:0");
    let lines = lines();
    let begin = lines
        .iter()
        .position(|it| it.starts_with("export"))
        .unwrap();
    assert!(lines[begin - 1].contains("standalone --authentication"));
    let place = dir.path().display();
    let script = format!("cd {place}\n{}", lines[begin..begin + 4].join("\n"));
    let printed = shell(&script, &server.address.to_string());
    assert!(
        printed.lines().any(|it| it.starts_with("whk_")),
        "{printed}"
    );
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next())
        {
            let is_local = !link.contains("://") && !link.starts_with('#');
            assert!(!is_local || root.join(link).exists(), "{name}: {link}");
        }
    }
}

/// Every line of every block of shell.
fn lines() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|it| it.split("```").next());
    blocks.flat_map(str::lines).map(ToOwned::to_owned).collect()
}

fn shell(line: &str, server: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = root.join("target/test-tools/venv/bin");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let line = line.replace("cargo run --release --", env!("CARGO_BIN_EXE_hookfleet"));
    let output = Command::new("sh")
        .args(["-c", &line])
        .env("PATH", path)
        .env("HOOKFLEET_SERVER", format!("http://{server}"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
