//! Weights in the layout that a kernel wants: packed once where they are constant, else for each run.

use std::ops::Deref;
use std::sync::OnceLock;

use crate::error::Result;

/// What a kernel packed of constant weights; empty where they are no constants.
#[derive(Debug)]
pub struct Prepacked<T>(OnceLock<T>);

/// Packed weights for one run.
pub enum Weights<'a, T> {
    Kept(&'a T),
    /// Of this run alone.
    Fresh(T),
}

impl<T> Default for Prepacked<T> {
    fn default() -> Self {
        Prepacked(OnceLock::new())
    }
}

impl<T> Prepacked<T> {
    /// Keeps what was packed of constants.
    pub fn keep(&self, packed: T) {
        // A second call would bring the same constants.
        let _ = self.0.set(packed);
    }

    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }

    /// What was kept, else what `pack` makes of the run's weights.
    pub fn get_or_pack(&self, pack: impl FnOnce() -> Result<T>) -> Result<Weights<'_, T>> {
        self.get().map_or_else(|| pack().map(Weights::Fresh), |kept| Ok(Weights::Kept(kept)))
    }
}

impl<T> Deref for Weights<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Weights::Kept(kept) => kept,
            Weights::Fresh(fresh) => fresh,
        }
    }
}
