//! The device API as the agent speaks it: nonces, messages, tickets, polls. It knows when to try again, and
//! nothing of what the messages say.

mod read;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_schemas::envelope::TraceParent;
use keyturn_schemas::nonce::Nonce;
use keyturn_schemas::problem::Problem;

use crate::key_set::KeySets;
use crate::settings::Timing;
use crate::transport::{self, Call, Reply, Transport};
use crate::{backoff, events};

/// A nonce is good for 300 s at the server; an older one than this is not worth the try.
const NONCE_AGE: Duration = Duration::from_mins(4);

/// How often one call is tried before the agent gives up for now.
const ATTEMPTS: u32 = 5;

/// How much longer than the server was asked to wait a poll may take.
const POLL_MARGIN: Duration = Duration::from_secs(10);

/// A client of the device API.
pub struct Client {
    transport: Arc<dyn Transport>,
    keys: KeySets,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    timing: Timing,
    memory: Mutex<Memory>,
}

/// What a client remembers from one exchange to the next.
#[derive(Default)]
struct Memory {
    /// The newest nonce and when it came, by the monotonic clock.
    nonce: Option<(Nonce, Duration)>,
    /// No message may be sent before this instant of the monotonic clock.
    quiet_until: Duration,
    /// The trace of the run, and the ticket of the first message that the server took in it.
    trace: Option<TraceParent>,
    first: Option<Ticket>,
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Requests.
    Requests,
    /// Reports.
    Reports,
}

impl Endpoint {
    fn path(self) -> &'static str {
        match self {
            Self::Requests => "v1/requests",
            Self::Reports => "v1/reports",
        }
    }
}

/// Where the answer to a message will be. Not to be logged: whoever has it can fetch the answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(String);

/// What a poll brought.
#[derive(Debug)]
pub enum Polled {
    /// A signed result. Nothing in it is verified.
    Result(String),
    /// Not yet; ask again after this long.
    Pending(Option<Duration>),
    /// An unsigned refusal, which can delay and nothing else.
    Refused(Problem),
    /// The server does not know the ticket, or not any more.
    Gone,
    /// The server is busy; ask again after this long.
    Busy(Option<Duration>),
    /// Nothing that a server of ours would say.
    Odd(u16),
}

/// A call that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable answer after several attempts.
    #[error("the server cannot be reached or gives no usable answer")]
    Unreachable(#[source] Unusable),
    /// The server asks for more patience than this run has.
    #[error("the server asked to wait {} s", .0.as_secs())]
    Throttled(Duration),
    /// The message's nonce is not fresh.
    #[error("the nonce is not fresh any more")]
    StaleNonce,
    /// The server does not take the message, and will not take it a second time either.
    #[error("the server refused the message: {} {}", .0.code, .0.detail.as_deref().unwrap_or(&.0.title))]
    Rejected(Box<Problem>),
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No answer.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// An answer that a server of ours would not give.
    #[error("status {0} is not an answer of a Keyturn server to this call")]
    Odd(u16),
    /// The server is busy.
    #[error("the server is busy")]
    Busy,
}

/// What one attempt means for the next.
enum Attempt<T> {
    Done(T),
    /// Try again, after this long where the server said so.
    Again(Unusable, Option<Duration>),
}

impl Client {
    /// A client over `transport`.
    pub fn new(
        transport: Arc<dyn Transport>,
        keys: KeySets,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        timing: Timing,
    ) -> Self {
        Self { transport, keys, clock, entropy, timing, memory: Mutex::default() }
    }

    /// The key sets that came with the answers.
    pub fn keys(&self) -> &KeySets {
        &self.keys
    }

    /// Begins a run: what is sent from now on is one trace, under ids that are drawn here and mean nothing. Returns the
    /// trace's.
    pub fn begin(&self) -> Option<String> {
        let trace = TraceParent::drawn(self.entropy.bytes(), self.entropy.bytes());
        let mut memory = self.memory();
        (memory.trace, memory.first) = (trace, None);
        trace.map(|trace| trace.trace_id())
    }

    /// A nonce for one message: the newest that an answer brought, or a fresh one. Waits first until a message
    /// may be sent, so that the nonce is as young as it can be.
    pub async fn nonce(&self) -> Result<Nonce, Error> {
        let pause = self.memory().quiet_until.saturating_sub(self.clock.monotonic());
        tokio::time::sleep(pause).await;
        let mut attempt = 0;
        loop {
            if let Some(nonce) = self.take_nonce() {
                return Ok(nonce);
            }
            let timeout = self.timing.unknown_post;
            let outcome = match self.exchange("v1/nonce", None, None, timeout).await {
                Ok(reply) => self.read_nonce(&reply),
                Err(error) => Attempt::Again(error.into(), None),
            };
            match outcome {
                Attempt::Done(nonce) => return Ok(nonce),
                Attempt::Again(why, after) => self.rest("The call for a nonce", attempt, why, after).await?,
            }
            attempt += 1;
        }
    }

