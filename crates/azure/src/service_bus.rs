//! Azure Service Bus (learn.microsoft.com/azure/service-bus-messaging), over AMQP 1.0.
//!
//! A lease is the service's peek-lock, its proof the lock token. Locks last as long as the queue says and not as long
//! as a caller wants; `lease` is how long a caller counts on it, and the queue's lock duration has to be at least that.
//! A lock that has run out is void at once, whether or not somebody else has taken the message.
//!
//! Messages are settled through `$management` and not on the link: there the service confirms, and tells of a lock that
//! was lost. A message that is to come back later is a scheduled copy of itself, and one that is given up on is
//! written into the index of the deployment's state and then moved to the service's own dead letters. What the service
//! moves there by itself is found there, and put into the index as well.
//!
//! - Queues are made beforehand: see docs/AZURE.md for how.
//! - A message has at most 256 KiB with its properties.
//! - Its id is fresh for each `send`, so that duplicate detection, where the queue has it, merges what this adapter
//!   sends again after an unknown outcome, and nothing else: a replayed dead letter is no duplicate.
//! - Where queues require sessions, a device's messages are one, and one process at a time works on them ([`sessions`]).
//! - Depths are counted by looking, up to a bound; of leases only this process's own are known.

mod asker;
mod dial;
mod entity;
mod failure;
mod held;
mod home;
mod inbox;
mod line;
mod message;
mod sessions;
mod settle;
mod stream;
mod tokens;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::dead_letters::{Died, Graveyard};
use keyturn_ports::queue::{DeadReason, Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use keyturn_ports::{Error, Kind};
use tokio::sync::Notify;
use tracing::warn;

pub use self::dial::{Namespace, NamespaceError};
use self::entity::Entity;
use self::failure::Wrong;
use self::held::{Held, Leases};
use self::home::Home;
use self::message::{About, Received, outgoing};
pub use self::tokens::Access;
use crate::retry::Attempts;

/// Where the queues are and how they are used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace.
    pub namespace: Namespace,
    /// What the names of the queues begin with.
    pub prefix: String,
    /// How long a lease waits for a first message.
    pub wait: Duration,
    /// How long it waits for one more after each.
    pub linger: Duration,
    /// How long somebody waits for an arrival before a look is worth while.
    pub poll: Duration,
    /// Requests under way at once for one call of the port.
    pub parallel: usize,
    /// How often an operation is made, and when again.
    pub attempts: Attempts,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long before its end a token is replaced.
    pub refresh: Duration,
    /// How sessions are had, where the queues require them; none where they do not.
    pub sessions: Option<SessionSettings>,
    /// Up to how many messages a depth is counted.
    pub counted: u32,
    /// How often the service's own dead letters are looked at.
    pub sweep: Duration,
    /// Certificates in PEM that the server's must chain to, instead of those that the system trusts.
    pub ca: Option<Vec<u8>>,
}

/// How sessions are had.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// The most that a process has of one queue at once, and so the most messages that it works on at once.
    pub held: usize,
    /// After how long without a message one is given back.
    pub idle: Duration,
}

/// Whether the service would have queues of names that begin so
/// (learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas: 260 characters).
///
/// # Errors
/// [`NamespaceError::Prefix`].
pub fn check_prefix(prefix: &str) -> Result<(), NamespaceError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._/".contains(&byte);
    let begins = prefix.bytes().next().is_none_or(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let good = prefix.len() <= 200 && prefix.bytes().all(fits) && begins && !prefix.contains("//");
    if good { Ok(()) } else { Err(NamespaceError::Prefix) }
}

/// The queues of a deployment on Service Bus.
pub struct ServiceBus {
    pairs: [Pair; QueueName::ALL.len()],
    graveyard: Arc<dyn Graveyard>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    held: Leases,
    settings: Settings,
}

/// A queue and its dead letters.
struct Pair {
    alive: Arc<Entity>,
    dead: Entity,
    bell: Notify,
    swept: Mutex<Swept>,
}

/// How far the service's dead letters were looked at.
struct Swept {
    next: i64,
    due: UnixMillis,
}

