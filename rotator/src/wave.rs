//! One wave: load, decide, vault, sign, commit, for messages of different devices.

use std::collections::BTreeSet;

use keyturn_domain::policies::{Policies, Policy, Who};
use keyturn_pipeline::handler::{Failure, Handled};
use keyturn_pipeline::signing::ResultKey;
use keyturn_ports::ledger::{Commit, Committed, Loaded};
use keyturn_ports::queue::{NewMessage, QueueName};
use tracing::{info, warn};

use crate::answer::{Spoken, sign_all};
use crate::effect::Draft;
use crate::handler::Inner;
use crate::judge::Judged;
use crate::plan::{self, Act, Answering, MARK_REUSED, Plan, plan};
use crate::tell::tell;
use crate::versions::{Need, Ready, Versions};

/// A judged message, and its place in the batch.
pub(crate) struct Case {
    pub(crate) slot: usize,
    pub(crate) judged: Judged,
}

/// What is done, by its place in the batch.
type Done = Vec<(usize, Handled)>;

impl Inner {
    /// Works off a wave. Returns what is done, and what has to be decided again because its lane changed.
    pub(crate) async fn work(&self, wave: Vec<Case>) -> (Done, Vec<Case>) {
        let wanted = wave.iter().map(|case| plan::wanted(&case.judged)).collect();
        let loaded = match self.ports.ledger.load(wanted).await {
            Ok(loaded) => loaded,
            Err(error) => return (fail_all(&wave, &error), Vec::new()),
        };
        let (now, keys) = (self.clock.now(), self.keys.now());
        let mut disowned = Vec::new();
        let (mut done, mut acts) = (Vec::with_capacity(wave.len()), Vec::with_capacity(wave.len()));
        for (case, loaded) in wave.into_iter().zip(&loaded) {
            let lost = match self.lost(&case.judged, loaded).await {
                Ok(lost) => lost,
                Err(failure) => {
                    done.push((case.slot, Handled::failed(failure)));
                    continue;
                }
            };
            let policy = policy(&self.settings.policies, &case.judged, loaded);
            match plan(&case.judged, loaded, lost, &policy.rotation, now) {
                Plan::Nothing => done.push((case.slot, Handled::done())),
                Plan::Revalidate => done.push((case.slot, revalidate(&case.judged))),
                Plan::Disown => disowned.push(case),
                Plan::Act(act) => acts.push((case, *act)),
            }
        }
        self.disown(disowned, &keys.signing, &mut done).await;
        let drafts = self.draft(acts, &keys.signing, &mut done).await;
        let drafts = sign(drafts, &keys.signing, &mut done).await;
        let again = self.commit(drafts, &mut done).await;
        (done, again)
    }

    async fn disown(&self, cases: Vec<Case>, key: &ResultKey, done: &mut Done) {
        let forward = |message| Handled::forward(QueueName::Outcomes, message);
        let (mut slots, mut unsigned) = (Vec::new(), Vec::new());
        for Case { slot, judged } in cases {
            let (rid, device) = (judged.message.message().rid(), judged.lane.device);
            metrics::counter!("keyturn_refusals_total", "code" => MARK_REUSED).increment(1);
            warn!(request.id = %rid, device.id = %device, code = MARK_REUSED,
                "a message carries the mark of another message of the same key");
            match self.say(&judged, Answering::REFUSED, None, key) {
                Spoken::Whole(message) => done.push((slot, forward(message))),
                Spoken::Unsigned(one) => {
                    slots.push(slot);
                    unsigned.push(*one);
                }
            }
        }
        if let (ResultKey::Elsewhere(key), false) = (key, unsigned.is_empty()) {
            let signed = sign_all(key, unsigned).await;
            let handled = signed.into_iter().map(|one| one.map_or_else(Handled::failed, forward));
            done.extend(slots.into_iter().zip(handled));
        }
    }

