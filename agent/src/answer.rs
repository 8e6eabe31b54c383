//! What an answer must be before the agent acts on it. Whoever can pass these checks can choose the device's
//! administrator password, so they come first and all of them count.

use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_schemas::claims::{Deployment, EphemeralKey};
use keyturn_schemas::result::{self, Answer, Code, ResultError};
use keyturn_schemas::seal::{Binding, EphemeralSecret, SealError};
use keyturn_schemas::signing::PublicKey;

/// What a genuine answer to a message says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The deployment the agent belongs to.
    pub deployment: &'a Deployment,
    /// The message that waits for an answer.
    pub rid: RequestId,
    /// The lane the message spoke for.
    pub lane: LaneId,
}

/// A key pair made for one request, in memory only.
#[derive(Debug)]
pub struct Ephemeral {
    /// The half that opens the answer.
    pub secret: EphemeralSecret,
    /// The half that the request carries.
    pub public: EphemeralKey,
}

/// A password version to set.
#[derive(Debug)]
pub struct Offer {
    /// The version.
    pub version: VersionId,
    /// Its password.
    pub password: Password,
}

/// Why an answer is not acted on.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum Rejection {
    /// Not signed by a trusted key, or not a result.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// From another deployment.
    #[error("it comes from another deployment")]
    Deployment,
    /// For another message.
    #[error("it answers another message")]
    Request,
    /// For another lane.
    #[error("it is for another lane")]
    Lane,
    /// A code that does not answer this kind of message.
    #[error("«{}» is no answer to this message", .0.as_str())]
    Code(Code),
    /// A version was promised and is not there.
    #[error("it encloses no version")]
    Empty,
    /// Sealed to another key.
    #[error("it is sealed to another key than this request's")]
    Key,
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Reads an answer that is signed by a key of the key set and was made for the expected message.
pub fn check(text: &str, expected: Expected<'_>, trusted: &[PublicKey]) -> Result<Answer, Rejection> {
    let answer = result::verify(text, trusted)?;
    if answer.deployment != *expected.deployment {
        return Err(Rejection::Deployment);
    }
    if answer.rid != expected.rid {
        return Err(Rejection::Request);
    }
    if answer.lane != expected.lane {
        return Err(Rejection::Lane);
    }
    Ok(answer)
}

/// Opens the version enclosed in an answer that passed [`check`].
pub fn open(answer: &Answer, ephemeral: &Ephemeral) -> Result<Offer, Rejection> {
    let enclosed = answer.enclosed.as_ref().ok_or(Rejection::Empty)?;
    if enclosed.epk_thumbprint != ephemeral.public.thumbprint() {
        return Err(Rejection::Key);
    }
    let binding = Binding { rid: answer.rid, lane: answer.lane, version: enclosed.version };
    let sealed = enclosed.sealed().ok_or(SealError::Seal)?;
    let password = ephemeral.secret.open(&sealed, &binding)?;
    Ok(Offer { version: enclosed.version, password })
}
