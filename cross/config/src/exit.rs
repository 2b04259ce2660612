//! How a program of Hedge ends when it fails: `error: …`, at most one `hint: …` line, and an exit code.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use crate::ConfigError;

/// Exit code of a program that could not do what it was asked.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of bad usage or a bad configuration.
pub const EXIT_USAGE: u8 = 64;

/// A failure as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// Bad usage or a bad configuration: [`EXIT_USAGE`].
    pub fn usage(error: &dyn Error) -> Self {
        Self { code: EXIT_USAGE, message: chain(error), hint: None }
    }

    /// Everything else: [`EXIT_FAILED`].
    pub fn failed(error: &dyn Error) -> Self {
        Self { code: EXIT_FAILED, message: chain(error), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes the lines to standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // A closed standard error leaves nobody to tell.
        let _ = self.write_to(&mut io::stderr().lock());
        ExitCode::from(self.code)
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            writeln!(out, "hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::usage(&error);
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

/// The error and its causes in one line; a cause that the message before it already ends with is not repeated.
fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen")]
    struct Outer(#[source] io::Error);

    fn lines(failure: &Failure) -> String {
        let mut out = Vec::new();
        failure.write_to(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_failure_names_its_causes_and_one_hint() {
        let failure = Failure::failed(&Outer(io::Error::other("address in use"))).with_hint("choose another port");
        assert_eq!(lines(&failure), "error: cannot listen: address in use\nhint: choose another port\n");
        assert_eq!(failure.code, EXIT_FAILED);
    }

    #[test]
    fn a_bad_configuration_exits_64_with_a_hint() {
        #[derive(Debug, serde::Deserialize)]
        struct Config {
            #[serde(rename = "listen")]
            _listen: u16,
        }
        let error = crate::from_str::<Config>("listn = 1", std::iter::empty()).unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.code, EXIT_USAGE);
        assert!(lines(&failure).contains("\nhint: "), "{}", lines(&failure));
    }
}