impl ServiceBus {
    /// Queues as the settings say. The service is not asked yet.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the settings cannot be used.
    pub fn new(
        settings: Settings,
        access: Access,
        graveyard: Arc<dyn Graveyard>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        if matches!(access, Access::Token(_)) && !settings.namespace.is_protected() {
            let detail = "tokens of Entra ID are sent over TLS alone";
            return Err(Error::new(Kind::Denied, "using Service Bus", detail));
        }
        let tls = dial::tls(settings.ca.as_deref())?;
        let home = Arc::new(Home {
            settings: settings.clone(),
            access,
            tls,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            quiet_until: Mutex::default(),
        });
        let pairs = QueueName::ALL.map(|queue| {
            let name = format!("{}{queue}", settings.prefix);
            Pair {
                // The dead letters of a queue with sessions have none.
                dead: Entity::new(format!("{name}/$deadletterqueue"), Arc::clone(&home), None),
                alive: Arc::new(Entity::new(name, Arc::clone(&home), settings.sessions)),
                bell: Notify::default(),
                swept: Mutex::new(Swept { next: 0, due: UnixMillis(0) }),
            }
        });
        Ok(Self { pairs, graveyard, clock, entropy, held: Leases::default(), settings })
    }

    fn pair(&self, queue: QueueName) -> &Pair {
        let [requests, findings, outcomes, alarms] = &self.pairs;
        match queue {
            QueueName::Requests => requests,
            QueueName::Findings => findings,
            QueueName::Outcomes => outcomes,
            QueueName::Alarms => alarms,
        }
    }

    fn bell(&self, queue: QueueName) -> &Notify {
        &self.pair(queue).bell
    }

    /// A message id that no other message has.
    fn fresh_id(&self, message: &NewMessage) -> String {
        let random = u128::from_le_bytes(self.entropy.bytes());
        format!("{}.{random:032x}", message.request)
    }

    /// A message as the port has it. One that somebody else put there is passed on as it is, so that its reader
    /// gives it up and an operator gets to see it.
    fn message(&self, received: &Received) -> (NewMessage, UnixMillis) {
        let body = received.body.clone();
        if let Some(about) = &received.about {
            (NewMessage { request: about.request, device: about.device, body }, about.enqueued)
        } else {
            let (request, device) = (RequestId::of(&body), DeviceId::from_bytes([0; 16]));
            (NewMessage { request, device, body }, self.clock.now())
        }
    }

    /// Hands a message out. None if its lock was lost while it waited here.
    async fn hand_out(
        &self,
        queue: QueueName,
        received: Received,
        lease: Duration,
    ) -> Result<Option<Leased>, Error> {
        let Some(token) = received.token else { return Ok(None) };
        let session = received.session.clone();
        // The lock of a session runs since it was had, or was renewed.
        let mut since = session.as_ref().map_or(received.came, |session| received.came.min(session.since()));
        // It was on its way when nobody asked any more, and part of its lock is over.
        if self.clock.now().0.saturating_sub(since.0)
            > u64::try_from((lease / 4).as_millis()).unwrap_or(u64::MAX)
        {
            match self.pair(queue).alive.renew(token, session.as_deref()).await {
                Ok(()) => since = self.clock.now(),
                Err(Wrong::LeaseLost) => return Ok(None),
                Err(wrong) => {
                    session.inspect(|session| session.give_up());
                    return Err(wrong.during("renewing a lock of Service Bus"));
                }
            }
        }
        let (message, enqueued) = self.message(&received);
        let receipt = Receipt { message: received.number.to_string(), lease: token.to_string() };
        let leased = Leased { receipt, message, deliveries: received.deliveries(), enqueued };
        let held =
            Held { leased: leased.clone(), token, about: received.about, session, until: since.plus(lease) };
        self.held.remember(queue, held, self.clock.now());
        Ok(Some(leased))
    }

    /// Whether a queue requires sessions just if the settings say so. Takes no message; a session that it gets is given
    /// back at once.
    ///
    /// # Errors
    /// What the service said; [`Kind::Unavailable`] with both ways to mend it where they do not agree.
    pub async fn agrees(&self, queue: QueueName) -> Result<(), Error> {
        let agrees = self.pair(queue).alive.agrees().await;
        agrees.map_err(|wrong| wrong.during("asking Service Bus whether a queue requires sessions"))
    }

    /// Whether this identity may send to a queue. Nothing is sent: a link to send by is attached, which the service refuses
    /// to whoever may not.
    ///
    /// # Errors
    /// What the service said.
    pub async fn may_send(&self, queue: QueueName) -> Result<(), Error> {
        let may = self.pair(queue).alive.may_send().await;
        may.map_err(|wrong| wrong.during("asking Service Bus whether messages may be sent"))
    }

