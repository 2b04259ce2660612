//! Sequences and optionals.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
