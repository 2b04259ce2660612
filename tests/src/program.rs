//! A program that a test started: its log, its end, and that it does not outlive the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::wait_for;

/// Log lines shown when something went wrong.
const SHOWN_LINES: usize = 40;

/// How long a program may take to end once asked to.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: Log,
    readers: Vec<JoinHandle<()>>,
}

/// The lines that a program has written to standard output and standard error so far.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// A command that knows nothing of the tests' own settings.
#[must_use]
pub fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        // HEDGE_SECTION__KEY would override the configuration that a test wrote.
        if name.to_string_lossy().starts_with("HEDGE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

impl Program {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts `command`; `name` stands in messages.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let log = Log::default();
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| log.follow(pipe)));
        readers.extend(child.stderr.take().map(|pipe| log.follow(pipe)));
        Self { name: name.to_owned(), child, log, readers }
    }

    /// Waits for a log line in which `find` finds something.
    ///
    /// # Panics
    ///
    /// If the program ends first or `limit` passes.
    pub fn wait_for_line<T>(&mut self, what: &str, limit: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let mut read = 0;
        let found = wait_for_or(limit, || {
            let ended = self.child.try_wait().ok().flatten();
            let lines = self.log.lines();
            let found = lines[read..].iter().find_map(|line| find(line));
            read = lines.len();
            match (found, ended) {
                (Some(found), _) => Some(Ok(found)),
                (None, Some(status)) => Some(Err(format!("it ended with {status}"))),
                (None, None) => None,
            }
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(why)) => panic!("{} never said {what}: {why}\n{}", self.name, self.log.tail()),
            None => panic!("{} never said {what} within {limit:?}\n{}", self.name, self.log.tail()),
        }
    }

    /// Waits for a JSON log line with this message and gives one of its fields as text.
    ///
    /// # Panics
    ///
    /// As [`Program::wait_for_line`].
    pub fn wait_for_field(&mut self, message: &str, field: &str, limit: Duration) -> String {
        self.wait_for_line(&format!("{message:?} with {field:?}"), limit, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message).then(|| line[field].as_str().map(str::to_owned))?
        })
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Ends it without warning, as a power cut or the kernel would (SIGKILL).
    pub fn kill(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        // Without unsafe code there is no kill(2) here; the shell's own needs no package.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} cannot be signalled", self.name);
        self.wait(END_LIMIT)
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        let status = wait_for(&format!("{name} ends"), limit, || self.child.try_wait().ok().flatten());
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        status
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show(&format!("--- the end of {}'s log\n{}", self.name, self.log.tail()));
        }
    }
}

impl Log {
    fn follow(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                log.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

#[expect(clippy::print_stderr, reason = "libtest shows it with the failed test, and only there")]
fn show(text: &str) {
    eprintln!("{text}");
}

fn wait_for_or<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let until = std::time::Instant::now() + limit;
    while std::time::Instant::now() < until {
        if let Some(found) = probe() {
            return Some(found);
        }
        std::thread::sleep(crate::POLL);
    }
    None
}
