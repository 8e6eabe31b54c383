//! One queue of the service, or its dead letters, in our words: over a connection that is made anew when it broke.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::types::messaging::{Data, Message};
use fe2o3_amqp::types::primitives::{Array, OrderedMap, Value};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use serde_amqp::primitives::Binary;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::PAGE;
use super::SessionSettings;
use super::failure::Wrong;
use super::home::Home;
use super::inbox::Buffer;
use super::line::{INBOX, Line};
use super::message::{LockToken, Received, encoded};
use super::sessions::{Grip, Sessions, Taker};
use crate::failure::{Failure, Refused};

/// The largest message of the Standard tier (learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas). The
/// Premium tier takes more, which no envelope needs.
const LARGEST: usize = 256 * 1024;

/// What becomes of a locked message.
pub(super) enum Disposition {
    Completed,
    Abandoned(Vec<(&'static str, Value)>),
    Suspended { reason: &'static str, description: String, properties: Vec<(&'static str, Value)> },
}

/// What is done over a connection, as often as it takes.
enum Operation {
    Send(Box<Message<Data>>),
    Manage(&'static str, Vec<(&'static str, Value)>),
    Receive(usize),
    Look,
    LookToSend,
}

/// What came of it.
enum Outcome {
    Done,
    Answered(Value),
    Received(Vec<Received>),
}

pub(super) struct Entity {
    pub(super) name: String,
    home: Arc<Home>,
    line: Mutex<Option<Arc<Line>>>,
    pub(super) buffer: Arc<Buffer>,
    /// Who leases: two at a time would share what came for one.
    turn: Mutex<()>,
    /// Of a queue that requires sessions.
    sessions: Option<Arc<Sessions>>,
}

impl Entity {
    pub(super) fn new(name: String, home: Arc<Home>, sessions: Option<SessionSettings>) -> Self {
        let sessions = sessions.map(|settings| Arc::new(Sessions::new(settings)));
        Self { name, home, line: Mutex::default(), buffer: Arc::default(), turn: Mutex::default(), sessions }
    }

    /// Puts a message on the queue. Whoever calls again after an unknown outcome does so with the same message id.
    pub(super) async fn send(&self, message: Message<Data>) -> Result<(), Error> {
        let action = "sending to Service Bus";
        let bytes = encoded(message.clone()).map_err(|wrong| wrong.during(action))?;
        if bytes.len() > LARGEST {
            return Err(Wrong::TooLarge.during(action));
        }
        self.call(&Operation::Send(Box::new(message))).await.map(drop).map_err(|wrong| wrong.during(action))
    }

    /// Puts a message on the queue that comes when its time has come.
    pub(super) async fn schedule(&self, id: &str, message: Message<Data>) -> Result<(), Wrong> {
        let bytes = encoded(message)?;
        if bytes.len() > LARGEST {
            return Err(Wrong::TooLarge);
        }
        let mut one = OrderedMap::new();
        one.insert(Value::from("message-id"), Value::from(id));
        one.insert(Value::from("message"), Value::Binary(Binary::from(bytes)));
        let messages = Value::List(vec![Value::Map(one)]);
        self.manage("schedule-message", vec![("messages", messages)]).await.map(drop)
    }

    /// Makes a lock last for the queue's lock duration from now.
    pub(super) async fn renew(&self, token: LockToken, session: Option<&Grip>) -> Result<(), Wrong> {
        if let Some(session) = session {
            return session.renew().await;
        }
        let tokens = Value::Array(Array(vec![token.value()]));
        self.manage("renew-lock", vec![("lock-tokens", tokens)]).await.map(drop)
    }

