//! Outcomes: what the rotator gives the notifier to publish.

use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// What travels on the `outcomes` queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The message it answers.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub rid: RequestId,
    /// The lane and version it carries: it is published only while that version is outstanding.
    pub carries: Option<Carried>,
    /// The signed result; none for the one unsigned refusal.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Jws>"))]
    pub result: Option<String>,
    /// When the result may be forgotten.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub expires_ms: UnixMillis,
}

/// A version on its way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Carried {
    /// The lane it was made for.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::LaneId"))]
    pub lane: LaneId,
    /// The version.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::VersionId"))]
    pub version: VersionId,
}
