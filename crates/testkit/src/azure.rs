//! Fakes of Azure's services, for which no emulator can be had: strict, stateful, over real HTTPS.
//!
//! They are written from the published protocol, and Microsoft's own Python SDK is run against them (`./test azure`), so
//! that they are not only what our client expects.

pub mod graph;
pub mod https;
pub mod identity;
pub mod key_vault;
pub mod logs;
