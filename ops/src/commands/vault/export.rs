//! `keyturn vault export`: the passwords that devices may have now, sealed to an offline key.
//!
//! It is written beside its place, a device at a time, and renamed into it when it is whole and on the disk: a command
//! that is killed leaves no export, and the same words make it anew. The audit row comes first.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keyturn_domain::ids::{DeviceId, EventId};
use keyturn_domain::lane::{Lane, Standing};
use keyturn_ports::audit::Action;
use keyturn_schemas::claims::Version1;
use keyturn_schemas::export::{End, Head, Start, Sure, seal};
use keyturn_schemas::recovery::RecoveryPublic;

use super::Deployment;
use crate::cli::VaultExport;
use crate::commands::device::need_reason;
use crate::failure::{Code, Context as _, Failure, OfFile as _, OrFail as _, Result};
use crate::operator;
use crate::output;
use crate::reveal::{Look, Revealed};

/// Devices read at once.
const PAGE: usize = 500;

pub(super) async fn run(deployment: &Deployment, command: &VaultExport) -> Result<()> {
    need_reason(&command.reason)?;
    let name = command.sealed_to.display();
    let text = fs::read_to_string(&command.sealed_to).read_of(&command.sealed_to)?;
    let key = RecoveryPublic::parse(&text).or_fail(Code::FileNotMeant, name)?;
    if command.to.exists() {
        let problem = format!("{}: exists; an export is never written over", command.to.display());
        return Err(Failure::new(Code::FileExists, problem));
    }
    let what = format!("to {}, sealed to key {}", command.to.display(), key.fingerprint());
    deployment.record(Action::VaultExported, None, &command.reason, &what).await?;
    let mut beside = OsString::from(&command.to);
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let file = file.written_to(&beside)?;
    let mut export = Export {
        deployment,
        key,
        id: EventId(deployment.engines.entropy().bytes()),
        lines: BufWriter::new(file),
        beside: beside.clone(),
        versions: 0,
        missing: 0,
    };
    let written = export.write(&command.reason).await;
    let (versions, missing) = (export.versions, export.missing);
    let placed = written.and_then(|()| place(export.lines, &beside, &command.to));
    if placed.is_err() {
        // Half an export is worth nothing, and what is in it is sealed.
        drop(fs::remove_file(&beside));
    }
    placed.context(format_args!("{}: the export could not be made", command.to.display()))?;
    eprintln!(
        "{} in {}. Only the secret half of the key opens it.",
        output::are(versions, "version"),
        command.to.display()
    );
    match missing {
        0 => Ok(()),
        _ => Err(Failure::new(Code::Partial, format!("{missing} versions are not in the export"))),
    }
}

fn place(lines: BufWriter<File>, beside: &Path, to: &Path) -> Result<()> {
    let file = lines.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).written_to(beside)?;
    // Unlike a rename, a link never takes the place of a file that came meanwhile.
    fs::hard_link(beside, to).written_to(to)?;
    fs::remove_file(beside).written_to(beside)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).written_to(folder)
}

struct Export<'a> {
    deployment: &'a Deployment,
    key: RecoveryPublic,
    id: EventId,
    lines: BufWriter<File>,
    beside: PathBuf,
    versions: u64,
    missing: u64,
}

impl Export<'_> {
    async fn write(&mut self, reason: &str) -> Result<()> {
        let engines = &self.deployment.engines;
        let start = Start {
            keyturn_export: Version1,
            export: self.id,
            deployment: self.deployment.config.sections.deployment.name.clone(),
            at_ms: engines.clock().now(),
            sealed_to: self.key.fingerprint(),
        };
        self.say(&serde_json::to_string(&start).or_defect()?)?;
        let vault = engines.vault(|| self.deployment.keys.vault())?;
        let actor = operator::name();
        let look = Look { engines, vault: &*vault, actor: &actor, reason };
        let (ledger, mut after) = (engines.ledger_reader(), None);
        loop {
            let page = ledger.devices(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for device in page {
                let lanes = ledger.lanes(device).await?;
                for revealed in look.exported(device, &lanes).await? {
                    self.line(device, &lanes, revealed)?;
                }
            }
        }
        let end = End { end: self.id, versions: self.versions, missing: self.missing };
        self.say(&serde_json::to_string(&end).or_defect()?)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.lines, "{line}").written_to(&self.beside)
    }

    /// One that the vault does not have is named and left out: the others are wanted all the more.
    fn line(&mut self, device: DeviceId, lanes: &[Lane], revealed: Result<Revealed>) -> Result<()> {
        let one = match revealed {
            Ok(one) => one,
            Err(error) => {
                eprintln!("keyturn: {device}: {error}");
                self.missing += 1;
                return Ok(());
            }
        };
        let about = lanes.iter().find(|lane| lane.key.id() == one.lane).map(|lane| lane.about.clone());
        let about = about.unwrap_or_default();
        let head = Head {
            v: Version1,
            number: self.versions + 1,
            device_id: device,
            lane: one.lane,
            version: one.version,
            sure: match one.standing {
                Some(Standing::Confirmed { .. }) => Sure::Confirmed,
                Some(Standing::Pending { .. }) => Sure::Pending,
                Some(Standing::InDoubt) | None => Sure::InDoubt,
            },
            user_name: one.account,
            device_name: about.host.to_string(),
            serial_number: about.serial.to_string(),
        };
        let sealed = seal(&self.key, self.id, &head, &one.password).or_defect()?;
        self.say(&sealed)?;
        self.versions += 1;
        Ok(())
    }
}
