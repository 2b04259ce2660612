//! Configuration of the Hedge programs: TOML, overridden by the environment.
//!
//! A program's configuration is a serde type `T`; this crate turns a file and the environment into it and says
//! precisely what is wrong when it cannot. It knows no key of any program.
//!
//! # Environment
//!
//! `HEDGE_SECTION__KEY=value` overrides `key` of `[section]`; a double underscore separates the parts, which are
//! lowercased. `HEDGE_MODELS__0__PATH` is `path` of the first `[[models]]`; an index may name an existing element or
//! the one after the last. Variables of the prefix without a double underscore are not configuration and are ignored.
//!
//! A value is read as what the key wants: a text needs no quotes (and stays a text when it looks like a number), a
//! number or a boolean is written as in TOML, a list or a table as an inline TOML value (`["a", "b"]`).
//!
//! # Invariants
//!
//! - An unknown key is an error that names the key, the place and the nearest known key, whether or not the type says
//!   `deny_unknown_fields`. (A type with `flatten` opts out: serde hides its keys.)
//! - No error of this crate repeats the text of a value, so a mistyped secret does not reach a log. (A type that
//!   refuses a value with a message of its own decides what the message says.)
//! - Nothing over [`MAX_FILE_BYTES`] is read.

mod de;
mod error;
mod exit;
mod secret;
mod tree;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

pub use self::{
    error::{ConfigError, Place},
    exit::{EXIT_FAILED, EXIT_USAGE, Failure},
    secret::Secret,
};

/// The prefix of the environment variables that override a file of Hedge's own programs.
pub const ENV_PREFIX: &str = "HEDGE";

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads `T` from the TOML file at `path`, overridden by the process's environment variables `{env_prefix}_…__…`.
///
/// # Errors
///
/// [`ConfigError`], which names the file, the key and the line (or the variable) that is at fault.
pub fn load<T: DeserializeOwned>(path: &Path, env_prefix: &str) -> Result<T, ConfigError> {
    let text = read(path)?;
    let variables = environment(env_prefix)?;
    build(&text, env_prefix, variables.into_iter()).map_err(|error| error.in_file(path))
}

/// Reads `T` from a TOML text, overridden by `env`: pairs of name and value, of which those that start with
/// [`ENV_PREFIX`] count.
///
/// # Errors
///
/// [`ConfigError`], as [`load`], without a file name.
pub fn from_str<T: DeserializeOwned>(
    toml: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    build(toml, ENV_PREFIX, env)
}

fn build<T: DeserializeOwned>(
    toml: &str,
    env_prefix: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut root = tree::parse(toml)?;
    tree::overlay(&mut root, env_prefix, env)?;
    de::deserialize(root)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: PathBuf::from(path), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.into(), limit: MAX_FILE_BYTES });
    }
    String::from_utf8(bytes)
        .map_err(|error| ConfigError::NotUtf8 { path: path.into(), offset: error.utf8_error().valid_up_to() })
}

fn environment(env_prefix: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        // A name that is no Unicode cannot be one of ours.
        let Ok(name) = name.into_string() else { continue };
        if !tree::is_override(env_prefix, &name) {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(ConfigError::VariableNotUnicode { name });
        };
        variables.push((name, value));
    }
    Ok(variables)
}
