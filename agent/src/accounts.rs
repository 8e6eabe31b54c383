//! The managed account, as the operating system keeps it.

pub mod file;

use keyturn_domain::ids::AccountId;
use keyturn_domain::label::Label;
use keyturn_domain::lane::Hints;
use keyturn_domain::password::Password;

/// An account database with one managed account in it. Calls may block; the agent makes them off its executor.
pub trait Accounts: Send + Sync + 'static {
    /// The account's name, a label.
    fn name(&self) -> Label;

    /// What the account demands of passwords, as far as the system tells.
    fn hints(&self) -> Hints {
        Hints::default()
    }

    /// Finishes what the end of an earlier process interrupted. Called before anything else of a run.
    fn restore(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Looks the account up; none if it does not exist. Changes nothing.
    fn find(&self) -> Result<Option<Found>, Error>;

    /// Whether this system has what it takes to manage the account. Changes nothing.
    fn equipped(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Creates the account without a usable password.
    fn create(&self) -> Result<Found, Error>;

    /// Sets the password and returns once the account database is on disk. An error is no proof that the
    /// password was not set: only [`Accounts::verify`] tells.
    fn set(&self, password: &Password) -> Result<(), Error>;

    /// Tries the password by logging on, once: a wrong one counts against the account's lockout.
    fn verify(&self, password: &Password) -> Result<Verdict, Error>;
}

/// An account that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As the operating system numbers it.
    pub id: AccountId,
    /// Another one after every setting of the password, by whomever: the time of the last setting where the
    /// system knows it to the second, or anything else that changes. Only ever compared for equality. None where
    /// there is no password or the system does not tell.
    pub mark: Option<u64>,
    /// When the password was last set, in seconds since the epoch and as exactly as the system knows. For people.
    pub set_at: Option<u64>,
}

/// What a logon proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is right. That includes logons that are refused for another reason than the password: type
    /// of logon not granted, account disabled or restricted.
    Accepted,
    /// The password is wrong.
    Rejected,
}

/// An account that could not be read or changed. Its words must not hold a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's policy does not take the password.
    #[error("the password does not meet the policy: {0}")]
    Policy(String),
    /// There is no such account.
    #[error("the account does not exist")]
    Missing,
    /// It is the system's own administrator, without which a broken machine cannot be mended.
    #[error("the account {0} is root; set account.danger_manage_root = true to manage it all the same")]
    Root(String),
    /// The account database cannot be used.
    #[error("the account database cannot be used: {0}")]
    Database(String),
    /// Its file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] crate::disk::Error),
}
