//! Fourier transforms, windows and filter banks.

use super::Builder;

pub(super) fn builder(_op: &str) -> Option<Builder> {
    None
}
