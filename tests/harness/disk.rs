//! A disk of its own for one test: an ext4 image behind a loop device, which can lose power, be full, and fail.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::fs::{FallocateFlags, fallocate};

/// `FS_IOC_SHUTDOWN` without flushing anything, the log of the file system included, once a line says so.
const CUT: &str = "import fcntl, os, struct, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))";

/// An ext4 of its own.
pub struct Disk {
    image: PathBuf,
    pub mount_point: PathBuf,
}

impl Disk {
    /// `None`, with a word about it, where this machine does not permit one.
    pub fn new(dir: &Path, bytes: u64) -> Option<Self> {
        Self::with(dir, bytes, &[])
    }

    /// As [`Disk::new`], made with more to be said to `mkfs.ext4`.
    pub fn with(dir: &Path, bytes: u64, options: &[&str]) -> Option<Self> {
        let disk = Self {
            image: dir.join("disk.img"),
            mount_point: dir.join("disk"),
        };
        std::fs::create_dir(&disk.mount_point).unwrap();
        let file = std::fs::File::create(&disk.image).unwrap();
        file.set_len(bytes).unwrap();
        let made = run(
            "mkfs.ext4",
            &[options, &["-q", "-F", text(&disk.image)]].concat(),
        );
        let mounted = made.and_then(|_| disk.try_mount());
        if let Err(why) = mounted {
            eprintln!(
                "SKIPPED: there is no disk to harm, because this machine has no loop device for us: {why}"
            );
            return None;
        }
        disk.unmount();
        Some(disk)
    }

    fn try_mount(&self) -> Result<Output, String> {
        let (image, point) = (text(&self.image), text(&self.mount_point));
        run("mount", &["-o", "loop", image, point])
    }

    pub fn mount(&self) {
        self.try_mount().unwrap();
    }

    pub fn unmount(&self) {
        run("umount", &[text(&self.mount_point)]).unwrap();
    }

    /// Afterwards nothing reaches the disk, and what was not synced never did.
    pub fn cut(&self, before: impl FnOnce()) {
        let mut cut = Command::new("python3")
            .args(["-c", CUT, text(&self.mount_point)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(cut.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        before();
        drop(cut.stdin.take());
        assert!(cut.wait().unwrap().success());
    }
}

impl Disk {
    /// Nothing can be written any more, as after an error of the disk. What was synced can be read after it is mounted
    /// again.
    pub fn abort(&self) {
        run("mount", &["-o", "remount,abort", text(&self.mount_point)]).unwrap();
    }

    /// How many bytes are left.
    pub fn free_bytes(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.mount_point).unwrap();
        space.f_bavail * space.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _not_mounted = run("umount", &["-l", text(&self.mount_point)]);
    }
}

/// Takes everything that is left of its disk for a file, in one go, as somebody else does.
pub fn fill(file: &Path) {
    let file = std::fs::File::create(file).unwrap();
    let (mut end, mut piece) = (0, 1 << 30);
    while piece >= 1 << 10 {
        match fallocate(&file, FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            Err(_) => piece /= 2,
        }
    }
}

/// Makes a folder of files, until its disk can have no more of them.
pub fn fill_with_files(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let paths = (0..).map(|number: u32| dir.join(number.to_string()));
    let made = paths.map(std::fs::File::create);
    made.take_while(Result::is_ok).for_each(drop);
}

/// Takes back the space that a file was given and that nothing is written to yet.
pub fn take_back(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0);
    let file = std::fs::File::options().write(true).open(file).unwrap();
    for length in [written.map_or(0, |last| last + 1), bytes.len()] {
        file.set_len(length as u64).unwrap();
    }
}

fn run(command: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(command).args(arguments).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
