//! Memory of intermediate results that later ones take over. The system's allocator gives large blocks back to the kernel
//! when they are freed, and a new one costs a page fault for every four kilobytes.

use std::sync::{Mutex, PoisonError};

/// Smaller ones are the allocator's business.
const SMALLEST: usize = 1 << 14;

/// As many are kept; in a network of one path two are in use.
const KEPT: usize = 4;

/// One is not used for less than this part of it.
const WASTE: usize = 4;

/// Buffers that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<f32>>>);

impl Buffers {
    /// A buffer of `len` elements, whatever they are.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let mut buffer = if len < SMALLEST { None } else { self.find(len) }.unwrap_or_default();
        if buffer.is_empty() {
            return vec![0.0; len];
        }
        buffer.resize(len, 0.0);
        buffer
    }

    fn find(&self, len: usize) -> Option<Vec<f32>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<f32>| (len..=len.saturating_mul(WASTE)).contains(&buffer.capacity());
        let best = (0..kept.len()).filter(|&index| fits(&kept[index])).min_by_key(|&index| kept[index].capacity())?;
        Some(kept.swap_remove(best))
    }

    /// Gives a buffer up to whoever needs one next; of those that are kept the smallest makes room.
    pub(crate) fn give(&self, buffer: Vec<f32>) {
        if buffer.len() < SMALLEST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(buffer);
        if kept.len() > KEPT
            && let Some(smallest) = (0..kept.len()).min_by_key(|&index| kept[index].capacity())
        {
            kept.swap_remove(smallest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_up_serves_one_of_its_size_again() {
        let buffers = Buffers::default();
        let given = vec![1.0; SMALLEST * 2];
        let at = given.as_ptr();
        buffers.give(given);
        let small = buffers.take(SMALLEST / 2);
        assert_ne!(small.as_ptr(), at, "it is far too large for that");
        let taken = buffers.take(SMALLEST);
        assert_eq!((taken.as_ptr(), taken.len()), (at, SMALLEST));
        let other = buffers.take(SMALLEST);
        assert_ne!(other.as_ptr(), at, "it is in use");
    }

    #[test]
    fn few_are_kept_and_those_are_the_largest() {
        let buffers = Buffers::default();
        (1..=2 * KEPT).for_each(|size| buffers.give(vec![0.0; SMALLEST * size]));
        let kept = buffers.0.lock().unwrap();
        assert_eq!(kept.len(), KEPT);
        assert!(kept.iter().all(|buffer| buffer.len() > SMALLEST * KEPT));
    }
}
