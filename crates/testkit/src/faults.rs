//! Engines that fail or cut their caller off at one chosen call, and deliver every message twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, KeyHash, LaneId, RequestId, VersionId};
use keyturn_domain::lane::Lane;
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::directory::{Answer, Directory, Listed};
use keyturn_ports::intake::{Accepted, Intake, Submission};
use keyturn_ports::ledger::{Commit, Committed, Event, Ledger, LedgerReader, Loaded, Wanted};
use keyturn_ports::queue::{Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use keyturn_ports::results::{NewResult, Published, ResultWriter};
use keyturn_ports::signing::Signer;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Vault, VaultReader};
use keyturn_ports::{Error, Kind};
use tokio::sync::Notify;

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It fails without effect.
    FailBefore,
    /// It takes effect, and its caller is told that it failed.
    FailAfter,
    /// Its caller dies before it is made.
    DieBefore,
    /// It takes effect, and its caller dies before hearing of it.
    DieAfter,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::FailBefore, Self::FailAfter, Self::DieBefore, Self::DieAfter];
}

/// Counts calls to engines and makes one of them go wrong.
#[derive(Debug)]
pub struct Faults {
    fault: Option<(usize, Mode)>,
    calls: AtomicUsize,
    /// Notified when a caller is to be dropped.
    pub died: Notify,
}

impl Faults {
    /// None.
    pub fn none() -> Arc<Self> {
        Arc::new(Self { fault: None, calls: AtomicUsize::new(0), died: Notify::new() })
    }

    /// The call of this number, from 1, goes wrong.
    pub fn at(call: usize, mode: Mode) -> Arc<Self> {
        Arc::new(Self { fault: Some((call, mode)), calls: AtomicUsize::new(0), died: Notify::new() })
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn around<T>(&self, call: impl Future<Output = T>, failed: impl Fn(Error) -> T) -> T {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let error = || Error::new(Kind::Unavailable, "calling an engine", "a fault of the test");
        match self.fault.filter(|(at, _)| *at == number).map(|(_, mode)| mode) {
            None => call.await,
            Some(Mode::FailBefore) => failed(error()),
            Some(Mode::FailAfter) => {
                call.await;
                failed(error())
            }
            Some(Mode::DieBefore) => self.die().await,
            Some(Mode::DieAfter) => {
                call.await;
                self.die().await
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }
}

/// An engine with faults. With `twice`, a queue delivers each message twice in every batch.
#[derive(Clone, Debug)]
pub struct Faulty<E> {
    /// The engine.
    pub engine: E,
    /// Its faults.
    pub faults: Arc<Faults>,
    /// Whether messages are delivered twice.
    pub twice: bool,
}

#[async_trait]
impl<E: Queue> Queue for Faulty<E> {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        self.faults.around(self.engine.send(queue, messages), Err).await
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        let leased = self.faults.around(self.engine.lease(queue, max, lease), Err).await?;
        let copies = if self.twice { 2 } else { 1 };
        Ok(leased.into_iter().flat_map(|one| std::iter::repeat_n(one, copies)).collect())
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        self.faults.around(self.engine.renew(queue, receipts, lease), Err).await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        self.faults.around(self.engine.settle(queue, settled, forward), Err).await
    }

    fn system(&self, queue: QueueName) -> &'static str {
        self.engine.system(queue)
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        self.engine.depth(queue).await
    }

    async fn arrival(&self, queue: QueueName) {
        self.engine.arrival(queue).await;
    }
}

#[async_trait]
impl<E: Intake> Intake for Faulty<E> {
    async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Accepted>, Error> {
        self.faults.around(self.engine.accept(submissions), Err).await
    }

    async fn knows(&self, nonce: UnixMillis, request: RequestId) -> Result<bool, Error> {
        self.faults.around(self.engine.knows(nonce, request), Err).await
    }
}

#[async_trait]
impl<E: Ledger> Ledger for Faulty<E> {
    async fn load(&self, wanted: Vec<Wanted>) -> Result<Vec<Loaded>, Error> {
        self.faults.around(self.engine.load(wanted), Err).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, Error> {
        self.faults.around(self.engine.commit(commits), Err).await
    }
}

#[async_trait]
impl<E: LedgerReader> LedgerReader for Faulty<E> {
    async fn lanes(&self, device: DeviceId) -> Result<Vec<Lane>, Error> {
        self.faults.around(self.engine.lanes(device), Err).await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<DeviceId>, Error> {
        self.faults.around(self.engine.devices(after, limit), Err).await
    }

    async fn labelled(&self, label: &str) -> Result<Vec<DeviceId>, Error> {
        self.faults.around(self.engine.labelled(label), Err).await
    }

    async fn timeline(&self, device: DeviceId, limit: usize) -> Result<Vec<Event>, Error> {
        self.faults.around(self.engine.timeline(device, limit), Err).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, Error> {
        self.faults.around(self.engine.events(after, limit), Err).await
    }

    async fn vault_ref(&self, version: VersionId) -> Result<Option<String>, Error> {
        self.faults.around(self.engine.vault_ref(version), Err).await
    }

    async fn restored(&self) -> Result<Option<UnixMillis>, Error> {
        self.faults.around(self.engine.restored(), Err).await
    }

    async fn knows_key(&self, key: KeyHash) -> Result<bool, Error> {
        self.faults.around(self.engine.knows_key(key), Err).await
    }
}

#[async_trait]
impl<E: VaultReader> VaultReader for Faulty<E> {
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error> {
        self.faults.around(self.engine.read(lane, version, vault_ref), Err).await
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        self.engine.history(device).await
    }
}

#[async_trait]
impl<E: Vault> Vault for Faulty<E> {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        let count = sought.len();
        let all = |_| {
            (0..count).map(|_| Err(Error::new(Kind::Unavailable, "asking the vault", "a fault"))).collect()
        };
        self.faults.around(self.engine.find(sought), all).await
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let count = versions.len();
        let all = |_| {
            (0..count).map(|_| Err(Error::new(Kind::Unavailable, "writing the vault", "a fault"))).collect()
        };
        self.faults.around(self.engine.put(versions), all).await
    }
}

#[async_trait]
impl<E: Signer> Signer for Faulty<E> {
    async fn sign(&self, digests: Vec<[u8; 32]>) -> Vec<Result<[u8; 64], Error>> {
        let count = digests.len();
        let all = |_| (0..count).map(|_| Err(Error::new(Kind::Unavailable, "signing", "a fault"))).collect();
        self.faults.around(self.engine.sign(digests), all).await
    }
}

#[async_trait]
impl<E: Directory> Directory for Faulty<E> {
    async fn look_up(&self, devices: Vec<DeviceId>) -> Vec<Result<Answer, Error>> {
        let count = devices.len();
        let all = |_| (0..count).map(|_| Err(Error::new(Kind::Unavailable, "asking", "a fault"))).collect();
        self.faults.around(self.engine.look_up(devices), all).await
    }

    async fn page(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        self.engine.page(after, limit).await
    }

    async fn named(&self, name: &str) -> Result<Vec<DeviceId>, Error> {
        self.engine.named(name).await
    }
}

#[async_trait]
impl<E: ResultWriter> ResultWriter for Faulty<E> {
    async fn publish(&self, results: Vec<NewResult>) -> Result<Vec<Published>, Error> {
        self.faults.around(self.engine.publish(results), Err).await
    }
}
