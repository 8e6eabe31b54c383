//! One batch: judge, load, decide, vault, sign, commit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, EventId};
use keyturn_domain::lane::{self, RotationPolicy};
use keyturn_domain::password::PasswordPolicy;
use keyturn_pipeline::decode::decode;
use keyturn_pipeline::handler::{Failure, Handled, Handler};
use keyturn_ports::ledger::{Commit, Committed, Happening, Issued, Ledger, LedgerReader, NewEvent, Stored};
use keyturn_ports::queue::{Leased, NewMessage, QueueName};
use keyturn_ports::vault::Vault;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::envelope::Found;
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::stamp::{Freshness, StampKeys};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::answer::{Said, Speaker};
use crate::judge::{Judged, judge};
use crate::plan::{self, Act, Answering, Plan, plan};
use crate::versions::{Need, Ready, Versions};

/// What a rotator goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The deployment that answers.
    pub deployment: Deployment,
    /// When to rotate.
    pub rotation: RotationPolicy,
    /// What passwords are made of.
    pub passwords: PasswordPolicy,
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
    pub signing: Arc<SigningKey>,
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

struct Inner {
    settings: Settings,
    keys: Keys,
    ports: Ports,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// How often a message is decided anew because its lane changed meanwhile, before it waits for its next delivery.
const ROUNDS: usize = 8;

/// A message with its effect and answer worked out.
struct Draft {
    at: usize,
    act: Act,
    ready: Option<Ready>,
}

impl Rotator {
    /// A rotator.
    pub fn new(
        settings: Settings,
        keys: Keys,
        ports: Ports,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self(Arc::new(Inner { settings, keys, ports, clock, entropy }))
    }
}

#[async_trait]
impl Handler for Rotator {
    /// Messages of one device depend on each other, so the batch is worked off in waves in which every device
    /// occurs once. A wave is one load, one round of vault work and one commit, however many devices it has.
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let mut handled: Vec<Option<Handled>> = Vec::with_capacity(batch.len());
        let mut open = Vec::new();
        for (at, judged) in self.judge_all(batch).await.into_iter().enumerate() {
            match judged {
                Ok(judged) => {
                    open.push((at, judged));
                    handled.push(None);
                }
                Err(done) => handled.push(Some(done)),
            }
        }
        let mut rounds = batch.len() + ROUNDS;
        while !open.is_empty() && rounds > 0 {
            rounds -= 1;
            let (wave, rest) = first_of_each_device(open);
            let (done, again) = self.0.work(wave).await;
            for (at, one) in done {
                if let Some(slot) = handled.get_mut(at) {
                    *slot = Some(one);
                }
            }
            open = again.into_iter().chain(rest).collect();
        }
        let contended =
            || Handled::failed(Failure::Engine("the lane is being changed by other workers".to_owned()));
        handled.into_iter().map(|one| one.unwrap_or_else(contended)).collect()
    }
}

impl Rotator {
    /// Reads and verifies a batch off the async threads.
    async fn judge_all(&self, batch: &[Leased]) -> Vec<Result<Judged, Handled>> {
        let (inner, owned) = (Arc::clone(&self.0), batch.to_vec());
        let judging = tokio::task::spawn_blocking(move || {
            let now = inner.clock.now();
            let Settings { freshness, finding_max_age, .. } = inner.settings;
            let one = |leased: &Leased| {
                judge(decode::<Found>(leased)?, &inner.keys, freshness, finding_max_age, now)
            };
            owned.iter().map(one).collect()
        });
        judging.await.unwrap_or_else(|error| {
            let failed =
                || Err(Handled::failed(Failure::Message(format!("reading the batch failed: {error}"))));
            batch.iter().map(|_| failed()).collect()
        })
    }
}

type Wave = Vec<(usize, Judged)>;

/// The first message of every device, and the rest.
fn first_of_each_device(open: Wave) -> (Wave, Wave) {
    let mut seen: BTreeSet<DeviceId> = BTreeSet::new();
    open.into_iter().partition(|(_, judged)| seen.insert(judged.lane.device))
}

