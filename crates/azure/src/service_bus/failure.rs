//! What the errors of the AMQP library come to. Only conditions get any further: descriptions are the other side's own
//! words, and what `{:?}` shows of a frame may have a token in it.

use fe2o3_amqp::connection::OpenError;
use fe2o3_amqp::link::{
    DetachError, IllegalLinkStateError, LinkStateError, ReceiverAttachError, RecvError, SendError,
    SenderAttachError,
};
use fe2o3_amqp::session::BeginError;
use fe2o3_amqp::types::definitions::{self, ErrorCondition};
use fe2o3_amqp::types::primitives::Symbol;
use keyturn_ports::{Error, Kind};

use crate::failure::{Failure, Refused};

/// How an operation ended that did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The lock token names no lock any more.
    LeaseLost,
    /// The message is larger than the service takes.
    TooLarge,
    /// Anything else.
    Failed(Failure),
}

impl Wrong {
    pub(super) fn silence(what: &'static str) -> Self {
        Self::Failed(Failure::Silence(what))
    }

    pub(super) fn nonsense(what: &'static str) -> Self {
        Self::Failed(Failure::Nonsense(what))
    }

    /// What a condition means, such as `com.microsoft:server-busy`
    /// (learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-troubleshoot).
    pub(super) fn told(condition: &str) -> Self {
        let status = match condition {
            "com.microsoft:message-lock-lost" | "com.microsoft:session-lock-lost" => return Self::LeaseLost,
            "amqp:link:message-size-exceeded" => return Self::TooLarge,
            "com.microsoft:server-busy" => 503,
            "amqp:unauthorized-access" | "com.microsoft:auth-failed" => 401,
            "amqp:not-found" => 404,
            "com.microsoft:entity-disabled" | "amqp:not-allowed" => 409,
            "amqp:resource-limit-exceeded" => 507,
            _ => 500,
        };
        Self::refused(status, condition)
    }

    /// A status of `$management` or `$cbs`, with its condition if it told one.
    pub(super) fn answered(status: i32, condition: Option<&str>) -> Self {
        match (status, condition) {
            (410, _) => Self::LeaseLost,
            (404 | 500.., Some(condition)) | (_, Some(condition @ "com.microsoft:server-busy")) => {
                Self::told(condition)
            }
            (status, condition) => {
                Self::refused(u16::try_from(status).unwrap_or(500), condition.unwrap_or_default())
            }
        }
    }

    fn refused(status: u16, condition: &str) -> Self {
        let word = condition.rsplit(':').next().unwrap_or_default();
        let plain = |word: &&str| {
            (1..=64).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let code = Some(word).filter(plain).map(str::to_owned);
        Self::Failed(Failure::Refused(Refused { status, code, retry_after: None }))
    }

    /// What the other side ended a link, a session or a connection with.
    pub(super) fn closed(error: &definitions::Error) -> Self {
        Self::told(symbol(&error.condition).as_str())
    }

    /// Whether somebody asked for a session and there is none to be had.
    pub(super) fn is_no_session(&self) -> bool {
        let Self::Failed(Failure::Refused(Refused { code: Some(code), .. })) = self else { return false };
        matches!(code.as_str(), "timeout" | "session-cannot-be-locked")
    }

    /// The same as an error of the port.
    pub(super) fn during(&self, action: &'static str) -> Error {
        match self {
            Self::LeaseLost => Error::new(Kind::Unavailable, action, "a lease was lost where there is none"),
            Self::TooLarge => {
                Error::new(Kind::Corrupt, action, "the message is larger than the service takes")
            }
            Self::Failed(failure) => match failure {
                Failure::Refused(Refused { status: 401 | 403, .. }) => Error::new(
                    Kind::Denied,
                    action,
                    format!(
                        "{failure}; the identity needs the role Azure Service Bus Data Sender, Receiver, or both"
                    ),
                ),
                Failure::Refused(Refused { status: 404, .. }) => Error::new(
                    Kind::Unavailable,
                    action,
                    format!("{failure}; the queue is to be made beforehand, see docs/AZURE.md"),
                ),
                Failure::Refused(Refused { status: 409, code: Some(code), .. }) if code == "not-allowed" => {
                    Error::new(
                        Kind::Unavailable,
                        action,
                        format!(
                            "{failure}; the queue requires sessions and queues.service_bus.sessions is false, or the \
                             other way around"
                        ),
                    )
                }
                failure => failure.during(action),
            },
        }
    }
}

fn symbol(condition: &ErrorCondition) -> Symbol {
    match condition {
        ErrorCondition::AmqpError(error) => error.into(),
        ErrorCondition::ConnectionError(error) => error.into(),
        ErrorCondition::SessionError(error) => error.into(),
        ErrorCondition::LinkError(error) => error.into(),
        ErrorCondition::Custom(symbol) => symbol.clone(),
    }
}

const BROKE: &str = "the connection broke";

impl From<OpenError> for Wrong {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::RemoteClosedWithError(error) => Self::closed(&error),
            OpenError::SaslError { .. } => Self::told("amqp:unauthorized-access"),
            _ => Self::silence("the connection could not be made"),
        }
    }
}

