//! What can be wrong with a configuration, by whose fault it is.
//!
//! No variant carries the text of a value: it may be a secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Where a fault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the text as a whole, or at no line of it.
    Text {
        /// The file, where there is one.
        file: Option<PathBuf>,
    },
    /// At a line of the text, counted from 1.
    Line {
        /// The file, where there is one.
        file: Option<PathBuf>,
        /// The line, counted from 1.
        line: usize,
    },
    /// In an environment variable.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { file: None } => f.write_str("the configuration"),
            Self::Text { file: Some(file) } => write!(f, "{}", file.display()),
            Self::Line { file: None, line } => write!(f, "line {line}"),
            Self::Line { file: Some(file), line } => write!(f, "{} line {line}", file.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is over the limit.
    #[error("the configuration {} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is no text.
    #[error("the configuration {} is not UTF-8 (first bad byte at offset {offset})", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is no UTF-8.
        offset: usize,
    },
    /// An override is no Unicode.
    #[error("the environment variable {name} is not Unicode")]
    VariableNotUnicode {
        /// The variable.
        name: String,
    },
    /// An override's name leads nowhere.
    #[error("the environment variable {name} overrides nothing: {why}")]
    BadVariable {
        /// The variable.
        name: String,
        /// Why.
        why: String,
    },
    /// The text is no TOML.
    #[error("not TOML in {place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// A key that no one reads.
    #[error("unknown key `{key}` in {place}{}", nearest_clause(nearest.as_deref()))]
    UnknownKey {
        /// The key with its section.
        key: String,
        /// Where.
        place: Place,
        /// The nearest key that is known there, with its section.
        nearest: Option<String>,
        /// All keys that are known there.
        known: &'static [&'static str],
    },
    /// A key with a value of the wrong type.
    #[error("`{key}` in {place} must be {expected}, found {found}")]
    WrongType {
        /// The key with its section.
        key: String,
        /// Where.
        place: Place,
        /// What it must be.
        expected: String,
        /// The type that was found.
        found: String,
    },
    /// A value that is none of the choices.
    #[error("`{key}` in {place} must be one of {}{}", known.join(", "), nearest_clause(nearest.as_deref()))]
    UnknownChoice {
        /// The key with its section.
        key: String,
        /// Where.
        place: Place,
        /// The nearest choice.
        nearest: Option<String>,
        /// All choices.
        known: &'static [&'static str],
    },
    /// A value of the right type that is not acceptable.
    #[error("`{key}` in {place}: {message}")]
    Invalid {
        /// The key with its section.
        key: String,
        /// Where.
        place: Place,
        /// Why.
        message: String,
    },
    /// A required key is not there.
    #[error("`{key}` is missing in {place}")]
    Missing {
        /// The key with its section.
        key: String,
        /// The section's place.
        place: Place,
    },
}

impl ConfigError {
    /// What to do next, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("give a readable TOML file with --config FILE".into()),
            Self::TooLarge { .. } | Self::NotUtf8 { .. } => Some("is this really the configuration file?".into()),
            Self::VariableNotUnicode { name } | Self::BadVariable { name, .. } => {
                Some(format!("unset {name}, or name a key as PREFIX_SECTION__KEY"))
            }
            Self::Syntax { .. } => Some("a text needs quotes in TOML; a section is written [name]".into()),
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownKey { known: [], .. } => None,
            Self::UnknownKey { known, .. } => Some(format!("known keys here: {}", known.join(", "))),
            Self::UnknownChoice { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::Missing { key, .. } => Some(format!("add `{key}`, or set it in the environment")),
            Self::UnknownChoice { .. } | Self::WrongType { .. } | Self::Invalid { .. } => None,
        }
    }

    /// The same error with the file that its place is in.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        if let Some(Place::Text { file } | Place::Line { file, .. }) = self.place_mut() {
            *file = Some(path.into());
        }
        self
    }

    fn place_mut(&mut self) -> Option<&mut Place> {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::WrongType { place, .. }
            | Self::UnknownChoice { place, .. }
            | Self::Invalid { place, .. }
            | Self::Missing { place, .. } => Some(place),
            _ => None,
        }
    }
}

fn nearest_clause(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; the nearest known one is `{nearest}`")).unwrap_or_default()
}