impl Inner {
    /// Works off a wave. Returns what is done, and what has to be decided again.
    async fn work(&self, wave: Wave) -> (Vec<(usize, Handled)>, Wave) {
        let loaded =
            match self.ports.ledger.load(wave.iter().map(|(_, judged)| plan::wanted(judged)).collect()).await
            {
                Ok(loaded) => loaded,
                Err(error) => {
                    let failed = || Handled::failed(Failure::from(&error));
                    return (wave.iter().map(|(at, _)| (*at, failed())).collect(), Vec::new());
                }
            };
        let now = self.clock.now();
        let mut done = Vec::with_capacity(wave.len());
        let mut acts = Vec::with_capacity(wave.len());
        for (at, ((slot, judged), loaded)) in wave.iter().zip(&loaded).enumerate() {
            match plan(judged, loaded, &self.settings.rotation, now) {
                Plan::Nothing => done.push((*slot, Handled::done())),
                Plan::Revalidate => done.push((*slot, revalidate(judged))),
                Plan::Disown => done.push((*slot, self.disown(judged))),
                Plan::Act(act) => acts.push((at, *act)),
            }
        }
        let (drafts, failed) = self.draft(&wave, acts).await;
        done.extend(failed);
        let again = self.commit(&wave, drafts, &mut done).await;
        let again = wave.into_iter().filter(|(slot, _)| again.contains(slot)).collect();
        (done, again)
    }

    fn disown(&self, judged: &Judged) -> Handled {
        let (rid, device) = (judged.message.message().rid(), judged.lane.device);
        warn!(request.id = %rid, device.id = %device, code = plan::disowned_code(),
            "a message carries the mark of another message of the same key");
        Handled::forward(QueueName::Outcomes, self.say(judged, plan::disowned(), None))
    }

    /// Works out every act's answer; those that need a version and cannot have one fail alone.
    async fn draft(&self, wave: &Wave, acts: Vec<(usize, Act)>) -> (Vec<Draft>, Vec<(usize, Handled)>) {
        let needs = acts.iter().filter_map(|(at, act)| need(&wave.get(*at)?.1, act)).collect();
        let versions = Versions {
            vault: &*self.ports.vault,
            ledger: &*self.ports.reader,
            passwords: &self.settings.passwords,
            entropy: &*self.entropy,
        };
        let mut provided = versions.provide(needs).await.into_iter();
        let (mut drafts, mut failed) = (Vec::with_capacity(acts.len()), Vec::new());
        for (at, act) in acts {
            let Some((slot, judged)) = wave.get(at) else { continue };
            let lost = || Err(Failure::Engine("the vault work lost count of its answers".to_owned()));
            let ready = need(judged, &act).map(|_| provided.next().unwrap_or_else(lost)).transpose();
            match ready {
                Ok(ready) => drafts.push(Draft { at, act, ready }),
                Err(failure) => failed.push((*slot, Handled::failed(failure))),
            }
        }
        (drafts, failed)
    }

    /// Commits drafts. Returns the slots of those whose lane had changed.
    async fn commit(
        &self,
        wave: &Wave,
        drafts: Vec<Draft>,
        done: &mut Vec<(usize, Handled)>,
    ) -> BTreeSet<usize> {
        let mut again = BTreeSet::new();
        let drafts: Vec<(&usize, &Judged, Commit)> = drafts
            .into_iter()
            .filter_map(|draft| {
                wave.get(draft.at).map(|(slot, judged)| (slot, judged, self.effect(judged, draft)))
            })
            .collect();
        if drafts.is_empty() {
            return again;
        }
        let commits = drafts.iter().map(|(_, _, commit)| commit.clone()).collect();
        match self.ports.ledger.commit(commits).await {
            Err(error) => {
                done.extend(
                    drafts.iter().map(|(slot, _, _)| (**slot, Handled::failed(Failure::from(&error)))),
                );
            }
            Ok(committed) => {
                for ((slot, judged, commit), committed) in drafts.into_iter().zip(committed) {
                    match committed {
                        Committed::Conflict => {
                            again.insert(*slot);
                            continue;
                        }
                        Committed::Applied => tell(judged, &commit),
                        Committed::Duplicate => {}
                    }
                    done.push((*slot, Handled::done()));
                }
            }
        }
        again
    }

