//! One simulated device and one rotation: nonce, signed request, polls, the answer checked and opened, the password
//! «set», the signed report and its answer. The protocol is docs/PROTOCOL.md; nothing of it is left out but the
//! account.

mod trust;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use bytes::Bytes;
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, InstallId, LaneId, MessageMark, RequestId, VersionId};
use keyturn_domain::label::Label;
use keyturn_domain::lane::{Hints, LaneKey};
use keyturn_schemas::answers::NonceAnswer;
use keyturn_schemas::certificate::{DeviceAlgorithm, DeviceCertificate};
use keyturn_schemas::claims::{
    Account, Common, Deployment, Labels, Report, ReportOp, Request, RequestOp, State, Version1,
};
use keyturn_schemas::message::{Claims, complete, signing_input};
use keyturn_schemas::nonce::Nonce;
use keyturn_schemas::problem::Problem;
use keyturn_schemas::result::{Answer, Code};
use keyturn_schemas::seal::{self, Binding, EphemeralSecret};

use crate::fleet::Identity;
use crate::record::{Ended, Stage, Timeline};
use crate::scenario::Behaviour;
use crate::wire::{Call, Connection, Reply, Wire};

pub use trust::Trust;

/// How often a message is signed anew because a newer one of its lane was known.
const ANEW: u32 = 3;

/// When a device comes back that was not told when.
const AGAIN: Duration = Duration::from_secs(1);

/// What all devices of a run share.
pub struct World {
    /// The server.
    pub wire: Wire,
    /// Its name.
    pub deployment: Deployment,
    /// The keys that may sign answers.
    pub trust: Trust,
    /// How devices behave.
    pub behaviour: Behaviour,
}

/// A device.
pub struct Device {
    identity: Identity,
    lane: LaneId,
    install: InstallId,
    /// The version its account has.
    cur: Option<VersionId>,
    /// Versions it was given, in order.
    pub given: Vec<VersionId>,
    /// Whether its last report was answered with «recorded».
    pub reported: bool,
    /// Whether a request may have been taken whose answer never came.
    asked: bool,
    ready: Option<Signed>,
}

/// A signed request, and what opens its answer.
struct Signed {
    text: String,
    rid: RequestId,
    secret: EphemeralSecret,
}

impl Device {
    /// A device that has never rotated.
    pub fn new(identity: Identity) -> Result<Self> {
        // The same one each time: another would be another lane.
        let install = InstallId(RequestId::of(&identity.id.to_string()).0);
        let key = DeviceCertificate::from_der(&identity.certificate)?.key_hash();
        let lane = LaneKey { device: identity.id, account: account().id, install, key }.id();
        Ok(Self {
            identity,
            lane,
            install,
            cur: None,
            given: Vec::new(),
            reported: true,
            asked: false,
            ready: None,
        })
    }

    /// As the directory numbers it.
    pub fn id(&self) -> DeviceId {
        self.identity.id
    }

    /// The version its account has.
    pub fn version(&self) -> Option<VersionId> {
        self.cur
    }

    /// Whether every request that may have been taken was answered.
    pub fn settled(&self) -> bool {
        !self.asked
    }

    /// Signs the next request before its time, with a nonce of its own.
    pub async fn presign(&mut self, world: &World, connection: &mut Option<Connection>) -> Result<()> {
        // Before the clock runs.
        let mut unmeasured = Timeline::start(SystemClock.monotonic());
        let nonce = fetch_nonce(world, connection, &mut unmeasured).await?;
        self.ready = Some(self.sign_request(world, nonce)?);
        Ok(())
    }

    /// One rotation. Failures are an end like others, so that none is left out of the count.
    pub async fn rotate(&mut self, world: &World, timeline: &mut Timeline) -> Ended {
        let mut connection = None;
        let ended = self.attempt(world, &mut connection, timeline).await;
        if let Some(connection) = connection {
            world.wire.give_back(connection);
        }
        ended.unwrap_or_else(|error| Ended::Failed(format!("{error:#}")))
    }

    async fn attempt(
        &mut self,
        world: &World,
        connection: &mut Option<Connection>,
        timeline: &mut Timeline,
    ) -> Result<Ended> {
        *connection = Some(world.wire.connect().await?);
        timeline.reached(Stage::Connect);
        for _ in 0..ANEW {
            let signed = if let Some(signed) = self.ready.take() {
                signed
            } else {
                let nonce = fetch_nonce(world, connection, timeline).await?;
                timeline.reached(Stage::Nonce);
                self.sign_request(world, nonce)?
            };
            timeline.reached(Stage::Sign);
            self.asked = true;
            let sent = submit(world, connection, "/v1/requests", &signed.text, timeline).await?;
            let Submitted::Taken { ticket, nonce } = sent else { return Ok(sent.ended()) };
            timeline.reached(Stage::Submit);
            tokio::time::sleep(world.behaviour.poll_after.0).await;
            let (text, newer) = poll(world, connection, &ticket, timeline).await?;
            timeline.reached(Stage::Answer);
            let Some(text) = text else { return Ok(Ended::Refused) };
            let answer = self.check(world, &text, signed.rid)?;
            self.asked = false;
            let version = match answer.code {
                Code::Rotate => open(&answer, &signed)?,
                Code::Stale | Code::Expired => continue,
                other => return Ok(Ended::Answered(other)),
            };
            timeline.signed(signed_after(timeline, answer.issued_at));
            tokio::time::sleep(world.behaviour.apply.0).await;
            (self.cur, self.reported) = (Some(version), false);
            if self.given.last() != Some(&version) {
                self.given.push(version);
            }
            timeline.reached(Stage::Open);
            timeline.at_hand();
            return self.report(world, connection, newer.or(nonce), timeline).await;
        }
        Ok(Ended::Answered(Code::Stale))
    }

