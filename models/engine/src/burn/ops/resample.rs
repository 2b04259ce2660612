//! Operators that sample an image at other places.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