    /// Everything one message does, as one transaction.
    fn effect(&self, judged: &Judged, draft: Draft) -> Commit {
        let Draft { mut act, ready, .. } = draft;
        let now = self.clock.now();
        let wanted = plan::wanted(judged);
        let answer = self.say(judged, act.reply, ready.as_ref());
        let issued = ready.and_then(|ready| ready.issued);
        if let (Answering::Fresh(reason), Some(Stored { value, .. }), Some(Issued { version, .. })) =
            (act.reply, act.lane.as_mut(), issued.as_ref())
        {
            let event = lane::minted(value, *version, reason, &self.settings.rotation, now);
            act.happenings.push(Happening::Lane { lane: wanted.lane, event });
        }
        let event = |(index, what): (usize, Happening)| NewEvent {
            id: event_id(&wanted.request.0, index),
            at: now,
            device: wanted.device,
            request: wanted.request,
            what,
        };
        Commit {
            request: wanted.request,
            mark: wanted.mark,
            lane: act.lane,
            issued,
            events: act.happenings.into_iter().enumerate().map(event).collect(),
            outbox: vec![(QueueName::Outcomes, answer)],
        }
    }

    fn say(&self, judged: &Judged, answering: Answering, ready: Option<&Ready>) -> NewMessage {
        let now = self.clock.now();
        let speaker = Speaker {
            deployment: &self.settings.deployment,
            key: &self.keys.signing,
            now,
            expires: now.plus(self.settings.result_ttl),
        };
        let said = match (answering, ready) {
            (_, Some(ready)) => Said::Version(ready),
            (Answering::Word(code, retry_at), None) => Said::Word(code, retry_at),
            (Answering::Unsigned | Answering::Outstanding(_) | Answering::Fresh(_), None) => Said::Unsigned,
        };
        speaker.say(judged, &said)
    }
}

/// The version an act needs, if it needs one.
fn need(judged: &Judged, act: &Act) -> Option<Need> {
    let outstanding = match act.reply {
        Answering::Outstanding(version) => Some(version),
        Answering::Fresh(_) => None,
        Answering::Unsigned | Answering::Word(..) => return None,
    };
    let (request, lane) = (plan::request(judged)?, act.lane.as_ref()?);
    Some(Need {
        rid: judged.message.message().rid(),
        lane: lane.value.clone(),
        epk: request.epk,
        outstanding,
    })
}

/// Back to the validator: the same message and stamp, with a fresh look at the directory to come.
fn revalidate(judged: &Judged) -> Handled {
    let envelope = judged.envelope.clone().back_to_validator();
    let (request, device) = (envelope.id, envelope.subject);
    info!(request.id = %request, device.id = %device, "what the directory said is too old, asking again");
    Handled::forward(QueueName::Requests, NewMessage { request, device, body: envelope.to_json() })
}

fn event_id(rid: &[u8; 32], index: usize) -> EventId {
    let digest: [u8; 32] =
        Sha256::new().chain_update(rid).chain_update(index.to_be_bytes()).finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(digest.split_at(16).0);
    EventId(id)
}

fn tell(judged: &Judged, commit: &Commit) {
    let (rid, device, trace) = (commit.request, judged.lane.device, judged.trace.trace_id());
    for event in &commit.events {
        match &event.what {
            Happening::Lane { event: lane::LaneEvent::PasswordMinted { version, reason }, .. } => {
                metrics::counter!("keyturn_rotations_total", "outcome" => "minted").increment(1);
                info!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace, reason = ?reason,
                    "a version is minted");
            }
            Happening::Lane { event: lane::LaneEvent::PasswordConfirmed { version }, .. } => {
                metrics::counter!("keyturn_rotations_total", "outcome" => "confirmed").increment(1);
                info!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace,
                    "the device confirmed its version");
            }
            Happening::Lane { event: lane::LaneEvent::PasswordRefused { version }, .. } => {
                metrics::counter!("keyturn_rotations_total", "outcome" => "refused").increment(1);
                warn!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace,
                    "the device refused a version");
            }
            Happening::Lane { event: lane::LaneEvent::AlarmRaised { alarm }, .. } => {
                metrics::counter!("keyturn_alarms_total").increment(1);
                warn!(request.id = %rid, device.id = %device, trace.id = trace, alarm = ?alarm, "alarm");
            }
            Happening::Lane { event: lane::LaneEvent::LaneOpened, .. } => {
                info!(request.id = %rid, device.id = %device, trace.id = trace, "a lane is opened");
            }
            Happening::RequestRefused { code } => {
                warn!(request.id = %rid, device.id = %device, trace.id = trace, code, "the message is refused");
            }
            Happening::Client { result, .. } => {
                info!(request.id = %rid, device.id = %device, trace.id = trace, result, "the device sent an event");
            }
        }
    }
}
