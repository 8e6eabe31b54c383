//! Azure's services behind the ports.
//!
//! The SDK's own retries are turned off everywhere: they cover calls that must not be repeated blindly and last
//! longer than a lease.

mod failure;
mod retry;
mod transport;
mod vault_key;

pub mod credential;
pub mod pace;

pub mod graph;
pub mod key_vault;
pub mod logs;
pub mod service_bus;
pub mod signing_key;
pub mod storage_queues;
pub mod versions;
pub mod wrapping_key;

pub use self::failure::SetupError;
pub use self::retry::Attempts;
pub use self::service_bus::ServiceBus;
pub use self::storage_queues::StorageQueues;
pub use self::transport::{HttpsUrl, NotAUrl, Reach};
pub use self::vault_key::{KeyUrl, NotAKey};

use futures_util::StreamExt as _;
use keyturn_ports::Error;
use keyturn_ports::queue::{NewMessage, Queue, QueueName, Receipt};

/// Does something with each item, several at a time. The answers are in the order of the items.
pub(crate) async fn each<T, R, F: Future<Output = R>>(
    parallel: usize,
    items: Vec<T>,
    work: impl Fn(T) -> F,
) -> Vec<R> {
    futures_util::stream::iter(items.into_iter().map(work)).buffered(parallel).collect().await
}

/// Does a step with each lease, several at a time. Returns those for which it says that the lease was lost.
pub(crate) async fn lost<T, F: Future<Output = Result<Option<Receipt>, Error>>>(
    parallel: usize,
    leases: Vec<T>,
    step: impl Fn(T) -> F,
) -> Result<Vec<Receipt>, Error> {
    each(parallel, leases, step).await.into_iter().filter_map(Result::transpose).collect()
}

/// Sends what comes of messages before these are settled: it is there before what it came from goes.
pub(crate) async fn forward(engine: &dyn Queue, messages: Vec<(QueueName, NewMessage)>) -> Result<(), Error> {
    for onto in QueueName::ALL {
        let of_it = messages.iter().filter(|(to, _)| *to == onto).map(|(_, message)| message.clone());
        let of_it: Vec<_> = of_it.collect();
        if !of_it.is_empty() {
            engine.send(onto, of_it).await?;
        }
    }
    Ok(())
}
