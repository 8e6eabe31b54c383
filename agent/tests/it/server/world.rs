//! What the server knows, decides and says.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::response::Response;
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{RequestId, VersionId};
use keyturn_domain::lane::{Heard, HeardKind, Lane, Order, Reply, Reported, RotationPolicy, decide, minted};
use keyturn_domain::password::{Password, PasswordPolicy};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::claims::{self, EphemeralKey, Version1};
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::message::{Claims, SignedMessage, VerifiedMessage};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::seal::{self, Binding};
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::ticket::TicketKeys;

use super::{DEPLOYMENT, answer, device_id, problem};

pub(crate) struct Keys {
    pub(crate) root: SigningKey,
    pub(crate) signing: SigningKey,
    nonce: NonceKeys,
    ticket: TicketKeys,
}

/// What goes wrong with one post, the first of the queue with the next post.
#[derive(Debug)]
pub(crate) enum PostTrick {
    /// It is taken, and the answer is lost.
    LoseAnswer,
    /// It is not taken: the nonce is stale, and here is another.
    StaleNonce,
    /// The server is busy for this many seconds.
    Busy(u64),
    /// Anything else.
    Answer(u16, &'static str, &'static str),
}

/// What goes wrong with one poll.
pub(crate) enum PollTrick {
    /// Not yet.
    Pending,
    /// The server does not know the ticket.
    Gone,
    /// An unsigned refusal.
    Forbidden,
    /// Whatever this makes of the genuine answer.
    Forge(Forgery),
}

pub(crate) type Forgery = fn(&Genuine<'_>) -> Response;

/// The genuine answer, for those who forge another.
pub(crate) struct Genuine<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) answer: Answer,
    pub(crate) text: String,
    pub(crate) password: String,
    pub(crate) epk: Option<EphemeralKey>,
}

/// What the server remembers.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) vault: BTreeMap<VersionId, String>,
    pub(crate) posts: Vec<String>,
    pub(crate) claims: Vec<Claims>,
    pub(crate) on_post: VecDeque<PostTrick>,
    pub(crate) on_poll: VecDeque<PollTrick>,
    /// Plays the last poll trick for ever.
    pub(crate) sticky: bool,
    answers: BTreeMap<RequestId, (Answer, Option<EphemeralKey>)>,
    pub(crate) tickets: Vec<String>,
    /// Calls that are not part of the device API.
    pub(crate) strays: Vec<String>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let ring = |byte| KeyRing::new([(KeyId(1), [byte; 32])]);
        Self {
            root: SigningKey::from_seed("root-1", &[1; 32]).unwrap(),
            signing: SigningKey::from_seed("signing-1", &[2; 32]).unwrap(),
            nonce: NonceKeys::new(ring(3)),
            ticket: TicketKeys::new(ring(4)),
        }
    }

    pub(crate) fn nonce(&self) -> String {
        self.nonce.issue(SystemClock.now(), &SystemEntropy).unwrap().to_string()
    }

    pub(crate) fn key_set(&self) -> String {
        let keys = vec![self.signing.public()];
        let deployment = DEPLOYMENT.parse().unwrap();
        // The same text with every answer, as a real key set is.
        let hour = 3_600_000;
        let not_after = UnixMillis((SystemClock.now().0 / hour + 2) * hour);
        key_set::sign(&KeySet { v: Version1, deployment, serial: 1, keys, not_after }, &self.root).unwrap()
    }
}

