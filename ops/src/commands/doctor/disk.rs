//! The database: its file and the disk below it, or the server that has it.

use std::fs;
use std::path::Path;

use keyturn_ports::audit::{Action, NewRow};
use keyturn_service::recovery::RecoveryLog;
use rusqlite::{Connection, OpenFlags};

use super::{Check, Deployment};

pub(super) async fn examine(deployment: &Deployment) -> Vec<Check> {
    let mut checks = database(deployment).await;
    checks.extend(deployment.engines.recovery().map(|log| recovery_log(deployment, log)));
    checks
}

/// Whether the rotator could write its second copy: while it cannot, no password is made.
fn recovery_log(deployment: &Deployment, log: &RecoveryLog) -> Check {
    const NAME: &str = "recovery log";
    match log.probe() {
        Ok(free) => {
            let found =
                format!("{} can be appended to, {} MiB are free there", log.file.display(), free >> 20);
            if free < deployment.config.sections.doctor.disk_warn_bytes {
                return Check::warning(NAME, found, "make room: when it is full, no password is made");
            }
            Check::ok(NAME, found)
        }
        Err(error) => {
            let place = "mount its disk, see that its folder is there and the rotator's user may write in it";
            if log.required {
                let mend = format!("{place}; until then no password is made, and what waits is tried again");
                return Check::failed(NAME, error, mend);
            }
            let mend = format!("{place}; until then versions are stored that the log does not have");
            Check::warning(NAME, error, mend)
        }
    }
}

async fn database(deployment: &Deployment) -> Vec<Check> {
    if deployment.config.postgres.is_some() {
        // Its disk is another machine's.
        return vec![appendable(deployment).await];
    }
    let file = &deployment.config.sections.data.file;
    vec![integrity(file), wal(deployment, file), space(deployment, file), writable(file)]
}

fn open(file: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

fn integrity(file: &Path) -> Check {
    const NAME: &str = "database";
    let mend = "stop everything and restore a backup: docs/runbooks/restore.md";
    let looked = open(file, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    match looked {
        Ok(answer) if answer == "ok" => Check::ok(NAME, "its pages are whole"),
        Ok(answer) => Check::failed(NAME, answer, mend),
        Err(error) => Check::failed(NAME, error.to_string(), mend),
    }
}

fn wal(deployment: &Deployment, file: &Path) -> Check {
    let mut name = file.to_owned().into_os_string();
    name.push("-wal");
    let bytes = fs::metadata(&name).map_or(0, |found| found.len());
    let found = format!("{} MiB wait to be moved into the database", bytes >> 20);
    if bytes > deployment.config.sections.doctor.wal_warn_bytes {
        let mend =
            "somebody reads for very long and keeps it from shrinking: end old backups and open shells";
        return Check::warning("write-ahead log", found, mend);
    }
    Check::ok("write-ahead log", found)
}

fn space(deployment: &Deployment, file: &Path) -> Check {
    const NAME: &str = "disk";
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} MiB are free", free >> 20);
            if free < deployment.config.sections.doctor.disk_warn_bytes {
                return Check::warning(
                    NAME,
                    found,
                    "make room: when it is full, nothing is accepted any more",
                );
            }
            Check::ok(NAME, found)
        }
        Err(error) => Check::failed(NAME, error.to_string(), "look at the disk"),
    }
}

/// The same as [`writable`] on a server, as the port asks it.
async fn appendable(deployment: &Deployment) -> Check {
    let (at, actor) = (deployment.engines.clock().now(), "doctor".to_owned());
    let row = NewRow {
        at,
        actor,
        action: Action::SecretGet,
        device: None,
        reason: String::new(),
        detail: String::new(),
    };
    match deployment.engines.audit().probe(row).await {
        Ok(()) => Check::ok(AUDIT_WRITABLE, "a row could be written, and was not"),
        Err(error) => {
            let mend = "see that the server takes writes, and the rights of this user: docs/POSTGRESQL.md; until then \
                        no password is shown";
            Check::failed(AUDIT_WRITABLE, error.to_string(), mend)
        }
    }
}

const AUDIT_WRITABLE: &str = "audit writable";

/// Whether a row could be written, the audit's above all: without it no password is shown.
fn writable(file: &Path) -> Check {
    let tried = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|connection| {
        connection.execute_batch(
            "BEGIN IMMEDIATE; \
             INSERT INTO audit (seq, at, actor, action, reason, detail, hash) \
             VALUES (-1, 0, 'doctor', 'SecretGet', '', '', zeroblob(32)); \
             ROLLBACK;",
        )
    });
    match tried {
        Ok(()) => Check::ok(AUDIT_WRITABLE, "a row could be written, and was not"),
        Err(error) => {
            let mend = "see who owns the file and whether the disk is full or read-only; until then no password is shown";
            Check::failed(AUDIT_WRITABLE, error.to_string(), mend)
        }
    }
}
