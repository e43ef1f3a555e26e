//! A library that is loaded before all others and makes the machine worse for one process: disks that
//! fail, stall, or are the last thing it sees, and a wall clock that jumps.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::process::hookfleet;

/// Of what goes to the disk, only the journal uses `fdatasync` and `pwrite`.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : -1;
}

/* A number that the test may change while the process runs. */
static long dial(const char *name) {
    const char *path = getenv(name);
    char text[32] = {0};
    if (!path) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    if (fd < 0) return 0;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return n > 0 ? atol(text) : 0;
}

/* Before and after each piece of disk work. */
static void step(void) {
    static long steps;
    if (__atomic_add_fetch(&steps, 1, __ATOMIC_SEQ_CST) == setting("SHIM_KILL_AT"))
        kill(getpid(), SIGKILL);
}

#define STEPS(type, call) step(); type result = call; int error = errno; step(); errno = error; return result;

/* A disk that is gone. */
static int is_dead(void) {
    errno = EIO;
    return dial("SHIM_DEAD_FILE") > 0;
}

int fdatasync(int fd) {
    static long syncs;
    if (is_dead()) return -1;
    if (__atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) == setting("SHIM_FAIL_SYNC_AT")) {
        errno = EIO;
        return -1;
    }
    for (long left = dial("SHIM_SYNC_MILLIS_FILE"); left > 0 && dial("SHIM_SYNC_MILLIS_FILE") > 0; left -= 10)
        usleep(10000);
    STEPS(int, syscall(SYS_fdatasync, fd))
}

int fsync(int fd) { if (is_dead()) return -1; STEPS(int, syscall(SYS_fsync, fd)) }

int rename(const char *from, const char *to) { STEPS(int, syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)) }

int unlink(const char *path) { STEPS(int, syscall(SYS_unlinkat, AT_FDCWD, path, 0)) }

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    if (is_dead()) return -1;
    STEPS(ssize_t, syscall(SYS_pwrite64, fd, bytes, n, at))
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += dial("SHIM_CLOCK_FILE");
    return result;
}
"#;

/// The library, compiled in a folder.
pub struct Shim {
    library: PathBuf,
    dir: PathBuf,
}

impl Shim {
    pub fn compile(dir: &Path) -> Self {
        let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
        std::fs::write(&source, SOURCE).expect("the source is written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
        let compiled = cc.arg(&source).status().expect("cc starts");
        assert!(compiled.success(), "cc compiles the shim");
        let shim = Self {
            library,
            dir: dir.to_owned(),
        };
        shim.stall_syncs(Duration::ZERO);
        shim.set_clock_off(0);
        shim.set_disk_dead(false);
        shim
    }

    /// `hookfleet standalone` on a data directory, with it loaded.
    pub fn standalone(&self, data_dir: &Path) -> Command {
        let mut command = hookfleet();
        command.arg("standalone").arg("--data-dir").arg(data_dir);
        self.load(&mut command);
        command
    }

    /// A command will have it loaded.
    pub fn load(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("SHIM_SYNC_MILLIS_FILE", self.dir.join("sync-millis"));
        command.env("SHIM_CLOCK_FILE", self.dir.join("clock-seconds"));
        command.env("SHIM_DEAD_FILE", self.dir.join("dead"));
    }

    /// From now on every sync and write fails, or does not.
    pub fn set_disk_dead(&self, is_dead: bool) {
        self.turn("dead", if is_dead { "1" } else { "0" });
    }

    /// From now on a sync of the journal takes as much longer; those that wait already end when it is nothing.
    pub fn stall_syncs(&self, duration: Duration) {
        self.turn("sync-millis", &duration.as_millis().to_string());
    }

    /// The wall clock is this many seconds off from now on.
    pub fn set_clock_off(&self, seconds: i64) {
        self.turn("clock-seconds", &seconds.to_string());
    }

    /// A dial is read while it is turned, so it is replaced as a whole.
    fn turn(&self, dial: &str, value: &str) {
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let new = format!("{dial}.{}", TURNS.fetch_add(1, Ordering::Relaxed));
        let new = self.dir.join(new);
        std::fs::write(&new, value).expect("a dial is written");
        std::fs::rename(&new, self.dir.join(dial)).expect("a dial is replaced");
    }
}
