//! Azure's services behind the ports.
//!
//! The SDK's own retries are turned off everywhere: they cover calls that must not be repeated blindly and last
//! longer than a lease.

mod failure;
mod retry;
mod transport;

pub mod credential;
pub mod pace;

pub mod graph;
pub mod key_vault;
pub mod logs;
pub mod service_bus;
pub mod storage_queues;
pub mod wrapping_key;

pub use self::failure::SetupError;
pub use self::retry::Attempts;
pub use self::service_bus::ServiceBus;
pub use self::storage_queues::StorageQueues;
pub use self::transport::{HttpsUrl, NotAUrl, Reach};

use futures_util::StreamExt as _;

/// Does something with each item, several at a time. The answers are in the order of the items.
pub(crate) async fn each<T, R, F: Future<Output = R>>(
    parallel: usize,
    items: Vec<T>,
    work: impl Fn(T) -> F,
) -> Vec<R> {
    futures_util::stream::iter(items.into_iter().map(work)).buffered(parallel).collect().await
}