    /// Reports the version in use, until the server has recorded it.
    async fn report(
        &mut self,
        world: &World,
        connection: &mut Option<Connection>,
        mut nonce: Option<Nonce>,
        timeline: &mut Timeline,
    ) -> Result<Ended> {
        for _ in 0..ANEW {
            let fresh = match nonce.take() {
                Some(nonce) => nonce,
                None => fetch_nonce(world, connection, timeline).await?,
            };
            let report = Report {
                common: self.common(world, fresh),
                op: ReportOp::Applied,
                state: self.state(),
                policy: Hints::default(),
            };
            let text = self.sign(&Claims::Report(report))?;
            let rid = RequestId::of(&text);
            timeline.reached(Stage::SignReport);
            let sent = submit(world, connection, "/v1/reports", &text, timeline).await?;
            let Submitted::Taken { ticket, .. } = sent else { return Ok(Ended::Unreported) };
            timeline.reached(Stage::Report);
            let (text, _) = poll(world, connection, &ticket, timeline).await?;
            timeline.reached(Stage::Confirm);
            let Some(text) = text else { return Ok(Ended::Unreported) };
            match self.check(world, &text, rid)?.code {
                Code::Recorded => {
                    self.reported = true;
                    return Ok(Ended::Confirmed);
                }
                Code::Stale => {}
                _ => return Ok(Ended::Unreported),
            }
        }
        Ok(Ended::Unreported)
    }

    /// An answer that is signed by the rotator and made for this message and lane.
    fn check(&self, world: &World, text: &str, rid: RequestId) -> Result<Answer> {
        let answer = world.trust.verify(text)?;
        let own = answer.deployment == world.deployment && answer.rid == rid && answer.lane == self.lane;
        if !own {
            bail!("an answer was signed for another message than the one in hand");
        }
        Ok(answer)
    }

    fn sign_request(&self, world: &World, nonce: Nonce) -> Result<Signed> {
        let (secret, epk) = seal::generate()?;
        let request = Request {
            common: self.common(world, nonce),
            op: RequestOp::Rotate,
            epk,
            wait_s: u32::try_from(world.behaviour.patience.0.as_secs()).unwrap_or(u32::MAX).max(1),
            state: self.state(),
            policy: Hints::default(),
            reason: Label::default(),
        };
        let text = self.sign(&Claims::Request(request))?;
        Ok(Signed { rid: RequestId::of(&text), text, secret })
    }

    fn sign(&self, claims: &Claims) -> Result<String> {
        let input = signing_input(claims, DeviceAlgorithm::RS256, &self.identity.certificate)?;
        let key = &self.identity.key.0;
        let mut signature = vec![0; key.public_modulus_len()];
        let signed = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature);
        signed.ok().context("the device's key does not sign")?;
        Ok(complete(input, &signature))
    }

    fn common(&self, world: &World, nonce: Nonce) -> Common {
        Common {
            v: Version1,
            aud: world.deployment.clone(),
            jti: MessageMark((&SystemEntropy as &dyn Entropy).bytes()),
            iat: SystemClock.now().0 / 1000,
            nonce,
            device_id: self.identity.id,
            labels: Labels::default(),
            account: account(),
            install_id: self.install,
        }
    }

    fn state(&self) -> State {
        State {
            cur: self.cur,
            in_doubt: BTreeSet::new(),
            refused: BTreeSet::new(),
            password_age: None,
            account_missing: false,
        }
    }
}

#[expect(clippy::expect_used, reason = "constants that parse")]
fn account() -> Account {
    Account {
        id: "uid-1000".parse().expect("an account id"),
        name: Label::parse("localadmin").expect("a label"),
    }
}

/// What became of a message.
enum Submitted {
    Taken { ticket: String, nonce: Option<Nonce> },
    TurnedAway(u16),
    Rejected(String),
}

impl Submitted {
    fn ended(self) -> Ended {
        match self {
            Self::TurnedAway(status) => Ended::TurnedAway(status),
            Self::Rejected(code) => Ended::Rejected(code),
            Self::Taken { .. } => Ended::Unreported,
        }
    }
}

