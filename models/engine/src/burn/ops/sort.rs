//! Operators that order or select elements by their values.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
