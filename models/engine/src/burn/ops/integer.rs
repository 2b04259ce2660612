//! Operators on the bits of integers, and exact integer arithmetic.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
