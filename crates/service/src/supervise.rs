//! What whoever started the process is told (sd_notify(3)): that it is ready, that it ends, and, as long as its work goes
//! round, that it lives. Outside systemd nobody asks, and nothing is said.
//!
//! A ping of the watchdog comes from the loops that work: every worker leaves a mark whenever it takes or settles a
//! batch. One whose mark is older than `workers.stuck_after` is taken for hung. Then no ping is sent, and systemd kills
//! the process and starts it anew; what it had leased comes back to somebody. A runtime that hangs sends none either.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_ports::Error;
use keyturn_ports::queue::{Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Who is told, and what there is to tell.
#[derive(Clone)]
pub struct Supervisor {
    told: Arc<Told>,
}

struct Told {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often systemd wants a ping, if it wants any.
    watchdog: Option<Duration>,
    /// Parts of the process that have yet to begin before it is ready.
    awaited: AtomicUsize,
    /// When each worker last left a mark, by the clock that only goes forward.
    marks: Mutex<BTreeMap<&'static str, Duration>>,
    clock: Arc<dyn Clock>,
}

impl Supervisor {
    /// The supervisor that the environment names in `NOTIFY_SOCKET`, if any, with the watchdog of `WATCHDOG_USEC`.
    #[expect(clippy::disallowed_methods, reason = "systemd says there whom to tell, and it is no setting")]
    pub fn of_environment(clock: Arc<dyn Clock>) -> Self {
        let path = std::env::var_os("NOTIFY_SOCKET");
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        let meant = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
        let watchdog = micros.filter(|micros| meant && *micros > 0).map(Duration::from_micros);
        Self::new(path.as_deref(), watchdog, clock)
    }

    /// One that listens at `path`; a path that begins with `@` is an abstract one.
    pub fn new(path: Option<&std::ffi::OsStr>, watchdog: Option<Duration>, clock: Arc<dyn Clock>) -> Self {
        let address = path.and_then(|path| match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // Nobody works on while somebody does not read.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let marks = Mutex::default();
        Self { told: Arc::new(Told { socket, watchdog, awaited: AtomicUsize::new(1), marks, clock }) }
    }

    /// Ready is the process when this many parts of it have begun, instead of one. To be said before any has.
    pub fn await_parts(&self, parts: usize) {
        self.told.awaited.store(parts, Ordering::SeqCst);
    }

    /// A part of the process has begun.
    pub fn begun(&self) {
        let less = |awaited: usize| awaited.checked_sub(1);
        if self.told.awaited.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Ok(1) {
            self.say("READY=1\n");
        }
    }

    /// Pings until `stop`, as long as no worker has been stuck for longer than `patience`; then tells that the process
    /// ends.
    pub async fn ping(self, patience: Duration, stop: CancellationToken) {
        let every = self.told.watchdog.map_or(Duration::from_secs(1), |watchdog| watchdog / 3);
        while !stop.is_cancelled() {
            if self.told.watchdog.is_some() {
                match self.stuck(patience) {
                    None => self.say("WATCHDOG=1\n"),
                    Some(worker) => {
                        error!(worker, "a worker does not come round; systemd is left to end this process");
                    }
                }
            }
            tokio::select! { () = stop.cancelled() => {} () = tokio::time::sleep(every) => {} }
        }
        self.say("STOPPING=1\n");
    }

    /// A queue whose worker leaves marks under `name`.
    pub fn marked(&self, name: &'static str, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        self.mark(name);
        let every = self.told.watchdog.map_or(IDLE, |watchdog| (watchdog / 3).min(IDLE));
        Arc::new(Marked { name, queue, every, supervisor: self.clone() })
    }

    /// The worker is done, and is missed by nobody.
    pub fn forget(&self, name: &'static str) {
        self.told.marks.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn mark(&self, name: &'static str) {
        let now = self.told.clock.monotonic();
        self.told.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(name, now);
    }

    fn stuck(&self, patience: Duration) -> Option<&'static str> {
        let now = self.told.clock.monotonic();
        let marks = self.told.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.iter().find(|(_, at)| now.saturating_sub(**at) > patience).map(|(name, _)| *name)
    }

    fn say(&self, words: &str) {
        if let Some((socket, address)) = &self.told.socket
            && let Err(error) = socket.send_to_addr(words.as_bytes(), address)
        {
            warn!(%error, words = words.trim(), "the service manager could not be told");
        }
    }
}

/// How long a worker with nothing to do waits at most before it looks again, and so leaves a mark.
const IDLE: Duration = Duration::from_secs(10);

/// A queue that marks when its worker comes round. Renewing does not count: leases are renewed while a handler hangs.
struct Marked {
    name: &'static str,
    queue: Arc<dyn Queue>,
    every: Duration,
    supervisor: Supervisor,
}

#[async_trait]
impl Queue for Marked {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        self.queue.send(queue, messages).await
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.supervisor.mark(self.name);
        self.queue.lease(queue, max, lease).await
    }

    async fn next(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.supervisor.mark(self.name);
        tokio::time::timeout(self.every, self.queue.next(queue, max, lease)).await.unwrap_or(Ok(Vec::new()))
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        self.queue.renew(queue, receipts, lease).await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        self.supervisor.mark(self.name);
        self.queue.settle(queue, settled, forward).await
    }

    fn system(&self, queue: QueueName) -> &'static str {
        self.queue.system(queue)
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        self.queue.depth(queue).await
    }

    async fn arrival(&self, queue: QueueName) {
        drop(tokio::time::timeout(self.every, self.queue.arrival(queue)).await);
    }
}

#[cfg(test)]
mod tests;
