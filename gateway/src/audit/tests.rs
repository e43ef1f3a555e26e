//! Logs on disk: written, gone on with, damaged, and checked.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    chain::Broken,
    check::{self, Report, check},
    log::{self, Log},
    record::Record,
};

fn record(number: u64) -> Record {
    Record::unrecorded(format!("time {number}"), number)
}

/// A log of three files with ten records.
fn written(dir: &Path) -> Vec<PathBuf> {
    let mut log = Log::with_files_of(dir, 1200).unwrap();
    for number in 0..10 {
        log.append(&[record(number)]).unwrap();
    }
    let files = log::files(dir).unwrap();
    assert_eq!(files.len(), 3, "{files:?}");
    files
}

fn broken(dir: &Path) -> Option<(PathBuf, usize, Broken)> {
    match check(dir, 1) {
        Err(check::Error::Broken { path, line, why }) => Some((path, line, why)),
        _ => None,
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<_> = text.lines().map(|it| format!("{it}\n")).collect();
    change(&mut lines);
    fs::write(path, lines.concat()).unwrap();
}

#[test]
fn a_log_goes_on_over_files_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let report = check(dir.path(), 1).unwrap();
    assert_eq!(
        (report.first, report.head.sequence, report.n_torn),
        (1, 10, 0)
    );
    let mut log = Log::with_files_of(dir.path(), 1200).unwrap();
    assert_eq!(*log.head(), report.head);
    assert!(matches!(Log::open(dir.path()), Err(log::Error::InUse(_))));
    log.append(&[record(10), record(11)]).unwrap();
    assert_eq!(check(dir.path(), 1).unwrap().head, *log.head());

    // One file alone begins where it begins; what was put away is named.
    let last = check(&files[2], 1).unwrap();
    assert_eq!((last.first, last.head.sequence), (9, 12));
    fs::remove_file(&files[0]).unwrap();
    let (path, line, why) = broken(dir.path()).unwrap();
    assert_eq!((path, line), (files[1].clone(), 1));
    assert!(
        matches!(
            why,
            Broken::Order {
                found: 5,
                expected: 1
            }
        ),
        "{why}"
    );
    assert_eq!(check(dir.path(), 5).unwrap().first, 5);
}

#[test]
fn what_a_crash_cuts_off_is_told_apart_from_what_somebody_changes() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let mut file = fs::OpenOptions::new().append(true).open(&files[2]).unwrap();
    file.write_all(b"{\"sequence\":11,\"prev").unwrap();
    assert_eq!(check(dir.path(), 1).unwrap().n_torn, 1);
    let mut log = Log::with_files_of(dir.path(), 1200).unwrap();
    assert_eq!(log.head().sequence, 10);
    let (path, line, why) = broken(dir.path()).unwrap();
    assert_eq!(
        (path, line, why),
        (files[2].clone(), 3, Broken::Torn),
        "nothing goes on"
    );
    log.append(&[record(10)]).unwrap();
    let Report { head, n_torn, .. } = check(dir.path(), 1).unwrap();
    assert_eq!((head.sequence, n_torn), (11, 1));
}

#[test]
fn crashes_in_a_row_cut_off_a_line_each() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    for _ in 0..3 {
        let mut file = fs::OpenOptions::new().append(true).open(&files[2]).unwrap();
        file.write_all(b"{\"sequence\":11,\"prev").unwrap();
        drop(Log::with_files_of(dir.path(), 1200).unwrap());
    }
    let (path, line, why) = broken(dir.path()).unwrap();
    let first = (files[2].clone(), 3, Broken::Torn);
    assert_eq!((path, line, why), first, "nothing goes on");
    let mut log = Log::with_files_of(dir.path(), 1200).unwrap();
    log.append(&[record(10)]).unwrap();
    let Report { head, n_torn, .. } = check(dir.path(), 1).unwrap();
    assert_eq!((head.sequence, n_torn), (11, 3));
}

#[test]
fn a_log_with_nothing_whole_in_its_newest_file_goes_on_with_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let newest = dir.path().join("audit-00000000000000000011.jsonl");
    fs::write(newest, "{\"sequ").unwrap();
    let mut log = Log::with_files_of(dir.path(), 1200).unwrap();
    log.append(&[record(10)]).unwrap();
    let report = check(dir.path(), 1).unwrap();
    assert_eq!((report.head.sequence, report.n_torn), (11, 1));
}

#[test]
fn every_change_is_found_at_its_line() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, usize, usize, Change); 8] = [
        ("a byte", 0, 2, |it| {
            it[1] = it[1].replace("time 1", "time 7")
        }),
        ("a byte of a hash", 0, 2, |it| {
            let at = it[1].len() - 10;
            let other = if it[1].as_bytes()[at] == b'0' {
                "1"
            } else {
                "0"
            };
            it[1].replace_range(at..=at, other);
        }),
        ("a line is gone", 1, 2, |it| drop(it.remove(1))),
        ("the first of a file is gone", 1, 1, |it| drop(it.remove(0))),
        ("the middle is cut off", 1, 1, |it| it.truncate(2)),
        ("lines are swapped", 0, 3, |it| it.swap(2, 3)),
        ("the last two are swapped", 2, 1, |it| it.swap(0, 1)),
        ("a line is made to look torn", 0, 2, |it| {
            it[1] = "{\"sequence\":2\n".to_owned()
        }),
    ];
    for (what, index, line, spoil) in changes {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        change(&files[index], spoil);
        let (path, found, why) = broken(dir.path()).unwrap_or_else(|| panic!("{what}"));
        // A line that was there and is cut off is missed by the next one.
        let is_next = what.starts_with("the middle") || what.contains("torn");
        let place = (files[index].clone(), line);
        let next = match what.contains("torn") {
            true => (files[index].clone(), line + 1),
            false => (files[(index + 1).min(2)].clone(), line),
        };
        assert_eq!(
            (path, found),
            if is_next { next } else { place },
            "{what}: {why}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    fs::remove_file(&files[1]).unwrap();
    assert_eq!(broken(dir.path()).unwrap().0, files[2], "a file is gone");
    assert!(matches!(
        check(tempfile::tempdir().unwrap().path(), 1),
        Err(check::Error::Nothing(_))
    ));
}

#[test]
fn a_tail_that_is_cut_off_shows_in_the_head_alone() {
    let dir = tempfile::tempdir().unwrap();
    let files = written(dir.path());
    let before = check(dir.path(), 1).unwrap().head;
    change(&files[2], |it| it.truncate(1));
    let after = check(dir.path(), 1).unwrap().head;
    assert_eq!((before.sequence, after.sequence), (10, 9));
    assert_ne!(before.hash, after.hash);
}
