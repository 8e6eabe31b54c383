//! A version of a password as a vault with master keys of its own keeps it, whichever database that vault is in.
//!
//! The bytes are the same everywhere, so that versions can be moved from one database to another without the keys.

mod keys;
mod seal;
mod wrapped;

pub use self::keys::{KeyId, MasterKey, MasterKeys, NoMasterKey};
pub use self::seal::{Bound, SealError, bound_to, open, seal};
#[cfg(feature = "schema")]
pub(crate) use self::wrapped::WrappedFile;
pub use self::wrapped::{WRAPPED, WrappedKey, format_wrapped, parse_wrapped};