    /// Works out every act's effect and answer; those that need a version and cannot have one fail alone.
    async fn draft(&self, acts: Vec<(Case, Act)>, key: &ResultKey, done: &mut Done) -> Vec<(Case, Draft)> {
        let needs = acts.iter().filter_map(|(case, act)| need(&case.judged, act)).collect();
        let mut provided = self.versions().provide(needs).await.into_iter();
        let lost = || Err(Failure::Engine("the vault work lost count of its answers".to_owned()));
        let mut drafts = Vec::with_capacity(acts.len());
        for (case, act) in acts {
            let ready: Result<Option<Ready>, Failure> =
                need(&case.judged, &act).map(|_| provided.next().unwrap_or_else(lost)).transpose();
            match ready {
                Ok(ready) => {
                    let effect = self.effect(&case.judged, act, ready, key);
                    drafts.push((case, effect));
                }
                Err(failure) => done.push((case.slot, Handled::failed(failure))),
            }
        }
        drafts
    }

    fn versions(&self) -> Versions<'_> {
        Versions {
            vault: &*self.ports.vault,
            ledger: &*self.ports.reader,
            policies: &self.settings.policies,
            entropy: &*self.entropy,
        }
    }

    /// Commits drafts. Returns those whose lane had changed.
    async fn commit(&self, drafts: Vec<(Case, Commit)>, done: &mut Done) -> Vec<Case> {
        let mut again = Vec::new();
        if drafts.is_empty() {
            return again;
        }
        let (cases, commits): (Vec<Case>, Vec<Commit>) = drafts.into_iter().unzip();
        let committed = match self.ports.ledger.commit(commits.clone()).await {
            Ok(committed) => committed,
            Err(error) => {
                done.extend(fail_all(&cases, &error));
                return again;
            }
        };
        for ((case, commit), committed) in cases.into_iter().zip(&commits).zip(committed) {
            match committed {
                Committed::Conflict => again.push(case),
                Committed::Duplicate => done.push((case.slot, Handled::done())),
                Committed::Applied => {
                    let rotation = tell(&case.judged, commit);
                    let sent = commit.outbox.iter().map(|(queue, _)| *queue);
                    done.push((case.slot, Handled::having_sent(sent, rotation)));
                }
            }
        }
        again
    }
}

/// Completes the answers that a key elsewhere signs; those that it does not sign now fail alone. What the vault has for
/// them by now is found when they come again.
async fn sign(drafts: Vec<(Case, Draft)>, key: &ResultKey, done: &mut Done) -> Vec<(Case, Commit)> {
    let ResultKey::Elsewhere(key) = key else {
        return drafts.into_iter().map(|(case, draft)| (case, draft.commit)).collect();
    };
    let (mut ready, mut waiting, mut unsigned) = (Vec::with_capacity(drafts.len()), Vec::new(), Vec::new());
    for (case, draft) in drafts {
        match draft.unsigned {
            None => ready.push((case, draft.commit)),
            Some(one) => {
                waiting.push((case, draft.commit));
                unsigned.push(*one);
            }
        }
    }
    if waiting.is_empty() {
        return ready;
    }
    for ((case, mut commit), signed) in waiting.into_iter().zip(sign_all(key, unsigned).await) {
        match signed {
            Ok(message) => {
                commit.outbox.insert(0, (QueueName::Outcomes, message));
                ready.push((case, commit));
            }
            Err(failure) => done.push((case.slot, Handled::failed(failure))),
        }
    }
    ready
}

/// The policy of a message's device: by what it says now, and by its groups as the directory told just now or, if it
/// did not, told when it last vouched for the device.
fn policy<'a>(policies: &'a Policies, judged: &Judged, loaded: &Loaded) -> &'a Policy {
    let own = || loaded.lanes.iter().find(|stored| stored.value.key == judged.lane);
    let groups = judged.groups.as_ref().or_else(|| own().map(|stored| &stored.value.groups));
    let (none, about) = (BTreeSet::new(), judged.message.message().claims().common().about());
    policies.choose(Who { device: judged.lane.device, groups: groups.unwrap_or(&none), about: &about })
}

fn fail_all(cases: &[Case], error: &keyturn_ports::Error) -> Done {
    cases.iter().map(|case| (case.slot, Handled::failed(Failure::from(error)))).collect()
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
