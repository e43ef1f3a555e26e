//! What a process has used so far, as Linux tells it in `/proc`.

use std::fs;

use anyhow::Context as _;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time, in microseconds.
    pub(super) cpu_micros: u64,
    /// The most memory that was resident, in bytes.
    pub(super) peak_bytes: u64,
    /// What it caused to be written to the disk, in bytes.
    pub(super) written_bytes: u64,
}

/// What `/proc` counts time in: the kernel's `USER_HZ`, 100 on every Linux.
const MICROS_A_TICK: u64 = 10_000;

impl Usage {
    /// Of a process that runs.
    ///
    /// # Errors
    /// If it does not, or this is not Linux.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (stat, status, io) = (read("stat")?, read("status")?, read("io")?);
        parse(&stat, &status, &io).context("/proc says something unexpected")
    }
}

fn parse(stat: &str, status: &str, io: &str) -> Option<Usage> {
    // The second field is the command's name, in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    let value = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|it| it.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some(Usage {
        cpu_micros: (user + system) * MICROS_A_TICK,
        peak_bytes: value(status, "VmHWM:")? * 1024,
        written_bytes: value(io, "write_bytes:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_whatever_the_command_is_called() {
        let stat = "7 (a) b) (c) R 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20 0 9 0 1 2 3";
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        let io = "rchar: 1\nwrite_bytes: 4096\n";
        let usage = Usage {
            cpu_micros: 1_500_000,
            peak_bytes: 2 << 20,
            written_bytes: 4096,
        };
        assert_eq!(parse(stat, status, io), Some(usage));
        assert_eq!(parse("", status, io), None);
    }

    #[test]
    fn our_own_usage_can_be_read() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.peak_bytes > 0);
    }
}