    /// Settles a locked message, and knows that it is.
    pub(super) async fn dispose(
        &self,
        token: LockToken,
        session: Option<&Grip>,
        disposition: &Disposition,
    ) -> Result<(), Wrong> {
        let map = |properties: &[(&'static str, Value)]| {
            let all = properties.iter().map(|(name, value)| (Value::from(*name), value.clone()));
            Value::Map(all.collect())
        };
        let mut body = vec![("lock-tokens", Value::Array(Array(vec![token.value()])))];
        match disposition {
            Disposition::Completed => body.push(("disposition-status", Value::from("completed"))),
            Disposition::Abandoned(properties) => {
                body.push(("disposition-status", Value::from("abandoned")));
                body.push(("properties-to-modify", map(properties)));
            }
            Disposition::Suspended { reason, description, properties } => {
                body.push(("disposition-status", Value::from("suspended")));
                body.push(("deadletter-reason", Value::from(*reason)));
                body.push(("deadletter-description", Value::String(description.clone())));
                body.push(("properties-to-modify", map(properties)));
            }
        }
        if let Some(session) = session {
            return session.settle("update-disposition", body).await;
        }
        self.manage("update-disposition", body).await.map(drop)
    }

    /// At most `most` messages from number `from` on, without taking them: waiting, locked and scheduled ones.
    pub(super) async fn peek(&self, from: i64, most: u32) -> Result<Vec<Received>, Wrong> {
        let count = i32::try_from(most).unwrap_or(i32::MAX);
        let asked = vec![("from-sequence-number", Value::Long(from)), ("message-count", Value::Int(count))];
        let answer = self.manage("peek-message", asked).await?;
        let Value::Map(mut body) = answer else { return Ok(Vec::new()) };
        let Some(Value::List(messages)) = body.swap_remove(&Value::from("messages")) else {
            return Ok(Vec::new());
        };
        let now = self.home.clock.now();
        let read = |one: Value| match one {
            Value::Map(mut one) => match one.swap_remove(&Value::from("message")) {
                Some(Value::Binary(bytes)) => Received::peeked(&bytes, now),
                _ => None,
            },
            _ => None,
        };
        let found: Option<Vec<Received>> = messages.into_iter().map(read).collect();
        found.ok_or_else(|| Wrong::nonsense("a message that was looked at cannot be read"))
    }

    /// How many messages there are, up to the bound of the settings, and when the oldest of them was sent.
    pub(super) async fn count(&self) -> Result<(u64, Option<UnixMillis>), Error> {
        let bound = self.home.settings.counted;
        let (mut total, mut next, mut oldest) = (0_u32, 0, None);
        while total < bound {
            let found = self.peek(next, PAGE.min(bound - total)).await;
            let found = found.map_err(|wrong| wrong.during("measuring a queue of Service Bus"))?;
            let Some(last) = found.last() else { break };
            next = last.number.saturating_add(1);
            total = total.saturating_add(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let sent = found.iter().filter_map(|one| one.about.as_ref()).map(|about| about.enqueued);
            oldest = oldest.into_iter().chain(sent).min();
        }
        Ok((u64::from(total), oldest))
    }

    /// Up to `max` messages, as many as there are. Waits for a first one for as long as the settings say, since the
    /// service does not tell that there is none.
    pub(super) async fn receive(&self, max: usize) -> Result<Vec<Received>, Wrong> {
        let _turn = self.turn.lock().await;
        match self.call(&Operation::Receive(max)).await? {
            Outcome::Received(received) => Ok(received),
            Outcome::Done | Outcome::Answered(_) => Ok(Vec::new()),
        }
    }

    async fn receive_on(&self, line: &Line, max: usize) -> Result<Vec<Received>, Wrong> {
        let inbox = line.inbox(&self.home, &self.name, &self.buffer).await?;
        let want = |room| inbox.want(u32::try_from(room).unwrap_or(u32::MAX));
        self.gather(max, |_| true, want, || inbox.over()).await
    }

    /// The same of a queue with sessions, a message of each.
    async fn receive_sessions(
        &self,
        sessions: &Arc<Sessions>,
        line: &Arc<Line>,
        max: usize,
    ) -> Result<Vec<Received>, Wrong> {
        // Whoever was told nothing of it asks again now.
        drop(sessions.failed());
        // A session that was lost takes its messages with it.
        let holds = |one: &Received| one.session.as_ref().is_some_and(|session| !session.is_over());
        let want = |room| sessions.want(room, &self.taker(line, self.home.settings.wait));
        let mut broke = false;
        let over = || sessions.failed().inspect(|_| broke = true);
        let received = self.gather(max, holds, want, over).await;
        if !broke {
            sessions.want_no_more();
        }
        received
    }

    /// Takes up to `max` messages out of the buffer, of those that `holds`. Asks for what is missing once (`want`); ends
    /// when there are enough, when no more come, or when they cannot come any more (`over`).
    async fn gather(
        &self,
        max: usize,
        holds: impl Fn(&Received) -> bool,
        want: impl Fn(usize),
        mut over: impl FnMut() -> Option<Wrong>,
    ) -> Result<Vec<Received>, Wrong> {
        let settings = &self.home.settings;
        let mut received = Vec::new();
        let mut until = Instant::now() + settings.wait;
        let mut wanted = false;
        loop {
            let rung = self.buffer.bell.notified();
            let mut rung = std::pin::pin!(rung);
            rung.as_mut().enable();
            let before = received.len();
            while let Some(one) = (received.len() < max).then(|| self.buffer.pop()).flatten() {
                if holds(&one) {
                    received.push(one);
                }
            }
            if received.len() >= max {
                return Ok(received);
            }
            if received.len() > before {
                until = Instant::now() + settings.linger;
            }
            if !wanted {
                want(max - received.len());
                wanted = true;
            }
            if let Some(over) = over() {
                // What is there is handed out; the next lease finds out.
                return if received.is_empty() { Err(over) } else { Ok(received) };
            }
            if tokio::time::timeout_at(until, rung).await.is_err() {
                return Ok(received);
            }
        }
    }

    fn taker(&self, line: &Arc<Line>, patience: Duration) -> Taker {
        let (home, entity) = (Arc::clone(&self.home), self.name.clone());
        Taker { home, entity, buffer: Arc::clone(&self.buffer), line: Arc::clone(line), patience }
    }

    /// Asks for a session; one that is got is given back untouched.
    async fn look_for_session(&self, line: &Line) -> Result<(), Wrong> {
        let Some(mut accepted) = line.accept(&self.name, "look", self.home.settings.linger).await? else {
            return Ok(());
        };
        drop(accepted.receiver.close().await);
        drop(accepted.session.end().await);
        Ok(())
    }

    /// Whether the queue requires sessions just if the settings say so.
    pub(super) async fn agrees(&self) -> Result<(), Wrong> {
        self.call(&Operation::Look).await.map(drop)
    }

    /// Whether this identity may send to the queue. Nothing is sent.
    pub(super) async fn may_send(&self) -> Result<(), Wrong> {
        self.call(&Operation::LookToSend).await.map(drop)
    }

    /// Resolves when a message has come, or after a while.
    pub(super) async fn arrival(self: &Arc<Self>) {
        let rung = self.buffer.bell.notified();
        let mut rung = std::pin::pin!(rung);
        rung.as_mut().enable();
        if !self.buffer.is_empty() {
            return;
        }
        // In a task of its own: whoever waits may leave this future lying while they do other things, and then it must
        // not keep the connection from them.
        let entity = Arc::clone(self);
        drop(tokio::spawn(async move {
            // An error is met, and told, by whoever leases next.
            if let Ok(Ok(line)) = tokio::time::timeout(entity.home.settings.timeout, entity.line()).await {
                match &entity.sessions {
                    Some(sessions) => sessions.want(1, &entity.taker(&line, entity.home.settings.poll)),
                    None => {
                        if let Ok(inbox) = line.inbox(&entity.home, &entity.name, &entity.buffer).await {
                            inbox.want(1);
                        }
                    }
                }
            }
        }));
        drop(tokio::time::timeout(self.home.settings.poll, rung).await);
    }

    async fn manage(&self, name: &'static str, body: Vec<(&'static str, Value)>) -> Result<Value, Wrong> {
        match self.call(&Operation::Manage(name, body)).await? {
            Outcome::Answered(body) => Ok(body),
            Outcome::Done | Outcome::Received(_) => Ok(Value::Null),
        }
    }

    async fn run(&self, line: &Arc<Line>, operation: &Operation) -> Result<Outcome, Wrong> {
        match operation {
            Operation::Send(message) => {
                line.send(&self.name, (**message).clone()).await?;
                Ok(Outcome::Done)
            }
            Operation::Manage(name, body) => {
                Ok(Outcome::Answered(line.manage(&self.name, name, INBOX, body.clone()).await?.body))
            }
            Operation::Look => {
                match &self.sessions {
                    None => line.look(&self.name).await?,
                    Some(_) => self.look_for_session(line).await?,
                }
                Ok(Outcome::Done)
            }
            Operation::LookToSend => {
                line.may_send(&self.name).await?;
                Ok(Outcome::Done)
            }
            Operation::Receive(max) => {
                if let Some(sessions) = &self.sessions {
                    return Ok(Outcome::Received(self.receive_sessions(sessions, line, *max).await?));
                }
                let received = self.receive_on(line, *max).await?;
                line.count(received.len());
                Ok(Outcome::Received(received))
            }
        }
    }

    /// Does something over a connection, again as the settings say, and over a new one where it broke.
    async fn call(&self, operation: &Operation) -> Result<Outcome, Wrong> {
        let mut made = 1;
        loop {
            self.home.wait_for_quiet().await;
            let mut used = None;
            let whole = async {
                let line = self.line().await?;
                used = Some(Arc::clone(&line));
                tokio::select! {
                    done = self.run(&line, operation) => done,
                    () = line.cut() => Err(Wrong::silence("the connection broke")),
                }
            };
            let timeout = self.home.settings.timeout.saturating_add(self.home.settings.wait);
            let outcome = tokio::time::timeout(timeout, whole).await;
            let wrong =
                match outcome.unwrap_or_else(|_| Err(Wrong::silence("the service did not answer in time"))) {
                    Ok(done) => {
                        if let Some(line) = used {
                            line.prove();
                        }
                        return Ok(done);
                    }
                    Err(wrong) => wrong,
                };
            let Wrong::Failed(failure) = &wrong else { return Err(wrong) };
            let pause = self.after(failure, used.as_deref(), made).await;
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(wrong),
            }
            made += 1;
        }
    }

