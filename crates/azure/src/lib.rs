//! Azure's services behind the ports.

mod failure;
mod retry;
mod transport;

pub mod credential;
pub mod pace;

pub mod graph;
pub mod key_vault;

pub use self::failure::SetupError;
pub use self::retry::Attempts;
pub use self::transport::{HttpsUrl, NotAUrl, Reach};
