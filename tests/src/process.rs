//! What a process takes up, as Linux tells it in `/proc`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The ticks of a second in which Linux counts a process's time; the same on all architectures that Hedge runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Its resident set.
    pub resident_kib: u64,
    /// Its threads.
    pub threads: usize,
    /// Its open files.
    pub files: usize,
}

impl Held {
    /// By a running process.
    ///
    /// # Panics
    ///
    /// If there is none of this id.
    #[must_use]
    pub fn by(process: u32) -> Self {
        let folder = folder(process);
        let status = std::fs::read_to_string(folder.join("status")).expect("the process runs");
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        let files = std::fs::read_dir(folder.join("fd")).expect("the process is ours").count();
        Self { resident_kib: number("VmRSS"), threads: number("Threads") as usize, files }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB resident, {} threads, {} files", self.resident_kib, self.threads, self.files)
    }
}

/// The processor time that a running process has used.
///
/// # Panics
///
/// If there is none of this id.
#[must_use]
pub fn cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(folder(process).join("stat")).expect("the process runs");
    // The name may have spaces and stands in parentheses; user and system time are the 12th and 13th field behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

fn folder(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}"))
}
