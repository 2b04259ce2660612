//! How much memory the weights of all loaded models may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The budget; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Arc<AtomicU64>,
}

/// A model's part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    bytes: u64,
}

/// A model that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {needs} bytes beside the {used} of the models that are loaded, and engine.max_models_bytes is {limit}; unload \
     a model or allow more"
)]
pub struct OverBudget {
    /// What the model needs.
    pub needs: u64,
    /// What is taken.
    pub used: u64,
    /// What there is.
    pub limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: Arc::default() }
    }

    /// What the loaded models take.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Reservation, OverBudget> {
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Reservation { budget: self.clone(), bytes }),
            Err(used) => Err(OverBudget { needs: bytes, used, limit: self.limit }),
        }
    }
}

impl Reservation {
    /// Makes the reservation one of `bytes`; a smaller one always works.
    pub(crate) fn resize(self, bytes: u64) -> Result<Self, OverBudget> {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            let budget = self.budget.clone();
            drop(self);
            return budget.reserve(bytes);
        };
        let mut rest = self.budget.reserve(more)?;
        let mut own = self;
        own.bytes += std::mem::take(&mut rest.bytes);
        Ok(own)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back_and_what_does_not_fit_is_refused() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err(), OverBudget { needs: 41, used: 60, limit: 100 });
        assert!(budget.reserve(u64::MAX).is_err());
        let first = first.resize(80).unwrap();
        assert_eq!(budget.used(), 80);
        let first = first.resize(30).unwrap();
        assert_eq!(budget.used(), 30);
        assert!(first.resize(101).is_err());
        assert_eq!(budget.used(), 0);
    }
}