impl From<BeginError> for Wrong {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::RemoteEndedWithError(error) => Self::closed(&error),
            _ => Self::silence(BROKE),
        }
    }
}

impl From<SenderAttachError> for Wrong {
    fn from(error: SenderAttachError) -> Self {
        match error {
            SenderAttachError::RemoteClosedWithError(error) => Self::closed(&error),
            _ => Self::silence("the link was not made"),
        }
    }
}

impl From<ReceiverAttachError> for Wrong {
    fn from(error: ReceiverAttachError) -> Self {
        match error {
            ReceiverAttachError::RemoteClosedWithError(error) => Self::closed(&error),
            _ => Self::silence("the link was not made"),
        }
    }
}

impl From<LinkStateError> for Wrong {
    fn from(error: LinkStateError) -> Self {
        match error {
            LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error) => {
                Self::closed(&error)
            }
            _ => Self::silence(BROKE),
        }
    }
}

impl From<SendError> for Wrong {
    fn from(error: SendError) -> Self {
        match error {
            SendError::LinkStateError(error) => error.into(),
            SendError::Detached(
                DetachError::RemoteClosedWithError(error) | DetachError::RemoteDetachedWithError(error),
            ) => Self::closed(&error),
            SendError::MessageSizeExceeded(_) => Self::TooLarge,
            SendError::MessageEncodeError => Self::nonsense("the message cannot be put into a frame"),
            _ => Self::silence(BROKE),
        }
    }
}

impl From<RecvError> for Wrong {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::LinkStateError(error) => error.into(),
            RecvError::MessageDecode(_) => Self::nonsense("a message cannot be read"),
            _ => Self::silence(BROKE),
        }
    }
}

impl From<IllegalLinkStateError> for Wrong {
    fn from(_: IllegalLinkStateError) -> Self {
        Self::silence(BROKE)
    }
}

#[cfg(test)]
mod tests {
    use keyturn_ports::Kind;

    use super::Wrong;

    #[test]
    fn conditions_are_told_by_their_last_word_and_descriptions_never() {
        let kind = |condition: &str| Wrong::told(condition).during("x").kind();
        assert_eq!(kind("amqp:unauthorized-access"), Kind::Denied);
        assert_eq!(kind("amqp:link:message-size-exceeded"), Kind::Corrupt);
        assert_eq!(kind("com.microsoft:server-busy"), Kind::Unavailable);
        assert_eq!(Wrong::told("com.microsoft:message-lock-lost"), Wrong::LeaseLost);
        assert_eq!(Wrong::answered(410, None), Wrong::LeaseLost);
        let told = Wrong::told("com.microsoft:server-busy").during("x").to_string();
        assert!(told.contains("status 503, server-busy"), "{told}");
        let strange =
            Wrong::answered(500, Some("x:SharedAccessSignature sig=canary")).during("x").to_string();
        assert!(!strange.contains("canary"), "{strange}");
    }
}
