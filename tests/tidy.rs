//! Tidy: the rules of the house that the compiler cannot check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Production lines of a file.
const MAX_LINES: usize = 400;
const CRATES: [&str; 7] = [
    "proto",
    "contract",
    "egress",
    "gateway",
    "control-plane",
    "delivery-agent",
    "src",
];

/// Where decisions are made: no IO, no runtime, no clock.
const PURE: [&str; 6] = [
    "contract/src",
    "delivery-agent/src/core",
    "delivery-agent/src/verification/agenda",
    "control-plane/src/model",
    "control-plane/src/placement",
    "control-plane/src/fleet.rs",
];
const IMPURE: [&str; 7] = [
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "async fn",
    "Instant::now",
    "SystemTime::now",
    "rand::",
];

/// What a crate may be made of.
const ARROWS: [(&str, &[&str]); 5] = [
    ("contract", &["proto"]),
    ("egress", &["contract"]),
    ("gateway", &["contract", "proto"]),
    ("control-plane", &["contract", "egress", "gateway", "proto"]),
    (
        "delivery-agent",
        &["contract", "egress", "gateway", "proto"],
    ),
];

#[test]
fn decisions_are_pure() {
    for (path, text) in production() {
        if PURE.iter().any(|it| path.starts_with(root().join(it))) {
            for word in IMPURE {
                assert!(!text.contains(word), "{} mentions `{word}`", path.display());
            }
        }
    }
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    for (path, text) in production() {
        assert!(
            text.starts_with("//!"),
            "{} does not open with //!",
            path.display()
        );
        let n_lines = text.lines().count();
        assert!(
            n_lines <= MAX_LINES,
            "{} has {n_lines} production lines",
            path.display()
        );
    }
}

#[test]
fn arrows_point_one_way() {
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
        let dependencies = dependencies.split("[dev-dependencies]").next().unwrap();
        for line in dependencies
            .lines()
            .filter_map(|it| it.strip_prefix("hookfleet-"))
        {
            let dependency = line.split(['.', ' ']).next().unwrap();
            assert!(
                allowed.contains(&dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn only_the_wire_names_grpc_statuses() {
    for (path, text) in production() {
        let is_wire = path.starts_with(root().join("gateway"))
            || path.components().any(|it| it.as_os_str() == "api");
        let is_command = path.starts_with(root().join("src"));
        if !is_wire && !is_command {
            assert!(
                !text.contains("tonic::Status"),
                "{} names tonic::Status",
                path.display()
            );
        }
    }
}

#[test]
fn only_egress_connects_outward() {
    for (path, text) in production() {
        // The bench's baseline is a client that is not ours.
        let is_baseline = path.starts_with(root().join("src/bench"));
        if !path.starts_with(root().join("egress")) && !is_baseline {
            for word in ["TcpStream::connect", "client::conn", "reqwest"] {
                assert!(!text.contains(word), "{} mentions `{word}`", path.display());
            }
        }
    }
}

#[test]
fn only_the_control_plane_talks_to_etcd() {
    for (path, text) in production() {
        if !path.starts_with(root().join("control-plane")) {
            assert!(
                !text.contains("etcd_client"),
                "{} mentions etcd_client",
                path.display()
            );
        }
    }
}

#[test]
fn only_clocks_read_time() {
    for (path, text) in production() {
        if path.file_name().is_none_or(|it| it != "clock.rs") {
            for word in ["SystemTime::now", "std::time::Instant"] {
                assert!(!text.contains(word), "{} mentions `{word}`", path.display());
            }
        }
    }
}

/// Every production file and what of it is not tests.
fn production() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for name in CRATES {
        visit(&root().join(name), &mut found);
    }
    assert!(found.len() > 50, "the files were found");
    found
}

fn visit(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" && name != "target" {
            visit(&path, found);
        } else if name.ends_with(".rs")
            && !["tests.rs", "suite.rs", "test_support.rs"].contains(&name.as_str())
        {
            let text = fs::read_to_string(&path).unwrap();
            let production = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            found.push((path, production.to_owned()));
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
