//! Operators that pick and place elements by index.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
