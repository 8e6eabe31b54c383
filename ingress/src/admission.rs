//! Who is let in, and how much of each: the buckets of clients, tickets and device keys.
//!
//! Everything here goes by the address of the peer and, once its signature has passed, by the key that signed.
//! Never by the device that a message claims to be of: then anybody could use up the share of any device.
//!
//! There are two lanes. A message signed by a key that the ledger has a lane for counts against that key alone,
//! so nothing that others do can keep it out. All other keys, which cost nothing to make, share one bucket.

mod buckets;
mod client;
mod known;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use keyturn_domain::admission::AdmissionPolicy;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::{KeyHash, RequestId};
use keyturn_domain::network::Client;
use keyturn_ports::ledger::LedgerReader;
use tokio::sync::Semaphore;
use tracing::warn;

use self::buckets::Buckets;
use self::known::KnownKeys;
use crate::refusal::Refusal;

/// What a request is for, as far as its bucket depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A poll. Polls have a bucket of their own, so that a flood of them keeps no message out.
    Poll,
    /// Anything else.
    Other,
}

/// The buckets, and who holds long-polls open.
pub(crate) struct Admission {
    policy: AdmissionPolicy,
    clock: Arc<dyn Clock>,
    addresses: Buckets<Client>,
    polls: Buckets<Client>,
    tickets: Buckets<RequestId>,
    keys: Buckets<KeyHash>,
    unknown: Buckets<()>,
    unknown_addresses: Buckets<Client>,
    known: KnownKeys,
    waiting: Mutex<HashMap<Client, usize>>,
    paused: Semaphore,
}

impl Admission {
    pub(crate) fn new(policy: AdmissionPolicy, reader: Arc<dyn LedgerReader>, clock: Arc<dyn Clock>) -> Self {
        let tracked = policy.tracked;
        Self {
            addresses: Buckets::new(policy.address, tracked),
            polls: Buckets::new(policy.poll, tracked),
            tickets: Buckets::new(policy.ticket, tracked),
            keys: Buckets::new(policy.key, tracked),
            unknown: Buckets::new(policy.unknown, 1),
            unknown_addresses: Buckets::new(policy.unknown_address, tracked),
            known: KnownKeys::new(reader, tracked),
            waiting: Mutex::default(),
            paused: Semaphore::new(policy.paused),
            policy,
            clock,
        }
    }

    /// Who a request comes from.
    pub(crate) fn client(&self, request: &Request) -> Client {
        client::of(request, &self.policy.trusted_proxies)
    }

    /// Before anything of a request is parsed.
    pub(crate) fn by_address(&self, client: Client, class: Class) -> Result<(), Refusal> {
        let buckets = match class {
            Class::Poll => &self.polls,
            Class::Other => &self.addresses,
        };
        buckets.take(client, self.clock.monotonic()).map_err(Refusal::TooMany)
    }

    /// A poll of a ticket that is ours.
    pub(crate) fn by_ticket(&self, rid: RequestId) -> Result<(), Refusal> {
        self.tickets.take(rid, self.clock.monotonic()).map_err(Refusal::TooMany)
    }

    /// A message whose signature by this key holds.
    pub(crate) async fn by_key(&self, client: Client, key: KeyHash) -> Result<(), Refusal> {
        let known = self.known.knows(key, self.clock.monotonic()).await.map_err(|error| {
            warn!(error = %error, "a device key could not be looked up");
            Refusal::Unavailable
        })?;
        let now = self.clock.monotonic();
        let (lane, taken) = if known {
            ("known", self.keys.take(key, now))
        } else {
            // The client's own share first, so that one client's flood does not empty what all strangers share.
            let own = self.unknown_addresses.take(client, now);
            ("unknown", own.and_then(|()| self.unknown.take((), now)))
        };
        let outcome = if taken.is_ok() { "admitted" } else { "throttled" };
        metrics::counter!("keyturn_admission_total", "lane" => lane, "outcome" => outcome).increment(1);
        taken.map_err(Refusal::TooMany)
    }

    /// Leave for one more long-poll of this client, until it is dropped.
    pub(crate) fn wait(&self, client: Client) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let held = waiting.entry(client).or_default();
        if *held >= self.policy.polls_per_address {
            return None;
        }
        *held += 1;
        Some(Waiting { all: &self.waiting, client })
    }

    /// Holds back an answer to somebody who sends too much. False if as many are held back already as may be.
    pub(crate) async fn pause(&self) -> bool {
        if self.policy.pause.is_zero() {
            return true;
        }
        let Ok(_held) = self.paused.try_acquire() else { return false };
        tokio::time::sleep(self.policy.pause).await;
        true
    }

    /// How long a client is told to wait at least if the trouble is ours.
    pub(crate) fn retry_after(&self) -> Duration {
        self.policy.retry_after
    }

    /// Over how much more time those who are turned away are spread.
    pub(crate) fn retry_spread(&self) -> Duration {
        self.policy.retry_spread
    }
}

/// A long-poll that is held open.
pub(crate) struct Waiting<'a> {
    all: &'a Mutex<HashMap<Client, usize>>,
    client: Client,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.client) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                all.remove(&self.client);
            }
        }
    }
}
