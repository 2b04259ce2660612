//! Names that are safe wherever they are used: in a URL's path, in a topic, as a file on any system.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{MAX_FILE_NAME_BYTES, MAX_FOLDERS};

/// The longest name or version of a model.
const MAX_NAME_BYTES: usize = 64;
/// Characters of a refused name that an error repeats.
const SHOWN: usize = 80;
/// Names that Windows keeps for devices, whatever their extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not what a URL's path holds as it is.
    #[error("{what} {text:?} is not 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")]
    Model {
        /// A model's name or version.
        what: &'static str,
        /// What was given, shortened.
        text: String,
    },
    /// Not a plain relative path.
    #[error("{text:?} cannot be the name of a file in a bundle: {why}")]
    File {
        /// What was given, shortened.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok($name(text.to_owned()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok($name(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(
    /// What a model is called where requests are made: a segment of a URL's path that needs no escaping.
    ModelName,
    |text| check_model("model name", text)
);
text_name!(
    /// A model's version, a segment of a URL's path, too.
    ModelVersion,
    |text| check_model("model version", text)
);
text_name!(
    /// A file's name inside a bundle: a relative path with `/`, the same file on every system.
    FileName,
    check_file
);

impl ModelName {
    /// A name made of any text: what a name may not hold becomes `-`.
    pub fn from_text(text: &str) -> Self {
        let safe: String = text.chars().map(|c| if is_name_character(c) { c } else { '-' }).collect();
        let start = safe.find(|c: char| c.is_ascii_alphanumeric());
        let name = start.map_or("model", |start| &safe[start..]);
        ModelName(name[..name.len().min(MAX_NAME_BYTES)].to_owned())
    }
}

fn check_model(what: &'static str, text: &str) -> Result<(), NameError> {
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && text.len() <= MAX_NAME_BYTES && text.chars().all(is_name_character) {
        return Ok(());
    }
    Err(NameError::Model { what, text: shortened(text) })
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn check_file(text: &str) -> Result<(), NameError> {
    let refuse = |why| Err(NameError::File { text: shortened(text), why });
    if text.is_empty() || text.len() > MAX_FILE_NAME_BYTES {
        return refuse("it must have 1 to 200 bytes");
    }
    if text.split('/').count() > MAX_FOLDERS + 1 {
        return refuse("it lies in more than 4 folders");
    }
    for part in text.split('/') {
        if part.is_empty() || part.starts_with('.') || part.ends_with('.') {
            return refuse("no part of it may be empty or begin or end with a dot");
        }
        if !part.chars().all(is_name_character) {
            return refuse("it may have A-Z, a-z, 0-9, '.', '_', '-', and '/' between folders");
        }
        if is_device(part) {
            return refuse("Windows keeps this name for a device");
        }
    }
    Ok(())
}

fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    let numbered =
        |prefix| stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()));
    DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_with_a_way_out_of_its_folder_is_refused() {
        let bad = [
            "",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            "C:\\a",
            "\\\\host\\a",
            "a\0b",
            "a b",
            "ä",
            ".hidden",
            "a/.hidden",
            "dot.",
            "con",
            "NUL.txt",
            "a/com1",
            "Lpt9.onnx",
            "a/b/c/d/e/f",
            "a:stream",
        ];
        for name in bad {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
        assert!(FileName::parse(&"a".repeat(201)).is_err());
    }

    #[test]
    fn plain_relative_names_are_taken() {
        for name in ["model.onnx", "golden/0/x.npy", "a-b_c.1/tokenizer.json", "console.txt", "com10", "a/b/c/d/e"] {
            assert_eq!(FileName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_model_name_needs_no_escaping_in_a_path() {
        for name in ["digits", "ResNet-50_v1.5", "0"] {
            assert_eq!(ModelName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "a/b", "a b", "..", "-a", "a%2f", "ä", &"a".repeat(65)] {
            assert!(ModelName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn any_text_gives_a_name() {
        for (text, name) in [("ResNet 50/v1", "ResNet-50-v1"), ("..weird", "weird"), ("äöü", "model"), ("", "model")]
        {
            assert_eq!(ModelName::from_text(text).as_str(), name);
            ModelName::parse(name).unwrap();
        }
        ModelName::parse(ModelName::from_text(&"x".repeat(100)).as_str()).unwrap();
    }
}
