//! How many connections each client holds open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use keyturn_domain::network::Client;

/// Counts the connections of each client. Nobody who has none is remembered.
#[derive(Clone)]
pub(super) struct Shares {
    held: Arc<Mutex<HashMap<Client, usize>>>,
    most: usize,
}

/// One connection's part of its client's share, given back when it is dropped.
pub(super) struct Share {
    held: Arc<Mutex<HashMap<Client, usize>>>,
    client: Client,
}

impl Shares {
    /// Each client may hold `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// Leave for one more connection. None if the client has as many as it may.
    pub(super) fn take(&self, client: Client) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { held: Arc::clone(&self.held), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back_and_then_forgotten() {
        let client = |last: u8| Client::at([192, 0, 2, last].into());
        let shares = Shares::new(2);
        let first = shares.take(client(1)).unwrap();
        let _second = shares.take(client(1)).unwrap();
        assert!(shares.take(client(1)).is_none());
        assert!(shares.take(client(2)).is_some(), "another client has its own");
        drop(first);
        assert!(shares.take(client(1)).is_some());
        assert_eq!(shares.held.lock().unwrap().len(), 1);
    }
}
