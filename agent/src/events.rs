//! What the agent writes to its log, all in one place, so that a reader can see that no password, ticket or
//! message body is ever among it. Each line has a number (`event.id`) that stays the same between releases.

use std::fmt::Display;
use std::path::Path;

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::journal::Journal;
use keyturn_schemas::result::Code;
use tracing::{debug, error, info, warn};

/// The numbers: 1000 lifecycle, 1100 rotation, 1200 answers that hold it up, 1300 trust and state.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
enum Id {
    CheckIn = 1000,
    Finished = 1001,
    Requested = 1110,
    VersionReceived = 1111,
    VersionProved = 1112,
    Recorded = 1113,
    NothingToSet = 1114,
    AccountCreated = 1115,
    AskAnew = 1201,
    UnusableAnswer = 1202,
    Retry = 1203,
    AccountRefused = 1204,
    NotRecorded = 1205,
    Unproved = 1206,
    LeftUnlocked = 1207,
    AccountIncomplete = 1208,
    KeySetTaken = 1300,
    KeySetIgnored = 1301,
    JournalCorrupt = 1302,
    CurrentUnknown = 1303,
    InstallCorrupt = 1304,
    Housekeeping = 1305,
}

impl Id {
    fn number(self) -> u16 {
        self as u16
    }
}

/// Writes one line with its number.
macro_rules! log {
    ($level:ident, $id:ident, $($rest:tt)*) => { $level!(event.id = Id::$id.number(), $($rest)*) };
}

pub(crate) fn check_in(device: DeviceId, lane: LaneId, trace: Option<&str>) {
    log!(info, CheckIn, device.id = %device, lane.id = %lane, trace.id = trace, "Device {device} checks in");
}

pub(crate) fn finished(line: &str) {
    log!(info, Finished, "{line}");
}

pub(crate) fn requested(rid: RequestId) {
    log!(info, Requested, request.id = %rid, "Request {rid} was taken by the server");
}

pub(crate) fn version_received(rid: RequestId, version: VersionId) {
    log!(info, VersionReceived, request.id = %rid, rotation.id = %version, "Request {rid} was answered with password version {version}");
}

pub(crate) fn version_proved(version: VersionId) {
    log!(info, VersionProved, rotation.id = %version, "Password version {version} was set and proved by logging on");
}

pub(crate) fn account_refused(version: VersionId, reason: &dyn Display) {
    log!(warn, AccountRefused, rotation.id = %version, reason = %reason, "The account did not take password version {version}: {reason}");
}

pub(crate) fn unproved(version: VersionId, reason: &dyn Display) {
    log!(warn, Unproved, rotation.id = %version, reason = %reason, "Whether the account has password version {version} could not be told: {reason}");
}

pub(crate) fn recorded(rid: RequestId) {
    log!(info, Recorded, request.id = %rid, "The server recorded report {rid}");
}

pub(crate) fn not_recorded(reason: &dyn Display) {
    log!(warn, NotRecorded, reason = %reason, "The report is not confirmed yet, the next request carries it again: {reason}");
}

pub(crate) fn nothing_to_set(rid: RequestId, code: Code) {
    log!(info, NothingToSet, request.id = %rid, code = code.as_str(), "Request {rid} was answered without a version to set: {}", code.as_str());
}

pub(crate) fn account_created(account: &str) {
    log!(
        info,
        AccountCreated,
        account.id = account,
        "The managed account was missing and was created as {account}"
    );
}

pub(crate) fn left_unlocked(account: &str, reason: &dyn Display) {
    log!(
        error,
        LeftUnlocked,
        account.name = account,
        reason = %reason,
        "The account {account} was locked, and its lock could not be put back after its password was set; run usermod --lock {account}: {reason}"
    );
}

pub(crate) fn account_incomplete(account: &str, reason: &dyn Display) {
    log!(warn, AccountIncomplete, account.name = account, reason = %reason, "The account {account} was created, but not all that belongs to it: {reason}");
}

pub(crate) fn ask_anew(reason: &'static str) {
    log!(info, AskAnew, reason, "The request is made anew: {reason}");
}

pub(crate) fn unusable_answer(rid: RequestId, reason: &dyn Display) {
    log!(warn, UnusableAnswer, request.id = %rid, reason = %reason, "An answer to {rid} cannot be trusted and was not acted on: {reason}");
}

pub(crate) fn retry(what: &'static str, attempt: u32, reason: &dyn Display) {
    log!(debug, Retry, attempt, reason = %reason, "{what} is tried again after attempt {attempt}: {reason}");
}

pub(crate) fn key_set_taken(serial: u64) {
    log!(info, KeySetTaken, serial, "The server's key set {serial} is used from now on");
}

pub(crate) fn key_set_ignored(reason: &dyn Display) {
    log!(warn, KeySetIgnored, reason = %reason, "A key set was not taken: {reason}");
}

pub(crate) fn journal_corrupt(aside: &Path) {
    let aside = aside.display();
    log!(warn, JournalCorrupt, file = %aside, "The journal could not be read and counts as lost; it was kept as {aside}");
}

pub(crate) fn install_corrupt(aside: &Path) {
    let aside = aside.display();
    log!(warn, InstallCorrupt, file = %aside, "The installation's id could not be read and is made anew; the file was kept as {aside}");
}

pub(crate) fn current_unknown(journal: &Journal) {
    let doubts = journal.in_doubt.len();
    log!(
        warn,
        CurrentUnknown,
        in_doubt = doubts,
        "The password was set by other means than the journal knows of; its version is unknown and {doubts} are in doubt"
    );
}

pub(crate) fn housekeeping(reason: &dyn Display) {
    log!(warn, Housekeeping, reason = %reason, "A file that is only for information could not be written: {reason}");
}
