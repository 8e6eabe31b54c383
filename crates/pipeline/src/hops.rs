//! Queues of several engines as one, and the way from the state's own queues to theirs.
//!
//! What a transaction of the state puts on a queue (an accepted message, the outbox of a commit, a replayed dead
//! letter) is on the state's own queue of that name, whatever engine the hop has. If it has another one, [`Relay`]
//! is a handler that carries it over: a worker leases it from the state, sends it on, and settles it. A death in
//! between sends it twice, which every stage merges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::dead_letters::Strays;
use keyturn_ports::queue::{Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use keyturn_ports::{Error, Kind};

use crate::handler::{Failure, Handled, Handler};

/// Every hop on the engine it has.
#[derive(Clone)]
pub struct Hops {
    state: Arc<dyn Queue>,
    outside: BTreeMap<QueueName, Arc<dyn Queue>>,
    strays: BTreeMap<QueueName, Arc<dyn Strays>>,
}

impl Hops {
    /// Hops of which those in `outside` have engines of their own, and all others the state's.
    pub fn new(state: Arc<dyn Queue>, outside: BTreeMap<QueueName, Arc<dyn Queue>>) -> Self {
        Self { state, outside, strays: BTreeMap::new() }
    }

    /// The same, and what lies dead beside these hops without being in the index is to be had from here.
    pub fn with_strays(self, strays: BTreeMap<QueueName, Arc<dyn Strays>>) -> Self {
        Self { strays, ..self }
    }

    /// The hops beside which messages may lie dead that the index does not have, each with its engine.
    pub fn strays(&self) -> &BTreeMap<QueueName, Arc<dyn Strays>> {
        &self.strays
    }

    /// The hops with engines of their own.
    pub fn outside(&self) -> &BTreeMap<QueueName, Arc<dyn Queue>> {
        &self.outside
    }

    fn engine(&self, queue: QueueName) -> &Arc<dyn Queue> {
        self.outside.get(&queue).unwrap_or(&self.state)
    }

    /// What carries messages of `queue` from the state to the hop's engine; none if the state is its engine.
    pub fn relay(&self, queue: QueueName) -> Option<Relay> {
        let to = Arc::clone(self.outside.get(&queue)?);
        Some(Relay { to, queue })
    }
}

#[async_trait]
impl Queue for Hops {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        self.engine(queue).send(queue, messages).await
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.engine(queue).lease(queue, max, lease).await
    }

    async fn next(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.engine(queue).next(queue, max, lease).await
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        self.engine(queue).renew(queue, receipts, lease).await
    }

    /// One step where both hops have the same engine. Otherwise what is forwarded is on its queue before what it
    /// came from is settled.
    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        let engine = self.engine(queue);
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            forward.into_iter().partition(|(onto, _)| Arc::ptr_eq(self.engine(*onto), engine));
        let mut batches: BTreeMap<QueueName, Vec<NewMessage>> = BTreeMap::new();
        for (onto, message) in elsewhere {
            batches.entry(onto).or_default().push(message);
        }
        for (onto, messages) in batches {
            self.send(onto, messages).await?;
        }
        engine.settle(queue, settled, here).await
    }

    fn system(&self, queue: QueueName) -> &'static str {
        self.engine(queue).system(queue)
    }

    /// What waits in the state to be carried over counts as well, and all dead letters are the state's.
    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        let inside = self.state.depth(queue).await?;
        let Some(engine) = self.outside.get(&queue) else { return Ok(inside) };
        let outside = engine.depth(queue).await?;
        let oldest = [inside.oldest, outside.oldest].into_iter().flatten().min();
        let total = inside.total.saturating_add(outside.total);
        Ok(Depth { total, leased: outside.leased, oldest, dead: inside.dead, sent: outside.sent })
    }

    async fn arrival(&self, queue: QueueName) {
        self.engine(queue).arrival(queue).await;
    }
}

/// Carries messages over to the engine of their hop.
pub struct Relay {
    to: Arc<dyn Queue>,
    queue: QueueName,
}

#[async_trait]
impl Handler for Relay {
    fn operation(&self) -> &'static str {
        "relay"
    }

    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        match self.send(batch).await {
            // Something is wrong with one of them, and the others are not to wait for it.
            Err(error) if error.kind() == Kind::Corrupt && batch.len() > 1 => {
                let mut handled = Vec::with_capacity(batch.len());
                for leased in batch {
                    handled.push(told(self.send(std::slice::from_ref(leased)).await.as_ref()));
                }
                handled
            }
            sent => batch.iter().map(|_| told(sent.as_ref())).collect(),
        }
    }
}

impl Relay {
    async fn send(&self, batch: &[Leased]) -> Result<(), Error> {
        self.to.send(self.queue, batch.iter().map(|leased| leased.message.clone()).collect()).await
    }
}

fn told(sent: Result<&(), &Error>) -> Handled {
    match sent {
        Ok(()) => Handled::done(),
        Err(error) => Handled::failed(Failure::from(error)),
    }
}
