//! Attention and what stands around it.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
