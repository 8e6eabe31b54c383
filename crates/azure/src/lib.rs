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
pub mod storage_queues;
pub mod wrapping_key;

pub use self::failure::SetupError;
pub use self::retry::Attempts;
pub use self::storage_queues::StorageQueues;
pub use self::transport::{HttpsUrl, NotAUrl, Reach};
