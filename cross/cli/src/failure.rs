//! How a command fails: `error:` with its causes, at most one `hint:` line, and an exit code.

use std::process::ExitCode;

use hedge_config::{EXIT_USAGE, Failure};

/// What to do next, attached to an error as context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{hint}")]
pub(crate) struct Hint {
    hint: String,
}

/// A failure of usage that only shows after parsing: exit code 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error that says `message` and hints at what to do.
pub(crate) fn with_hint(message: impl std::fmt::Display, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hint { hint: hint.into() }).context(message.to_string())
}

/// Bad usage that only shows after parsing, with what to do about it: exit code 64.
pub(crate) fn bad_usage(message: impl std::fmt::Display, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hint { hint: hint.into() }).context(Usage(message.to_string()))
}

/// `error` with a hint at what to do.
pub(crate) fn hinted(error: &anyhow::Error, hint: impl Into<String>) -> anyhow::Error {
    let message = format!("{error:#}");
    with_hint(message, hint)
}

/// Says what clap found wrong; asking for help or the version is not a failure.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe leaves nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// Says what failed and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let hint = error.chain().find_map(|cause| cause.downcast_ref::<Hint>()).map(|hint| hint.hint.clone());
    let causes: Vec<String> =
        error.chain().filter(|cause| cause.downcast_ref::<Hint>().is_none()).map(ToString::to_string).collect();
    let message = Message(causes.join(": "));
    let failure =
        if error.downcast_ref::<Usage>().is_some() { Failure::usage(&message) } else { Failure::failed(&message) };
    match hint {
        Some(hint) => failure.with_hint(hint).report(),
        None => failure.report(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);
