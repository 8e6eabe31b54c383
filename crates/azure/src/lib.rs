//! Azure's services behind the ports.
//!
//! The SDK's own retries are turned off everywhere: they cover calls that must not be repeated blindly and last
//! longer than a lease. Who calls a port decides what is tried again.

pub mod storage_queues;

pub use storage_queues::StorageQueues;
