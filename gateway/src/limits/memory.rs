//! How much memory the process has, and what that makes of the budgets: they are made for a GiB, and shrink with it.
//!
//! **Invariant:** whoever has more does not use more.

use std::{fs, path::Path};

/// What all budgets together are made for.
const FULL: u64 = 1 << 30;
/// What the process needs beside the budgets, whatever they are.
const BESIDE: u64 = 128 << 20;
/// With less the largest requests would find no room, so budgets are made for that whatever there is.
const LEAST: u64 = 240 << 20;
/// Where control groups are, and the name of their limit, by what their line in `/proc/self/cgroup` begins with.
const GROUPS: [(&str, &str, &str); 2] = [
    (":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("0::", "/sys/fs/cgroup", "memory.max"),
];

/// The share of the budgets that the process can afford.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    bytes: u64,
}

// === impl Memory ===

impl Memory {
    /// So many bytes.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self { bytes }
    }

    /// What the control group of this process may have, and those around it; enough, if there is none.
    #[must_use]
    pub fn found() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::of_groups(&groups, |file| fs::read_to_string(file).ok())
    }

    fn of_groups(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Self {
        let limits = groups.lines().filter_map(|line| {
            let group = GROUPS
                .iter()
                .find_map(|(begin, root, file)| Some((line.split_once(begin)?.1, root, file)));
            let (path, root, file) = group?;
            // A container sees its own group as the root.
            let around = Path::new(path.trim_start_matches('/')).ancestors();
            let files = around.map(|it| Path::new(root).join(it).join(file));
            let limits = files.filter_map(|it| read(&it)?.trim().parse().ok());
            limits.min()
        });
        Self::of(limits.min().unwrap_or(u64::MAX))
    }

    /// What becomes of a budget.
    #[must_use]
    pub fn share(self, budget: usize) -> usize {
        let bytes = self.bytes.clamp(LEAST, FULL) - BESIDE;
        let share = budget as u128 * u128::from(bytes) / u128::from(FULL - BESIDE);
        usize::try_from(share).unwrap_or(budget).max(1)
    }
}

impl Default for Memory {
    /// Enough.
    fn default() -> Self {
        Self::of(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_shrink_with_the_memory_and_never_grow() {
        let of = |bytes| Memory::of(bytes).share(64 << 20);
        assert_eq!(of(u64::MAX), 64 << 20);
        assert_eq!(of(FULL), 64 << 20);
        assert_eq!(of(BESIDE + (FULL - BESIDE) / 4), 16 << 20);
        assert_eq!(
            of(0),
            8 << 20,
            "a process that cannot live with it is not asked to"
        );
        assert_eq!(Memory::of(0).share(3), 1);
    }

    /// What a process in these groups may have, with these limits.
    fn in_groups(groups: &str, limits: &[(&str, &str)]) -> Memory {
        let limit = |file: &Path| {
            let limit = limits.iter().find(|(path, _)| Path::new(path) == file);
            limit.map(|(_, limit)| format!("{limit}\n"))
        };
        Memory::of_groups(groups, limit)
    }

    #[test]
    fn the_least_that_any_group_around_the_process_may_have_counts() {
        let limits = [
            ("/sys/fs/cgroup/pods/one/agent/memory.max", "max"),
            ("/sys/fs/cgroup/pods/one/memory.max", "700"),
            ("/sys/fs/cgroup/pods/memory.max", "900"),
            ("/sys/fs/cgroup/memory.max", "800"),
        ];
        assert_eq!(in_groups("0::/pods/one/agent\n", &limits), Memory::of(700));
        assert_eq!(in_groups("0::/pods\n", &limits), Memory::of(800));
        assert_eq!(in_groups("0::/\n", &limits), Memory::of(800));
    }

    #[test]
    fn groups_of_both_versions_count_and_those_without_a_limit_do_not() {
        let groups = "5:cpu,cpuacct:/pods\n4:memory:/pods\n0::/pods\n";
        let old = ("/sys/fs/cgroup/memory/pods/memory.limit_in_bytes", "600");
        let new = ("/sys/fs/cgroup/pods/memory.max", "500");
        assert_eq!(in_groups(groups, &[old]), Memory::of(600));
        assert_eq!(in_groups(groups, &[old, new]), Memory::of(500));
        assert_eq!(in_groups(groups, &[]), Memory::default());
        assert_eq!(in_groups("", &[old, new]), Memory::default());
    }
}
