//! What a run came to, and how that is said in one line.

use std::fmt;
use std::time::Duration;

use keyturn_domain::ids::VersionId;
use keyturn_domain::time::UnixMillis;

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A version was set and proved.
    Rotated {
        /// The version.
        version: VersionId,
        /// Whether the server confirmed the report. If not, the next request carries it.
        recorded: bool,
    },
    /// Nothing is due.
    NotDue {
        /// Before this instant, by the server's clock.
        retry_at: Option<UnixMillis>,
    },
    /// The server holds rotations of this device back.
    Held {
        /// Until this instant, by the server's clock.
        retry_at: Option<UnixMillis>,
    },
    /// The account did not take the version.
    AccountRefused {
        /// The version.
        version: VersionId,
        /// Whether the server confirmed the report.
        recorded: bool,
    },
    /// Whether the account has the version could not be told.
    Unproved {
        /// The version.
        version: VersionId,
    },
    /// The server does not let this device rotate.
    Refused,
    /// The answer came too late to be acted on.
    Expired,
    /// The server asked for patience.
    Throttled {
        /// For this long.
        after: Duration,
    },
}

/// The words for ends that are as they should be.
pub(crate) const GOOD: [&str; 2] = ["rotated", "not_due"];

impl Outcome {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rotated { .. } => "rotated",
            Self::NotDue { .. } => "not_due",
            Self::Held { .. } => "held",
            Self::AccountRefused { .. } => "account_refused",
            Self::Unproved { .. } => "unproved",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Throttled { .. } => "throttled",
        }
    }

    /// Whether everything is as it should be.
    pub fn is_success(&self) -> bool {
        GOOD.contains(&self.code())
    }

    /// When the server expects the next request, if it said so.
    pub fn retry_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        match self {
            Self::NotDue { retry_at } | Self::Held { retry_at } => *retry_at,
            Self::Throttled { after } => Some(now.plus(*after)),
            _ => None,
        }
    }
}

/// One line without a secret, for people and for management tools, which look for `code=`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rotated { version, recorded: true } => {
                write!(f, "Rotated and confirmed version {version}.")
            }
            Self::Rotated { version, recorded: false } => {
                write!(f, "Rotated to version {version}; the server hears of it with the next request.")
            }
            Self::NotDue { retry_at: Some(at) } => write!(f, "Not due until {}.", When(*at)),
            Self::NotDue { retry_at: None } => write!(f, "Not due."),
            Self::Held { retry_at: Some(at) } => {
                write!(f, "Not rotated: held by the server until {}.", When(*at))
            }
            Self::Held { retry_at: None } => write!(f, "Not rotated: held by the server."),
            Self::AccountRefused { version, .. } => {
                write!(
                    f,
                    "Not rotated: the account did not take version {version}. The current password stays valid."
                )
            }
            Self::Unproved { version } => {
                write!(f, "Not proved: whether the account has version {version} could not be told.")
            }
            Self::Refused => write!(f, "Not rotated: the server does not let this device rotate."),
            Self::Expired => write!(f, "Not rotated: the answer came too late."),
            Self::Throttled { after } => {
                write!(
                    f,
                    "Not rotated: the server asked to wait {} s. The current password stays valid.",
                    after.as_secs()
                )
            }
        }?;
        write!(f, " code={}", self.code())
    }
}

/// An instant as RFC 3339 writes it.
pub(crate) struct When(pub(crate) UnixMillis);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.0 / 1000).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_second(seconds) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => f.write_str("an unknown time"),
        }
    }
}