    /// What a failure means for the connection, and when to try again, if at all.
    async fn after(&self, failure: &Failure, used: Option<&Line>, made: u32) -> Option<Duration> {
        let Home { settings, entropy, .. } = &*self.home;
        let refused = match failure {
            Failure::Refused(Refused { status, .. }) => Some(*status),
            _ => None,
        };
        // A throttled service, and one whose queue is full, is as well as before.
        if !matches!(refused, Some(503 | 507)) {
            match used {
                Some(line) => line.give_up(),
                None => drop(self.line.lock().await.take()),
            }
        }
        // A link that worked is closed because its token ran out, and is had again with another one.
        let ran_out = matches!(refused, Some(401)) && used.is_some_and(Line::is_proven);
        let judged = if ran_out { &Failure::Silence("the token ran out") } else { failure };
        let pause = settings.attempts.pause(made, judged, &**entropy);
        if refused == Some(503) {
            self.home.hush(pause.unwrap_or(settings.attempts.max_delay));
        }
        pause
    }

    /// The connection, with a token that lasts.
    async fn line(&self) -> Result<Arc<Line>, Wrong> {
        let mut slot = self.line.lock().await;
        let line = if let Some(line) = slot.as_ref().filter(|line| !line.is_over()) {
            Arc::clone(line)
        } else {
            let line = Arc::new(Line::open(&self.home, &self.name).await?);
            *slot = Some(Arc::clone(&line));
            line
        };
        drop(slot);
        if let Err(wrong) = line.authorise(&self.home, &self.name).await {
            line.give_up();
            return Err(wrong);
        }
        Ok(line)
    }
}
