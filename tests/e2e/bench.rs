//! `hookfleet bench` runs and says what it promises to say. How fast anything is, is not a test's
//! business.

use crate::harness::process::hookfleet;

#[test]
fn a_quick_bench_reports_what_it_measured() {
    let output = hookfleet()
        .args(["bench", "--quick", "--json", "--scenario", "one-endpoint"])
        .args(["--scenario", "idle", "--payload", "256"])
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [one, idle] = reports.as_array().unwrap().as_slice() else {
        panic!("{reports}");
    };
    assert_eq!(one["scenario"], "one-endpoint");
    assert_eq!(one["payload_bytes"], 256);
    for measured in [
        "events_per_second",
        "deliveries_per_second",
        "bare_per_second",
        "ratio",
        "peak_resident_bytes",
    ] {
        assert!(one[measured].as_f64().unwrap() > 0.0, "{measured}: {one}");
    }
    assert_eq!(idle["end_to_end"]["count"], 50, "each event arrives once");
    assert_eq!(idle["publish"]["count"], 50);
}