impl World {
    pub(crate) fn post(&mut self, keys: &Keys, text: String) -> (Response, bool) {
        self.posts.push(text.clone());
        let trick = self.on_post.pop_front();
        match trick {
            Some(PostTrick::StaleNonce) => return (problem(401, "KT-0108"), false),
            Some(PostTrick::Busy(seconds)) => {
                let mut busy = problem(503, "KT-0103");
                busy.headers_mut().insert("retry-after", seconds.into());
                return (busy, false);
            }
            Some(PostTrick::Answer(status, kind, body)) => return (answer(status, kind, body), false),
            Some(PostTrick::LoseAnswer) | None => {}
        }
        let message = SignedMessage::parse(text).unwrap().verify().unwrap();
        let ticket = self.take(keys, &message);
        let accepted = answer(202, "application/json", format!(r#"{{"ticket":"{ticket}"}}"#));
        (accepted, trick.is_some())
    }

    /// What ingress, validator and rotator do, without the queues between them.
    fn take(&mut self, keys: &Keys, message: &VerifiedMessage) -> String {
        let (rid, claims) = (message.message().rid(), message.message().claims().clone());
        let ticket = keys.ticket.ticket(rid).unwrap();
        self.tickets.push(ticket.clone());
        if self.answers.contains_key(&rid) {
            return ticket;
        }
        let common = claims.common();
        let now = SystemClock.now();
        assert!(keys.nonce.is_fresh(&common.nonce, now, Duration::from_mins(5)), "a fresh nonce of ours");
        assert_eq!(common.aud.as_str(), DEPLOYMENT);
        assert_eq!(
            (common.device_id, message.message().certificate().common_name()),
            (device_id(), Some(device_id()))
        );
        assert!(self.claims.iter().all(|seen| seen.common().jti != common.jti), "a mark is used once");
        assert!(self.claims.iter().all(|seen| seen.common().nonce != common.nonce), "a nonce is used once");
        let answer = self.decide(message, now);
        self.claims.push(claims);
        self.answers.insert(rid, answer);
        ticket
    }

    fn decide(&mut self, message: &VerifiedMessage, now: UnixMillis) -> (Answer, Option<EphemeralKey>) {
        let policy = RotationPolicy::default();
        let heard = self.hear(message, now);
        let decision = decide(&self.lanes, None, &heard, &policy, now);
        let known = self.lanes.iter().position(|lane| lane.key == heard.key);
        let epk = match message.message().claims() {
            Claims::Request(request) => Some(request.epk),
            _ => None,
        };
        let (mut code, mut retry_at, mut version) = (Code::Recorded, None, None);
        let mut lane = decision.lane;
        match decision.reply {
            Reply::Mint(reason) => {
                let fresh = VersionId::draw(&SystemEntropy);
                let password = PasswordPolicy::default().generate(&SystemEntropy);
                self.vault.insert(fresh, password.expose().to_owned());
                minted(lane.as_mut().unwrap(), fresh, reason, &policy, now);
                (code, version) = (Code::Rotate, Some(fresh));
            }
            Reply::Reseal(outstanding) => (code, version) = (Code::Rotate, Some(outstanding)),
            Reply::NotDue(at) => (code, retry_at) = (Code::NotDue, Some(at)),
            Reply::Held(at) => (code, retry_at) = (Code::Held, Some(at)),
            Reply::Recorded => {}
            Reply::Stale => code = Code::Stale,
            Reply::Expired => code = Code::Expired,
            Reply::Refused | Reply::Revalidate => code = Code::Refused,
        }
        match (lane, known) {
            (Some(lane), Some(at)) => self.lanes[at] = lane,
            (Some(lane), None) => self.lanes.push(lane),
            (None, _) => {}
        }
        let rid = message.message().rid();
        (self.say(rid, &heard, code, retry_at, version.zip(epk)), epk)
    }

    fn hear(&self, message: &VerifiedMessage, now: UnixMillis) -> Heard {
        let claims = message.message().claims();
        let (kind, hints) = match claims {
            Claims::Request(request) => (HeardKind::Request { wait: request.wait() }, request.policy),
            Claims::Report(report) => (HeardKind::Report, report.policy),
            Claims::Event(_) => panic!("no event was expected"),
        };
        let state = claims.state().unwrap().clone();
        let named = state.cur.iter().chain(&state.in_doubt).chain(&state.refused);
        let issued = named.filter(|version| self.vault.contains_key(version)).copied().collect();
        let claims::State { cur, in_doubt, refused, account_missing, .. } = state;
        Heard {
            key: message.lane(),
            kind,
            order: Order { received: now, nonce: claims.common().nonce.issued() },
            state: Reported { cur, in_doubt, refused, account_missing, issued, found: [].into() },
            hints,
            about: claims.common().about(),
            groups: None,
            directory_answered: now,
        }
    }

    fn say(
        &self,
        rid: RequestId,
        heard: &Heard,
        code: Code,
        retry_at: Option<UnixMillis>,
        enclosed: Option<(VersionId, EphemeralKey)>,
    ) -> Answer {
        let lane = heard.key.id();
        let enclose = |(version, epk): (VersionId, EphemeralKey)| {
            let password = Password::new(self.vault[&version].clone());
            let sealed = seal::seal(&password, &Binding { rid, lane, version }, &epk).unwrap();
            Enclosed::new(version, epk.thumbprint(), &sealed)
        };
        Answer {
            v: Version1,
            deployment: DEPLOYMENT.parse().unwrap(),
            rid,
            lane,
            code,
            retry_at,
            issued_at: SystemClock.now(),
            enclosed: enclosed.map(enclose),
        }
    }

    pub(crate) fn poll(&mut self, keys: &Keys, ticket: &str) -> Response {
        let rid = keys.ticket.open(ticket).expect("a ticket of ours");
        let (genuine, epk) = self.answers[&rid].clone();
        let text = result::sign(&genuine, &keys.signing).unwrap();
        let trick = self.on_poll.pop_front();
        let response = match &trick {
            None => answer(200, "application/jose", text),
            Some(PollTrick::Pending) => answer(202, "application/json", "{}"),
            Some(PollTrick::Gone) => problem(404, "KT-0110"),
            Some(PollTrick::Forbidden) => problem(403, "KT-0111"),
            Some(PollTrick::Forge(forge)) => {
                let password =
                    genuine.enclosed.as_ref().map(|enclosed| self.vault[&enclosed.version].clone());
                forge(&Genuine { keys, answer: genuine, text, password: password.unwrap_or_default(), epk })
            }
        };
        if self.sticky && self.on_poll.is_empty() {
            self.on_poll.extend(trick);
        }
        response
    }

    /// Asks for a rotation, as an operator would.
    pub(crate) fn force(&mut self) {
        for lane in &mut self.lanes {
            lane.forced = Some(UnixMillis(1));
        }
    }
}
