//! The device's private key, wherever it is: one trait, and a file for each kind of place. Nothing else of the agent
//! knows which one it is.
//!
//! Every place makes RSASSA-PKCS1-v1_5 with SHA-256 (RS256, RFC 7518 section 3.3): TPMs and tokens that also have PSS
//! differ in the length of its salt, and PS256 allows one (docs/decisions/0016).

#[cfg_attr(
    not(any(feature = "pkcs11", feature = "tpm2")),
    expect(dead_code, reason = "only tokens and TPMs count wrong tries")
)]
mod guard;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "pkcs12")]
pub mod pkcs12;
pub mod secret;
pub mod soft;
#[cfg(feature = "tpm2")]
pub mod tpm2;

use std::path::PathBuf;
use std::time::Duration;

pub use self::guard::Guard;

/// How long a store may take for one signature, unless it is said otherwise.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A private key that signs. What it makes is checked against the certificate before it is used, so that a wrong key
/// and a faulty computation end here.
pub trait Signer: Send + Sync {
    /// The signature (RSASSA-PKCS1-v1_5 with SHA-256) over `message`, as long as the key's modulus. May block for as
    /// long as its store does, if it has a [time limit](Self::time_limit); otherwise it is done within milliseconds.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;

    /// Where the key is, for people: «the key "device" of the token "entra"».
    fn place(&self) -> String;

    /// After how long a signature is given up. None if it is made in this process.
    fn time_limit(&self) -> Option<Duration> {
        None
    }
}

/// A key that cannot be used, and what mends it. Names places, and never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error("{place} cannot be reached: {reason}")]
    Away {
        /// What was asked.
        place: String,
        /// Why not, and what mends it.
        reason: String,
    },
    /// A PIN or passphrase cannot be read.
    #[error("{}: {reason}", path.display())]
    Secret {
        /// Its file.
        path: PathBuf,
        /// Why not, and what mends it.
        reason: String,
    },
    /// The PIN is wrong.
    #[error("{place} refused what is in {}; it is not tried again, because a few wrong tries lock it for good", secret.display())]
    Refused {
        /// Who refused it.
        place: String,
        /// The file it is in.
        secret: PathBuf,
    },
    /// The PIN was wrong before.
    #[error("{} still has what was refused before, and is not tried again; correct it (or, if it has become right, remove {})", secret.display(), record.display())]
    Spent {
        /// The file it is in.
        secret: PathBuf,
        /// The note about it.
        record: PathBuf,
    },
    /// Tries that nobody knows the end of.
    #[error("the last {tries} tries to log on ended without an answer, and another one could be the last; look how many tries are left, then remove {}", record.display())]
    Unanswered {
        /// How many.
        tries: u32,
        /// The note about them.
        record: PathBuf,
    },
    /// No more tries, or one that is not the agent's to use up.
    #[error("{place} {reason}")]
    Locked {
        /// What is locked.
        place: String,
        /// How it is locked, and what mends it.
        reason: String,
    },
    /// There is no such key.
    #[error("{place} has no such key: {reason}")]
    Absent {
        /// Where it was looked for.
        place: String,
        /// What was looked for, and what there is.
        reason: String,
    },
    /// The key cannot serve.
    #[error("{place} cannot serve: {reason}")]
    Unfit {
        /// The key.
        place: String,
        /// Why not.
        reason: String,
    },
    /// It did not work.
    #[error("{place} failed: {reason}")]
    Failed {
        /// What failed.
        place: String,
        /// How.
        reason: String,
    },
    /// It took too long.
    #[error("{place} gave no answer within {} s", limit.as_secs())]
    Slow {
        /// What was asked.
        place: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The agent's own files.
    #[error("{0}")]
    Own(String),
}
