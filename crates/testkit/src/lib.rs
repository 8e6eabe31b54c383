//! What tests of every crate share, and nothing that a release contains.

pub mod clock;
pub mod entropy;

pub mod conformance;

pub mod azure;
pub mod azurite;
pub mod device;
pub mod faults;
pub mod postgres;
pub mod receiver;
pub mod service_bus;
pub mod signer;
pub mod system;
