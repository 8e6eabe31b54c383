//! What can be seen on this machine.

use super::{Check, Patient};
use crate::agent::chain;
use crate::detect::{self, Finding, Known};
use crate::journal_file::JournalFile;
use crate::outcome::When;
use crate::status::LastRun;
use crate::{accounts, disk, identity};

/// As much as all the agent's files together.
const PROBE: [u8; 16 * 1024] = [0; 16 * 1024];

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Check> {
    vec![
        Check::new("state", state(patient)),
        Check::new("journal", journal(patient)),
        Check::new("account", account(patient)),
        Check::new("rotation", rotation(patient)),
    ]
}

/// Lets the key sign: that it is there, can be used, and belongs to the certificate cannot be seen otherwise.
pub(super) async fn identity(patient: &Patient<'_>) -> Result<String, String> {
    let identity = &patient.settings.identity;
    match identity.prove().await {
        Ok(()) => Ok(format!("{} signs for device {}", identity.place(), patient.settings.device)),
        Err(identity::Error::Mismatch) => {
            Err(format!("{} is not the certificate's; name the right one of the two", identity.place()))
        }
        Err(error) => Err(chain(&error)),
    }
}

fn state(patient: &Patient<'_>) -> Result<String, String> {
    let (folder, probe) = (&patient.settings.state, patient.settings.state.join("doctor"));
    let tried = disk::create_folder(folder)
        .and_then(|()| disk::replace(&probe, &PROBE))
        .and_then(|()| disk::remove(&probe));
    let mend = "it has to be root's, on a file system that can be written to and has room";
    tried
        .map(|()| format!("{} can be written to", folder.display()))
        .map_err(|error| format!("{}; {mend}", chain(&error)))
}

fn journal(patient: &Patient<'_>) -> Result<String, String> {
    let file = JournalFile::new(&patient.settings.state);
    match (file.is_damaged(), file.peek()) {
        (Ok(false), Ok(Some(journal))) => Ok(match journal.cur {
            Some(version) => format!("version {version} is in use, {} in doubt", journal.in_doubt.len()),
            None => format!("the version in use is not known, {} in doubt", journal.in_doubt.len()),
        }),
        (Ok(false), Ok(None)) => Ok("none yet".to_owned()),
        (Ok(true), _) => {
            Err("it cannot be read; the next run keeps it aside and begins a new one".to_owned())
        }
        (Err(error), _) | (_, Err(error)) => Err(chain(&error)),
    }
}

fn account(patient: &Patient<'_>) -> Result<String, String> {
    let Some(accounts) = patient.accounts else {
        return Ok("its name is chosen by the first run".to_owned());
    };
    let name = accounts.name();
    let found = accounts.equipped().and_then(|()| accounts.find());
    match found {
        Ok(Some(found)) => Ok(format!("{name}, number {}", found.id)),
        Ok(None) if patient.settings.create_account => {
            Ok(format!("{name} does not exist and will be created"))
        }
        Ok(None) => Err(format!("{name} does not exist; create it, or set account.create = true")),
        Err(error) => Err(with_mend(&error)),
    }
}

fn with_mend(error: &accounts::Error) -> String {
    let mend = match error {
        accounts::Error::Disk(_) if !rustix::process::geteuid().is_root() => "; run this as root",
        _ => "",
    };
    format!("{}{mend}", chain(error))
}

/// What to do about a server that refused the device or what it said: nothing here, and there they have to know of whom it
/// is. A device is not told why it is refused, since whoever has its key alone would learn from it.
fn refused(patient: &Patient<'_>, last: &LastRun) -> Option<String> {
    let (device, at, line) = (patient.settings.device, When(last.at), &last.line);
    match last.code.as_str() {
        "refused" => Some(format!(
            "the server refused this device at {at}, and gives a device no reason; there, `keyturn device show {device}` names \
             the code, such as KT-0206 for one that is disabled, and the page of the code tells what mends it. Nothing has \
             to be done here: after that the next check-in goes through"
        )),
        "rejected" => Some(format!(
            "the server did not take this device's message at {at}: {line}; the page of the code tells what mends it, and \
             the server's log has it for device {device}"
        )),
        _ => None,
    }
}

fn rotation(patient: &Patient<'_>) -> Result<String, String> {
    let state = &patient.settings.state;
    let journal = JournalFile::new(state).peek().ok().flatten().unwrap_or_default();
    let last = LastRun::load(state).ok().flatten();
    if let Some(refused) = last.as_ref().and_then(|last| refused(patient, last)) {
        return Err(refused);
    }
    let found = patient.accounts.and_then(|accounts| accounts.find().ok().flatten());
    if last.is_none() || found.is_none() {
        return Ok("none yet".to_owned());
    }
    let check_in = patient.settings.check_in;
    let known = Known { journal: &journal, found: found.as_ref(), last: last.as_ref(), check_in };
    match detect::look(known, patient.clock.now()) {
        fine @ Finding::Fine(_) => Ok(fine.to_string()),
        finding => Err(format!("{finding}; run keyturn-agent once, or wait for the service to")),
    }
}