    /// Posts a message, the same bytes again and again until the server said what became of them.
    pub async fn post(&self, endpoint: Endpoint, text: &str) -> Result<Ticket, Error> {
        let sent = self.post_until_known(endpoint, text).await;
        let now = self.clock.monotonic();
        let mut memory = self.memory();
        if let Ok(ticket) = &sent {
            memory.first.get_or_insert_with(|| ticket.clone());
        }
        memory.quiet_until = match &sent {
            Ok(_) => now + self.timing.gap,
            Err(Error::Unreachable(_) | Error::Throttled(_)) => now + self.timing.unknown_post,
            Err(Error::StaleNonce | Error::Rejected(_)) => Duration::ZERO,
        };
        drop(memory);
        sent
    }

    /// Asks once what became of a message. The server may hold the answer back for `wait`.
    pub async fn poll(&self, ticket: &Ticket, wait: Duration) -> Result<Polled, transport::Error> {
        let path = format!("v1/requests/{}", ticket.0);
        let wait = wait.min(self.timing.long_poll);
        let reply = self.exchange(&path, None, Some(wait), wait + POLL_MARGIN).await?;
        Ok(read::poll(reply))
    }

    /// A pause before attempt `attempt`, which follows a failure or a busy server.
    pub fn pause(&self, attempt: u32) -> Duration {
        backoff::pause(attempt, self.timing.retry, self.timing.patience, &*self.entropy)
    }

    async fn post_until_known(&self, endpoint: Endpoint, text: &str) -> Result<Ticket, Error> {
        let mut attempt = 0;
        loop {
            let timeout = self.timing.unknown_post;
            let outcome = match self.exchange(endpoint.path(), Some(text), None, timeout).await {
                Ok(reply) => read::post(&reply)?,
                Err(error) => Attempt::Again(error.into(), None),
            };
            match outcome {
                Attempt::Done(ticket) => return Ok(ticket),
                Attempt::Again(why, after) => self.rest("The message", attempt, why, after).await?,
            }
            attempt += 1;
        }
    }

    /// Waits before the next attempt, or gives up.
    async fn rest(
        &self,
        what: &'static str,
        attempt: u32,
        why: Unusable,
        after: Option<Duration>,
    ) -> Result<(), Error> {
        if let Some(after) = after.filter(|after| *after > self.timing.patience) {
            return Err(Error::Throttled(after));
        }
        if attempt + 1 >= ATTEMPTS {
            return Err(Error::Unreachable(why));
        }
        events::retry(what, attempt, &why);
        tokio::time::sleep(after.unwrap_or_default().max(self.pause(attempt))).await;
        Ok(())
    }

    /// One exchange. Nonces and key sets are taken from any answer.
    async fn exchange(
        &self,
        path: &str,
        message: Option<&str>,
        wait: Option<Duration>,
        timeout: Duration,
    ) -> Result<Reply, transport::Error> {
        let (trace, first) = {
            let memory = self.memory();
            (memory.trace, memory.first.clone())
        };
        let trace = trace.and_then(|trace| TraceParent::drawn(trace.trace(), self.entropy.bytes()));
        let call = Call { path, message, wait, timeout, trace, follows: first.as_ref() };
        let reply = self.transport.exchange(call).await?;
        if let Some(nonce) = read::offered_nonce(&reply) {
            self.memory().nonce = Some((nonce, self.clock.monotonic()));
        }
        if let Some(text) = &reply.key_set {
            self.keys.offer(text, self.clock.now());
        }
        Ok(reply)
    }

    fn read_nonce(&self, reply: &Reply) -> Attempt<Nonce> {
        let nonce = self.take_nonce().or_else(|| read::nonce(reply));
        match (reply.status, nonce) {
            (200 | 204, Some(nonce)) => Attempt::Done(nonce),
            _ => read::again(reply),
        }
    }

    /// Gives out the newest nonce, once.
    fn take_nonce(&self) -> Option<Nonce> {
        let now = self.clock.monotonic();
        self.memory()
            .nonce
            .take()
            .filter(|(_, came)| now.saturating_sub(*came) <= NONCE_AGE)
            .map(|(nonce, _)| nonce)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// A ticket becomes part of an address, so it has to be plain.
    fn parse(text: String) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then_some(Self(text))
    }

    /// Its text, for the call that needs it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket([redacted])")
    }
}

#[cfg(test)]
mod tests;
