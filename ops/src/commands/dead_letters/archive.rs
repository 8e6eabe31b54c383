//! The archive of letters that are discarded: all that is left of them, so it is whole and on the disk before the first
//! of them goes.
//!
//! It is written beside its place and then renamed into it, so that a command that was killed leaves no half archive.
//! One that was killed between the archive and its job leaves a whole one, and the same words go on with it if it says
//! the same.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use serde_json::json;

use super::select::{Names, Plan, Selection};
use crate::failure::{Code, Failure, OfFile as _, Result};

/// Writes the letters of a plan to `path`, whole, readable by the owner alone, and waits for the disk.
pub(super) async fn store(
    path: &Path,
    selection: &Selection,
    names: &mut Names<'_>,
    plan: &Plan,
) -> Result<()> {
    let planned: BTreeSet<DeadLetterId> = plan.eligible.iter().copied().collect();
    let mut beside = OsString::from(path);
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let file = file.written_to(&beside)?;
    let (mut lines, mut letters, mut stored) = (BufWriter::new(file), selection.letters(), 0);
    while let Some(page) = letters.next(names).await? {
        for letter in page.iter().filter(|letter| planned.contains(&letter.id)) {
            writeln!(lines, "{}", line(letter)).written_to(&beside)?;
            stored += 1;
        }
    }
    let file = lines.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).written_to(&beside)?;
    if stored < planned.len() {
        std::fs::remove_file(&beside).written_to(&beside)?;
        let gone = planned.len() - stored;
        let problem = format!("{gone} of the letters were replayed or discarded meanwhile; look again");
        return Err(Failure::new(Code::PlanStale, problem));
    }
    match std::fs::hard_link(&beside, path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if !same(&beside, path).read_of(path)? {
                std::fs::remove_file(&beside).written_to(&beside)?;
                let problem = "there is such a file already, and it is not the archive of these letters; name another \
                               one with --archive";
                return Err(Failure::new(Code::FileExists, problem));
            }
        }
        Err(error) => {
            std::fs::remove_file(&beside).written_to(&beside)?;
            return Err(error).written_to(path);
        }
    }
    std::fs::remove_file(&beside).written_to(&beside)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).written_to(folder)
}

fn line(letter: &DeadLetter) -> serde_json::Value {
    json!({
        "id": letter.id, "queue": letter.queue, "reason": letter.reason, "device_id": letter.message.device,
        "request_id": letter.message.request, "enqueued_ms": letter.enqueued, "died_ms": letter.died,
        "deliveries": letter.deliveries, "attempts": letter.attempts, "body": letter.message.body,
    })
}

/// Whether two files say the same.
fn same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    for (one, other) in BufReader::new(one).bytes().zip(BufReader::new(other).bytes()) {
        if one? != other? {
            return Ok(false);
        }
    }
    Ok(true)
}
