//! A value that may be replaced under a running process, such as keys that are changed.
//!
//! Whoever works with it takes a snapshot per batch or request with [`Live::now`] and keeps to it, so that one
//! piece of work never mixes the old value and the new one.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A shared value. Clones see the same one.
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    /// A value that may be replaced later.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value as it is now.
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value for all who ask from now on.
    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_a_replacement_and_snapshots_do_not() {
        let live = Live::new(1);
        let (other, snapshot) = (live.clone(), live.now());
        live.replace(2);
        assert_eq!((*snapshot, *other.now()), (1, 2));
    }
}