async fn fetch_nonce(
    world: &World,
    connection: &mut Option<Connection>,
    timeline: &mut Timeline,
) -> Result<Nonce> {
    let call = Call { path: "/v1/nonce", message: None, wait: Duration::ZERO };
    let reply = exchange(world, connection, call, timeline).await?;
    if reply.status != 200 {
        bail!("no nonce: {}", status(&reply));
    }
    Ok(serde_json::from_slice::<NonceAnswer>(&reply.body)?.nonce)
}

#[derive(serde::Deserialize)]
struct Accepted {
    ticket: String,
}

/// Posts a message. Who is turned away comes back as often as the scenario says, with the same bytes.
async fn submit(
    world: &World,
    connection: &mut Option<Connection>,
    path: &str,
    text: &str,
    timeline: &mut Timeline,
) -> Result<Submitted> {
    let (mut returns, bytes) = (0, Bytes::from(text.to_owned()));
    loop {
        let call = Call { path, message: Some(bytes.clone()), wait: Duration::ZERO };
        let reply = exchange(world, connection, call, timeline).await?;
        noted(&reply, timeline);
        match reply.status {
            202 => {
                let Accepted { ticket } = serde_json::from_slice(&reply.body)?;
                return Ok(Submitted::Taken { ticket, nonce: nonce_of(&reply) });
            }
            429 | 503 if returns < world.behaviour.returns => {
                returns += 1;
                tokio::time::sleep(reply.retry_after.unwrap_or(AGAIN)).await;
            }
            turned @ (429 | 503) => return Ok(Submitted::TurnedAway(turned)),
            _ => return Ok(Submitted::Rejected(status(&reply))),
        }
    }
}

/// Polls until there is an answer. None is a refusal without a signature.
async fn poll(
    world: &World,
    connection: &mut Option<Connection>,
    ticket: &str,
    timeline: &mut Timeline,
) -> Result<(Option<String>, Option<Nonce>)> {
    let path = format!("/v1/requests/{ticket}");
    let started = SystemClock.monotonic();
    loop {
        let call = Call { path: &path, message: None, wait: world.behaviour.long_poll.0 };
        let reply = exchange(world, connection, call, timeline).await?;
        let nonce = nonce_of(&reply);
        noted(&reply, timeline);
        match reply.status {
            200 => return Ok((Some(String::from_utf8(reply.body.into())?), nonce)),
            403 => return Ok((None, nonce)),
            202 | 429 | 503 => {}
            _ => bail!("a poll was answered with {}", status(&reply)),
        }
        let waited = SystemClock.monotonic().saturating_sub(started);
        if waited >= world.behaviour.patience.0 {
            bail!("an acknowledged message has no answer after {} s", waited.as_secs());
        }
        tokio::time::sleep(reply.retry_after.unwrap_or_default().max(world.behaviour.poll_every.0)).await;
    }
}

fn noted(reply: &Reply, timeline: &mut Timeline) {
    if matches!(reply.status, 429 | 503) {
        timeline.turned_away(reply.status, reply.retry_after.is_some());
    }
}

/// Every answer brings a nonce and the key set. Where the connection breaks it is not known whether the server took the
/// call; it is made again with the same bytes, as the protocol has it, as often as the scenario has devices come back.
async fn exchange(
    world: &World,
    connection: &mut Option<Connection>,
    call: Call<'_>,
    timeline: &mut Timeline,
) -> Result<Reply> {
    let mut returns = 0;
    let reply = loop {
        match world.wire.exchange(connection, &call).await {
            Ok(reply) => break reply,
            Err(_) if returns < world.behaviour.returns => {
                returns += 1;
                timeline.broke();
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    };
    if let Some(text) = &reply.key_set {
        world.trust.offer(text, &world.deployment)?;
    }
    Ok(reply)
}

fn nonce_of(reply: &Reply) -> Option<Nonce> {
    reply.nonce.as_ref()?.parse().ok()
}

/// The version in an answer. It is proved to open; the password is dropped.
fn open(answer: &Answer, signed: &Signed) -> Result<VersionId> {
    let enclosed = answer.enclosed.as_ref().context("an answer to set a password encloses none")?;
    let binding = Binding { rid: answer.rid, lane: answer.lane, version: enclosed.version };
    let sealed = enclosed.sealed().context("what is enclosed cannot be read")?;
    drop(signed.secret.open(&sealed, &binding)?);
    Ok(enclosed.version)
}

fn signed_after(timeline: &Timeline, issued: keyturn_domain::time::UnixMillis) -> Duration {
    issued.since(timeline.submitted())
}

fn status(reply: &Reply) -> String {
    match serde_json::from_slice::<Problem>(&reply.body) {
        Ok(problem) => format!("{} {}", reply.status, problem.code),
        Err(_) => reply.status.to_string(),
    }
}
