//! The rotator: what it goes by, what it holds, and a batch on its way through it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::live::Live;
use keyturn_domain::policies::Policies;
use keyturn_pipeline::aside::aside;
use keyturn_pipeline::decode::decode;
use keyturn_pipeline::handler::{Failure, Handled, Handler};
use keyturn_pipeline::signing::ResultKey;
use keyturn_ports::ledger::{Ledger, LedgerReader};
use keyturn_ports::queue::Leased;
use keyturn_ports::vault::Vault;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::envelope::Found;
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::stamp::{Freshness, StampKeys};

use crate::judge::{Judged, judge};
use crate::wave::Case;

/// What a rotator goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The deployment that answers.
    pub deployment: Deployment,
    /// When to rotate, and what passwords are made of, device by device.
    pub policies: Policies,
    /// The limits of freshness.
    pub freshness: Freshness,
    /// A finding older than this is looked at again.
    pub finding_max_age: Duration,
    /// How long a result is kept for its device.
    pub result_ttl: Duration,
}

/// The keys a rotator holds.
#[derive(Clone, Debug)]
pub struct Keys {
    /// To check nonces.
    pub nonces: NonceKeys,
    /// To check stamps.
    pub stamps: StampKeys,
    /// To check findings.
    pub findings: FindingKeys,
    /// To sign answers.
    pub signing: ResultKey,
}

/// What a rotator works on.
#[derive(Clone)]
pub struct Ports {
    /// The ledger, to write.
    pub ledger: Arc<dyn Ledger>,
    /// The ledger, to read.
    pub reader: Arc<dyn LedgerReader>,
    /// The vault.
    pub vault: Arc<dyn Vault>,
}

/// The rotator's handler.
#[derive(Clone)]
pub struct Rotator(Arc<Inner>);

/// What all of the rotator's steps share.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) keys: Live<Keys>,
    pub(crate) ports: Ports,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// How often a message is decided anew because its lane changed meanwhile, before it waits for its next delivery.
const ROUNDS: usize = 8;

impl Rotator {
    /// A rotator.
    pub fn new(
        settings: Settings,
        keys: impl Into<Live<Keys>>,
        ports: Ports,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self(Arc::new(Inner { settings, keys: keys.into(), ports, clock, entropy }))
    }

    /// Reads and verifies a batch.
    async fn judge_all(&self, batch: &[Leased]) -> Vec<Result<Judged, Handled>> {
        let (inner, owned) = (Arc::clone(&self.0), batch.to_vec());
        let judging = aside(owned.len(), move || {
            let (now, keys) = (inner.clock.now(), inner.keys.now());
            let Settings { freshness, finding_max_age, .. } = inner.settings;
            let one =
                |leased: &Leased| judge(decode::<Found>(leased)?, &keys, freshness, finding_max_age, now);
            owned.iter().map(one).collect()
        });
        judging.await.unwrap_or_else(|error| {
            let failed =
                || Err(Handled::failed(Failure::Message(format!("reading the batch failed: {error}"))));
            batch.iter().map(|_| failed()).collect()
        })
    }
}

#[async_trait]
impl Handler for Rotator {
    /// Messages of one device depend on each other, so the batch is worked off in waves in which every device
    /// occurs once. A wave is one load, one round of vault work and one commit, however many devices it has.
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let contended =
            || Handled::failed(Failure::Engine("the lane is being changed by other workers".to_owned()));
        let mut handled = Vec::with_capacity(batch.len());
        let mut open = Vec::new();
        for (slot, judged) in self.judge_all(batch).await.into_iter().enumerate() {
            // What is still open when the rounds are over is left with this answer.
            handled.push(judged.map_or_else(
                |done| done,
                |judged| {
                    open.push(Case { slot, judged });
                    contended()
                },
            ));
        }
        for _ in 0..batch.len() + ROUNDS {
            let (wave, rest) = first_of_each_device(open);
            let (done, again) = self.0.work(wave).await;
            for (slot, one) in done {
                if let Some(answer) = handled.get_mut(slot) {
                    *answer = one;
                }
            }
            open = again.into_iter().chain(rest).collect();
            if open.is_empty() {
                break;
            }
        }
        handled
    }
}

/// The first message of every device, and the rest.
fn first_of_each_device(open: Vec<Case>) -> (Vec<Case>, Vec<Case>) {
    let mut seen: BTreeSet<DeviceId> = BTreeSet::new();
    open.into_iter().partition(|case| seen.insert(case.judged.lane.device))
}
