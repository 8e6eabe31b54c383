//! Telling the log and the metrics what took effect.

use keyturn_domain::ids::VersionId;
use keyturn_domain::lane::LaneEvent;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{Commit, Happening};
use keyturn_schemas::envelope::rfc3339;
use tracing::{info, warn};

use crate::judge::Judged;

/// Tells what a message did. Returns the version that it was about, if it was about one.
pub(crate) fn tell(judged: &Judged, commit: &Commit) -> Option<VersionId> {
    let mut rotation = None;
    let (rid, device, trace) = (commit.request, judged.lane.device, judged.trace.trace_id());
    for event in &commit.events {
        match &event.what {
            Happening::Lane { event: LaneEvent::PasswordMinted { version, reason }, .. } => {
                rotation = Some(*version);
                metrics::counter!("keyturn_rotations_total", "outcome" => "minted").increment(1);
                info!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace, reason = ?reason,
                    "a version is minted");
            }
            Happening::Lane { event: LaneEvent::PasswordConfirmed { version }, .. } => {
                rotation = Some(*version);
                metrics::counter!("keyturn_rotations_total", "outcome" => "confirmed").increment(1);
                info!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace,
                    "the device confirmed its version");
            }
            Happening::Lane { event: LaneEvent::PasswordRefused { version }, .. } => {
                rotation = Some(*version);
                metrics::counter!("keyturn_rotations_total", "outcome" => "refused").increment(1);
                warn!(request.id = %rid, device.id = %device, rotation.id = %version, trace.id = trace,
                    "the device refused a version");
            }
            Happening::Lane { event: LaneEvent::AlarmRaised { alarm }, .. } => {
                metrics::counter!("keyturn_alarms_total").increment(1);
                warn!(request.id = %rid, device.id = %device, trace.id = trace, alarm = ?alarm, "alarm");
            }
            Happening::Lane { event: LaneEvent::LaneOpened, .. } => {
                info!(request.id = %rid, device.id = %device, trace.id = trace, "a lane is opened");
            }
            Happening::Lane { event: LaneEvent::LaneRestored, .. } => {
                info!(request.id = %rid, device.id = %device, trace.id = trace,
                    "the device is known again after the ledger was restored");
            }
            Happening::RequestRefused { code } => {
                warn!(request.id = %rid, device.id = %device, trace.id = trace, code, "the message is refused");
            }
            Happening::Client { result, .. } => {
                info!(request.id = %rid, device.id = %device, trace.id = trace, result, "the device sent an event");
            }
        }
    }
    rotation
}

/// Tells why a device gets no new version for now: for it has had `cap` of them, or somebody or its refusals hold it.
pub(crate) fn held(judged: &Judged, until: UnixMillis, cap: Option<usize>) {
    let (rid, device, trace) = (judged.message.message().rid(), judged.lane.device, judged.trace.trace_id());
    let until = rfc3339(until);
    if let Some(versions) = cap {
        info!(request.id = %rid, device.id = %device, trace.id = trace, until, versions,
            "no new version for now: the device has had as many as rotation.versions_per_day allows");
    } else {
        info!(request.id = %rid, device.id = %device, trace.id = trace, until,
            "no new version for now: the device is held by an operator, or for the passwords that it refused");
    }
}
