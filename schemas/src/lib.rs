//! The wire contract: every message, seal and file that two Keyturn processes, or a process and a device,
//! exchange. Anything that can be read from outside is parsed here, once, into a type that cannot hold a bad
//! value; nothing downstream looks at the text again.
//!
//! Reading order, the way of a request: [`nonce`] → [`claims`], [`certificate`], [`message`] → [`stamp`],
//! [`ticket`] → [`envelope`] → [`security_id`], [`finding`] → [`seal`], [`result`], [`outcome`],
//! [`alarm`] → [`key_set`].

mod jws;

#[cfg(test)]
mod fixtures;

pub mod mac;

pub mod nonce;

pub mod certificate;
pub mod claims;
pub mod message;

pub mod stamp;
pub mod ticket;

pub mod envelope;
mod trace;

pub mod finding;
pub mod security_id;

pub mod alarm;
pub mod export;
pub mod outcome;
pub mod recovery;
pub mod result;
pub mod seal;
pub mod vault;

pub mod key_set;
pub mod signing;

pub mod answers;
pub mod problem;

#[cfg(feature = "schema")]
pub mod schema;
