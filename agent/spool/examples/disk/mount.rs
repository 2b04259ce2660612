//! File systems that may be cut off or filled up: an ext4 on a loop device, and a small tmpfs. Both take root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A mounted file system, unmounted when it is dropped.
pub(crate) struct Mount {
    folder: PathBuf,
    /// The loop device and its file, of an ext4.
    device: Option<String>,
}

/// `EXT4_IOC_SHUTDOWN` without a flush of the journal: nothing more reaches the disk, what is not there is lost, as when the power
/// goes. Rust has it only as `unsafe`, which this workspace forbids; Python's `ioctl` checks what it is given.
const CUT: &str = "import fcntl,os,struct,sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// What of the means to mount is missing; none if nothing is.
pub(crate) fn missing() -> Option<String> {
    let runs = |program: &str| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok()
    };
    let wanted = ["losetup", "mount", "umount", "mkfs.ext4", "python3"];
    if let Some(program) = wanted.into_iter().find(|program| !runs(program)) {
        return Some(program.to_owned());
    }
    let device = Command::new("losetup").arg("--find").output();
    let root = Command::new("id").arg("--user").output().is_ok_and(|id| id.stdout == b"0\n");
    (!root || !device.is_ok_and(|device| device.status.success())).then(|| "root, with loop devices".to_owned())
}

impl Mount {
    /// A new ext4 of so many MiB, whose file and folder lie in `scratch`.
    pub(crate) fn ext4(scratch: &Path, mib: u64) -> Result<Self, String> {
        let (image, folder) = (scratch.join("image"), scratch.join("mounted"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", path(&image)])?;
        let device = run("losetup", &["--find", "--show", path(&image)])?;
        let mount = Self { folder, device: Some(device) };
        mount.mount()?;
        Ok(mount)
    }

    /// A new tmpfs of so many KiB.
    pub(crate) fn tmpfs(folder: PathBuf, kib: u64) -> Result<Self, String> {
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs", path(&folder)])?;
        Ok(Self { folder, device: None })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The power goes.
    pub(crate) fn cut(&self) -> Result<(), String> {
        run("python3", &["-c", CUT, path(&self.folder)]).map(drop)
    }

    /// The power comes back.
    pub(crate) fn remount(&self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().unwrap_or("tmpfs");
        run("mount", &[device, path(&self.folder)]).map(drop)
    }

    /// A process that was killed a moment ago may still hold it.
    fn unmount(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match run("umount", &[path(&self.folder)]) {
                Err(_) if begun.elapsed() < Duration::from_secs(10) => std::thread::sleep(Duration::from_millis(20)),
                other => return other.map(drop),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What cannot be undone here stays for whoever looks.
        let _ = self.unmount();
        if let Some(device) = &self.device {
            let _ = run("losetup", &["--detach", device]);
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("scratch folders have plain names")
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
