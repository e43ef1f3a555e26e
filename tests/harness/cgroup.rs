//! A control group of a test, in which memory ends: beyond its limit the kernel kills.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

/// Where control groups may be made, how their limit is called, and where they count kills: version 1, and 2.
const KINDS: [(&str, &str, &str); 2] = [
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.oom_control",
    ),
    ("/sys/fs/cgroup", "memory.max", "memory.events"),
];

/// A control group.
pub struct Group {
    dir: PathBuf,
    kills: &'static str,
}

impl Group {
    /// `None`, with a word about it, where this machine does not permit one.
    pub fn new(bytes: u64) -> Option<Self> {
        static GROUPS: AtomicU64 = AtomicU64::new(0);
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let name = format!("hookfleet-test-{}-{number}", std::process::id());
        for (root, limit, kills) in KINDS {
            let dir = Path::new(root).join(&name);
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            let group = Self { dir, kills };
            if fs::write(group.dir.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        eprintln!("SKIPPED: memory has no end, because this machine has no control group for us");
        None
    }

    /// The command, within the group.
    pub fn run(&self, command: &Command) -> Command {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        within.arg(self.dir.join("cgroup.procs"));
        within.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }

    /// How many processes the kernel has killed in it.
    pub fn n_kills(&self) -> u64 {
        let counts = fs::read_to_string(self.dir.join(self.kills)).expect("the group is there");
        let count = counts
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("kills are counted").parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty once its processes have ended; what is left of it costs nothing.
        let _busy = fs::remove_dir(&self.dir);
    }
}
