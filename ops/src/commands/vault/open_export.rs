//! `keyturn vault open-export`: what an export holds, on any machine, with nothing but the file and the key.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};

use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::password::Password;
use keyturn_schemas::export::{End, Head, Read, Start, Sure, open};
use keyturn_schemas::recovery::RecoverySecret;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::{OpenExport, Output};
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};
use crate::output::{self, printable, say};

/// The longest line of an export, in bytes: no line of ours comes near.
const LONGEST: u64 = 64 * 1024;

#[derive(Serialize)]
struct Row<'a> {
    device_id: DeviceId,
    device_name: &'a str,
    serial_number: &'a str,
    account: &'a str,
    version: VersionId,
    standing: Sure,
    password: &'a str,
}

pub(in crate::commands) fn run(command: &OpenExport, output: Output) -> Result<()> {
    let (key, name) = (command.key.display(), command.file.display());
    let text = fs::read_to_string(&command.key).map(Zeroizing::new);
    let text = text.read_of(&command.key)?;
    let secret = RecoverySecret::parse(&text).or_fail(Code::FileNotMeant, &key)?;
    let file = File::open(&command.file).read_of(&command.file)?;
    let mut lines = BufReader::new(file);
    let first = next(&mut lines).read_of(&command.file)?.unwrap_or_default();
    let Ok(start) = serde_json::from_str::<Start>(&first) else {
        let problem = format!("{name}: it is not an export that `keyturn vault export` made");
        return Err(Failure::new(Code::FileNotMeant, problem));
    };
    let ours = secret.fingerprint().or_fail(Code::FileNotMeant, &key)?;
    if start.sealed_to != ours {
        let theirs = output::quoted(&start.sealed_to);
        let problem =
            format!("{name}: it is sealed to key {theirs}, and {key} is key {ours}; bring the other one");
        return Err(Failure::new(Code::OtherOfflineKey, problem));
    }
    eprintln!("Export of {} of {}.", output::quoted(&start.deployment), output::when(start.at_ms));
    let (mut versions, mut damaged, mut end) = (0_u64, 0_u64, None);
    while let Some(line) = next(&mut lines).read_of(&command.file)? {
        match open(&secret, start.export, &line) {
            Ok(Read::Version(head, password)) if end.is_none() && head.number > versions => {
                // A line that is missing in between counts as damaged.
                damaged = damaged.saturating_add(head.number - versions - 1);
                versions = head.number;
                if named(&head, command.device.as_deref()) {
                    show(&head, &password, output)?;
                }
            }
            Ok(Read::End(found)) if end.is_none() => end = Some(found),
            _ => damaged = damaged.saturating_add(1),
        }
    }
    let whole = matches!(&end, Some(End { versions: all, .. }) if *all == versions) && damaged == 0;
    let mut problems = Vec::new();
    if !whole {
        problems.push(format!(
            "it is not whole: it was cut off, or lines of it were changed; {damaged} are damaged"
        ));
    }
    let missing = end.map_or(0, |end| end.missing);
    if missing > 0 {
        problems.push(format!(
            "{} not in it, because the vault did not have it",
            output::are(missing, "version")
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Partial, format!("{name}: {}", problems.join("; "))))
}

fn next(lines: &mut BufReader<File>) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if std::io::Read::take(&mut *lines, LONGEST).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

fn named(head: &Head, wanted: Option<&str>) -> bool {
    let id = head.device_id.to_string();
    wanted.is_none_or(|wanted| {
        [id.as_str(), &head.device_name, &head.serial_number]
            .iter()
            .any(|one| one.eq_ignore_ascii_case(wanted))
    })
}

fn show(head: &Head, password: &Password, output: Output) -> Result<()> {
    let Head { device_id, device_name, serial_number, user_name, version, sure, .. } = head;
    if output == Output::Json {
        return output::json_line(&Row {
            device_id: *device_id,
            device_name,
            serial_number,
            account: user_name,
            version: *version,
            standing: *sure,
            password: password.expose(),
        });
    }
    let sure = match sure {
        Sure::Confirmed => "confirmed",
        Sure::Pending => "pending",
        Sure::InDoubt => "in doubt",
    };
    let (device, account) = (printable(device_name.clone()), printable(user_name.clone()));
    say!("{device}\t{device_id}\t{account}\t{}\t{sure}", password.expose());
    Ok(())
}