    /// Looks for what the service itself gave up on, and puts it into the index. The service's copies stay.
    async fn sweep(&self, queue: QueueName) -> Result<(), Error> {
        let (pair, now) = (self.pair(queue), self.clock.now());
        let mut next = {
            let mut swept = pair.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.due > now {
                return Ok(());
            }
            swept.due = now.plus(self.settings.sweep);
            swept.next
        };
        loop {
            let found = pair.dead.peek(next, PAGE).await;
            let found = found.map_err(|wrong| wrong.during("looking at dead letters of Service Bus"))?;
            let Some(last) = found.last() else { return Ok(()) };
            next = last.number.saturating_add(1);
            let strange = found.iter().filter(|one| !one.about.as_ref().is_some_and(|about| about.buried));
            let died: Vec<Died> = strange.map(|one| self.given_up(queue, one)).collect();
            if !died.is_empty() {
                warn!(%queue, "Service Bus gave up on {} message(s) by itself; they are in the dead letters now", died.len());
                self.graveyard.bury(died).await?;
            }
            pair.swept.lock().unwrap_or_else(PoisonError::into_inner).next = next;
        }
    }

    fn given_up(&self, queue: QueueName, one: &Received) -> Died {
        let (message, enqueued) = self.message(one);
        let why = one.given_up.as_deref().unwrap_or("no reason given");
        let now = self.clock.now();
        Died {
            origin: format!("{}/{}", self.pair(queue).dead.name, one.number),
            queue,
            message,
            reason: DeadReason::Exhausted,
            attempts: settle::attempts(one.about.as_ref(), now, format!("Service Bus gave it up: {why}")),
            deliveries: one.deliveries(),
            enqueued,
            died: now,
        }
    }
}

/// How many messages are looked at at once.
const PAGE: u32 = 100;

#[async_trait]
impl Queue for ServiceBus {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        let (pair, now) = (self.pair(queue), self.clock.now());
        let outcomes = crate::each(self.settings.parallel, messages, |message| async move {
            let id = self.fresh_id(&message);
            let about = About::of(&message, id.clone(), now);
            pair.alive.send(outgoing(&id, &about, &message.body, None)).await
        });
        let outcomes: Vec<Result<(), Error>> = outcomes.await;
        self.bell(queue).notify_waiters();
        outcomes.into_iter().collect()
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        let mut leased = Vec::new();
        // What waited here for too long is void; then there may be something behind it.
        for _ in 0..2 {
            let received = self.pair(queue).alive.receive(max).await;
            let received = received.map_err(|wrong| wrong.during("receiving from Service Bus"))?;
            let over = received.is_empty();
            for one in received {
                match self.hand_out(queue, one, lease).await {
                    Ok(one) => leased.extend(one),
                    // What is leased already is handled; the rest comes again.
                    Err(_) if !leased.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
            if over || !leased.is_empty() {
                break;
            }
        }
        if leased.is_empty()
            && let Err(error) = self.sweep(queue).await
        {
            warn!(%queue, "what Service Bus gave up on by itself is not known: {error}");
        }
        Ok(leased)
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        crate::lost(self.settings.parallel, receipts, |receipt| async move {
            let void = self.renew_one(queue, &receipt, lease).await?;
            Ok(void.then_some(receipt))
        })
        .await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        crate::forward(self, forward).await?;
        crate::lost(self.settings.parallel, settled, |(receipt, settlement)| async move {
            let done = self.settle_one(queue, &receipt, settlement).await?;
            Ok((!done).then_some(receipt))
        })
        .await
    }

    fn system(&self, _: QueueName) -> &'static str {
        "servicebus"
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        let Pair { alive, dead, .. } = self.pair(queue);
        let ((total, waiting), (dead, _)) = tokio::try_join!(alive.count(), dead.count())?;
        let (leased, held) = self.held.count(queue, self.clock.now());
        let oldest = waiting.into_iter().chain(held).min();
        Ok(Depth { total, leased: leased.min(total), oldest, dead, sent: None })
    }

    /// A look at one message, where a depth takes many.
    async fn probe(&self, queue: QueueName) -> Result<(), Error> {
        let looked = self.pair(queue).alive.peek(0, 1).await;
        looked.map(drop).map_err(|wrong| wrong.during("looking at a queue of Service Bus"))
    }

    /// Resolves when the service has sent a message, or when this process put one there.
    async fn arrival(&self, queue: QueueName) {
        let pair = self.pair(queue);
        tokio::select! {
            () = pair.alive.arrival() => {}
            () = pair.bell.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_prefix;

    #[test]
    fn prefixes_are_checked() {
        for good in ["", "keyturn-", "keyturn/", "a.b_c-1/"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for wrong in ["Keyturn", "-k", "/k", "a//b", "a b", "a$", &"a".repeat(201)] {
            assert!(check_prefix(wrong).is_err(), "{wrong}");
        }
    }
}
