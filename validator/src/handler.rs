//! One batch: decode, verify, look up, check, seal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::GroupId;
use keyturn_domain::join_type::JoinTypes;
use keyturn_domain::live::Live;
use keyturn_pipeline::aside::aside;
use keyturn_pipeline::decode::decode;
use keyturn_pipeline::handler::{Failure, Handled, Handler};
use keyturn_ports::directory::{Answer, Directory};
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, QueueName};
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::envelope::{Envelope, Found, Stamped};
use keyturn_schemas::finding::{Facts, FindingKeys};
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::stamp::{Freshness, StampKeys};
use tracing::{info, warn};

use crate::checks::{Rules, first_failure};

/// What a validator goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The audience of messages.
    pub deployment: Deployment,
    /// Which devices may rotate.
    pub join_types: JoinTypes,
    /// The limits of freshness.
    pub freshness: Freshness,
    /// The groups of the directory that policies go by; of no others is anything said.
    pub groups: BTreeSet<GroupId>,
}

/// The keys a validator holds.
#[derive(Clone, Debug)]
pub struct Keys {
    /// To check nonces.
    pub nonces: NonceKeys,
    /// To check stamps.
    pub stamps: StampKeys,
    /// To seal findings.
    pub findings: FindingKeys,
}

/// The validator's handler.
pub struct Validator {
    settings: Settings,
    keys: Live<Keys>,
    directory: Arc<dyn Directory>,
    clock: Arc<dyn Clock>,
}

/// A message read from the queue.
struct Opened {
    envelope: Envelope<Stamped>,
    message: SignedMessage,
    signature_holds: bool,
}

impl Validator {
    /// A validator that asks `directory`.
    pub fn new(
        settings: Settings,
        keys: impl Into<Live<Keys>>,
        directory: Arc<dyn Directory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { settings, keys: keys.into(), directory, clock }
    }

    /// The finding about an opened message, on its way to the rotator.
    fn find(&self, opened: Opened, answer: &Answer, keys: &Keys) -> Handled {
        let Opened { envelope, message, signature_holds } = opened;
        let now = self.clock.now();
        let rules = Rules {
            deployment: &self.settings.deployment,
            join_types: self.settings.join_types,
            freshness: self.settings.freshness,
            nonces: &keys.nonces,
            stamps: &keys.stamps,
        };
        let stamp = envelope.data.stamp;
        let failed = first_failure(&message, signature_holds, &stamp, &answer.records, &rules, now);
        let facts = Facts {
            rid: message.rid(),
            key_hash: message.certificate().key_hash(),
            enabled: matches!(answer.records.as_slice(), [record] if record.account_enabled == Some(true)),
            failed,
            directory_ms: answer.answered,
            groups: match answer.records.as_slice() {
                [record] => record.group_ids().filter(|id| self.settings.groups.contains(id)).collect(),
                _ => BTreeSet::new(),
            },
        };
        let (rid, device, trace) = (message.rid(), message.claims().common().device_id, envelope.traceparent);
        match failed {
            None => {
                info!(request.id = %rid, device.id = %device, trace.id = trace.trace_id(), "device is trusted");
            }
            Some(check) if matches!(message.claims(), Claims::Report(_)) => {
                info!(request.id = %rid, device.id = %device, trace.id = trace.trace_id(), check = ?check,
                    "the sender of a report fails a check; the report counts all the same");
            }
            Some(check) => {
                metrics::counter!("keyturn_refusals_total", "code" => check.code()).increment(1);
                warn!(request.id = %rid, device.id = %device, trace.id = trace.trace_id(), code = check.code(),
                    check = ?check, "device is refused");
            }
        }
        let Some(finding) = keys.findings.seal(facts) else {
            return Handled::failed(Failure::Engine("the finding key ring is empty".to_owned()));
        };
        let found = Found { jws: message.into_text(), stamp, finding };
        let body = Envelope::new(rid, device, "validator", now, trace, found).to_json();
        Handled::forward(QueueName::Findings, NewMessage { request: rid, device, body })
    }
}

#[async_trait]
impl Handler for Validator {
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let keys = self.keys.now();
        let opened = open_all(batch).await;
        let claimed = |opened: &Opened| opened.message.claims().common().device_id;
        let devices = opened.iter().flatten().map(claimed).collect();
        let asked = self.clock.monotonic();
        let answers = self.directory.look_up(devices).await;
        count(&answers, self.clock.monotonic().saturating_sub(asked));
        let mut answers = answers.into_iter();
        let find = |opened: Result<Opened, Handled>| match opened {
            Err(handled) => handled,
            Ok(opened) => match answers.next() {
                Some(Ok(answer)) => self.find(opened, &answer, &keys),
                Some(Err(error)) => Handled::failed(Failure::from(&error)),
                None => {
                    Handled::failed(Failure::Engine("the directory lost count of its answers".to_owned()))
                }
            },
        };
        opened.into_iter().map(find).collect()
    }
}

/// Counts the devices looked up, and how long the directory took for all of them.
fn count(answers: &[Result<Answer, keyturn_ports::Error>], took: Duration) {
    if answers.is_empty() {
        return;
    }
    let answered = answers.iter().filter(|answer| answer.is_ok()).count();
    for (outcome, devices) in [("answered", answered), ("failed", answers.len() - answered)] {
        metrics::counter!("keyturn_directory_lookups_total", "outcome" => outcome)
            .increment(u64::try_from(devices).unwrap_or(u64::MAX));
    }
    metrics::histogram!("keyturn_directory_seconds").record(took.as_secs_f64());
}

/// Reads and verifies a batch.
async fn open_all(batch: &[Leased]) -> Vec<Result<Opened, Handled>> {
    let owned: Vec<Leased> = batch.to_vec();
    let opening = aside(owned.len(), move || owned.iter().map(open).collect());
    opening.await.unwrap_or_else(|error| {
        let failed = || Err(Handled::failed(Failure::Message(format!("reading the batch failed: {error}"))));
        batch.iter().map(|_| failed()).collect()
    })
}

fn open(leased: &Leased) -> Result<Opened, Handled> {
    let mut envelope = decode::<Stamped>(leased)?;
    // The ingress takes nothing that fails here, so somebody else wrote this.
    let message = SignedMessage::parse(std::mem::take(&mut envelope.data.jws))
        .map_err(|error| Handled::dead(DeadReason::Undecodable, format!("the device message: {error}")))?;
    if message.claims().common().device_id != envelope.subject || message.rid() != envelope.id {
        return Err(Handled::dead(DeadReason::Untrusted, "the envelope names another message or device"));
    }
    let signature_holds = message.clone().verify().is_ok();
    Ok(Opened { envelope, message, signature_holds })
}
