//! The columns of what leaves the house: of the tables in Azure Monitor, and of `keyturn audit export` and `events export`.
//!
//! Those of CloudLAPS (`CloudLAPSAudit_CL`, `CloudLAPSClient_CL`) have the endings that the Data Collector API gave
//! them, which its workbooks ask for; the Logs Ingestion API gives none, so they are part of the names here. Beside them
//! are ours. infra/azure/logs.json declares the same, and a test compares them.

use keyturn_domain::lane::LaneEvent;
use keyturn_ports::audit::Row;
use keyturn_ports::audit::chain::hexadecimal;
use keyturn_ports::ledger::{Event, Happening};
use keyturn_schemas::envelope::rfc3339;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::names::Named;

/// The longest text in a column of a table, in bytes. The service cuts off what is behind 64 KiB.
const TEXT_BYTES: usize = 60_000;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in the table.
    pub name: &'static str,
    /// Its type in the stream: `string`, `datetime` or `dynamic`.
    pub kind: &'static str,
    /// What it is called in an export, if it is there.
    pub export: Option<&'static str>,
}

const fn text(name: &'static str, export: &'static str) -> Column {
    Column { name, kind: "string", export: Some(export) }
}

const TIME: Column = Column { name: "TimeGenerated", kind: "datetime", export: None };

/// The columns of the audit.
pub const AUDIT: [Column; 13] = [
    TIME,
    text("AzureADDeviceId_g", "AzureADDeviceId"),
    text("UserPrincipalName_s", "UserPrincipalName"),
    text("Action_s", "Action"),
    text("ComputerName_s", "ComputerName"),
    text("SerialNumber_s", "SerialNumber"),
    Column { name: "CreatedOn_t", kind: "datetime", export: Some("CreatedOn") },
    text("Result_s", "Result"),
    text("Id_s", "Id"),
    text("Reason", "Reason"),
    text("Detail", "Detail"),
    text("Hash", "Hash"),
    text("RowId", "RowId"),
];

/// The columns of what happened on devices.
pub const EVENTS: [Column; 12] = [
    TIME,
    text("SerialNumber_s", "SerialNumber"),
    text("AzureADDeviceId_g", "AzureADDeviceId"),
    text("PasswordRotationResult_s", "PasswordRotationResult"),
    Column { name: "DateTimeUtc_t", kind: "datetime", export: Some("DateTimeUtc") },
    text("Message", "Message"),
    // Queries on CloudLAPS's table are seen with either name.
    Column { name: "Message_s", kind: "string", export: None },
    text("ComputerName_s", "ComputerName"),
    text("Id_s", "Id"),
    text("RequestId", "RequestId"),
    Column { name: "Event", kind: "dynamic", export: Some("Event") },
    text("RowId", "RowId"),
];

/// A row: a value for each column.
#[derive(Clone, Debug, PartialEq)]
pub struct Cells<const N: usize> {
    columns: &'static [Column; N],
    values: [Value; N],
}

/// A row of the audit.
pub fn audit(row: &Row, named: &Named) -> Cells<13> {
    let Row { seq, row, hash } = row;
    let (at, head) = (rfc3339(row.at), hash.get(..32).unwrap_or(hash));
    let values = [
        json!(at),
        json!(row.device),
        json!(row.actor),
        // CloudLAPS has one action, SecretGet; the others are ours.
        json!(row.action),
        json!(named.computer),
        json!(named.serial),
        json!(at),
        json!("Success"),
        json!(seq.to_string()),
        json!(row.reason),
        json!(row.detail),
        json!(hash),
        json!(format!("a{seq}-{head}")),
    ];
    Cells { columns: &AUDIT, values }
}

/// Something that happened on a device.
pub fn event(place: u64, event: &Event, named: &Named) -> Cells<12> {
    let (at, (result, message)) = (rfc3339(event.at), told(event));
    let values = [
        json!(at),
        json!(named.serial),
        json!(event.device),
        json!(result),
        json!(at),
        json!(message),
        json!(message),
        json!(named.computer),
        json!(place.to_string()),
        json!(event.request),
        json!(event.what),
        json!(format!("e{place}-{}", digest(event))),
    ];
    Cells { columns: &EVENTS, values }
}

/// The first half of a SHA-256 of what happened, in hexadecimal. Places alone are not enough: a power loss, or a restore,
/// may take back facts that have left already, and their places are given to others.
fn digest(event: &Event) -> String {
    // What is serialised here was read from the store, where it was stored serialised.
    let text = serde_json::to_vec(event).unwrap_or_default();
    let mut digits = hexadecimal(&Sha256::digest(&text).into());
    digits.truncate(32);
    digits
}

impl<const N: usize> Cells<N> {
    /// The row as an export has it.
    pub fn exported(self) -> Value {
        let named = self.columns.iter().zip(self.values);
        named
            .filter_map(|(column, value)| Some((column.export?.to_owned(), value)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// The row as its table has it, a JSON object.
    pub fn shipped(self) -> String {
        let named = self.columns.iter().zip(self.values);
        let row = named.map(|(column, value)| (column.name.to_owned(), bounded(value)));
        Value::from(row.collect::<Map<_, _>>()).to_string()
    }
}

/// Texts are cut where the service would, so that a row never is too much for a call.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(mut text) if text.len() > TEXT_BYTES => {
            text.truncate(text.floor_char_boundary(TEXT_BYTES));
            text.push('…');
            Value::String(text)
        }
        other => other,
    }
}

/// CloudLAPS's word for what happened, where it has one, and a sentence.
fn told(event: &Event) -> (String, String) {
    let (result, message) = match &event.what {
        Happening::Client { result, message } => return (result.clone(), message.clone()),
        Happening::RequestRefused { code } => ("NotAllowed", format!("refused with {code}")),
        Happening::Lane { event: LaneEvent::PasswordConfirmed { version }, .. } => {
            ("PasswordRotated", format!("the device confirmed version {version}"))
        }
        Happening::Lane { event: LaneEvent::PasswordRefused { version }, .. } => {
            ("Failed", format!("the operating system refused version {version}"))
        }
        Happening::Lane { event: LaneEvent::PasswordMinted { version, .. }, .. } => {
            ("", format!("version {version} was made"))
        }
        Happening::Lane { event: LaneEvent::AlarmRaised { alarm }, .. } => {
            ("", format!("alarm {}", alarm.as_str()))
        }
        Happening::Lane { event: LaneEvent::LaneOpened, .. } => ("", "first heard of".to_owned()),
        Happening::Lane { event: LaneEvent::LaneRestored, .. } => {
            ("", "known again after the ledger was restored".to_owned())
        }
    };
    (result.to_owned(), message)
}

#[cfg(test)]
mod tests;
