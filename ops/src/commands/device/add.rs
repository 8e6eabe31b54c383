//! `keyturn device add`: a device by its certificate. Whoever is there already is changed by no slip of the hand: a device
//! that was disabled stays so, and a name that another device has is told of.

use std::fs;
use std::path::Path;

use keyturn_domain::join_type::JoinTypes;
use keyturn_ports::Kind;
use keyturn_ports::directory::DeviceRecord;
use keyturn_schemas::certificate::{CertificateError, DeviceCertificate};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Deployment, admin, put, record};
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result, usage};
use crate::output::quoted;

/// What the directory has of a device.
enum There {
    Nothing,
    Record(Box<DeviceRecord>),
    /// Something that cannot be read.
    Damaged,
}

pub(super) async fn run(
    deployment: &Deployment,
    cert: &Path,
    name: &str,
    join: &str,
    replace: bool,
) -> Result<()> {
    JoinTypes::parse([join]).map_err(|error| usage("--join", error))?;
    let file = fs::read(cert).read_of(cert)?;
    let der = CertificateDer::from_pem_slice(&file).map_or(file.clone(), |certificate| certificate.to_vec());
    let certificate = DeviceCertificate::from_der(&der).map_err(|error| no_certificate(cert, &error))?;
    let unnamed = format!("{}: its common name is not a device id", cert.display());
    let mut record = record(&certificate, name, join).or_fail(Code::FileNotMeant, unnamed)?;
    let device = record.device_id;
    let differences = match there(deployment, &record).await? {
        There::Nothing => Vec::new(),
        There::Damaged => {
            // Nobody can tell whether it was disabled.
            record.account_enabled = Some(false);
            vec!["its record cannot be read".to_owned()]
        }
        There::Record(old) => {
            let differences = differences(&old, &record);
            if differences.is_empty() {
                let state = if is_enabled(&old) { "" } else { " It is disabled." };
                eprintln!("{name} ({device}) is in the directory already, and nothing was changed.{state}");
                return Ok(());
            }
            record.account_enabled = old.account_enabled;
            record.groups = old.groups;
            record.operating_system = old.operating_system;
            differences
        }
    };
    if !differences.is_empty() && !replace {
        let list = differences.join(", ");
        let mend = "nothing was changed; --replace if that is meant";
        let problem = format!("{device} is in the directory already: {list}; {mend}");
        return Err(Failure::new(Code::DeviceThere, problem));
    }
    let others = deployment.engines.directory().named(name).await?;
    let word = if differences.is_empty() { "added" } else { "replaced" };
    let mut detail = format!("{word} {name}");
    if !differences.is_empty() {
        detail = format!("{detail}: {}", differences.join(", "));
    }
    let enabled = is_enabled(&record);
    put(deployment, vec![record], &detail).await?;
    let state = if enabled { "" } else { ", and is disabled: `keyturn device enable` if it may rotate" };
    eprintln!("{name} ({device}) is in the directory{state}.");
    for other in others.into_iter().filter(|other| *other != device) {
        eprintln!("Warning: {other} has the name {name} too; commands take neither by it, but by their ids.");
    }
    Ok(())
}

async fn there(deployment: &Deployment, record: &DeviceRecord) -> Result<There> {
    Ok(match admin(deployment)?.look_up(vec![record.device_id]).await.pop() {
        Some(Ok(answer)) => {
            answer.records.into_iter().next().map_or(There::Nothing, |old| There::Record(Box::new(old)))
        }
        Some(Err(error)) if error.kind() == Kind::Corrupt => There::Damaged,
        Some(Err(error)) => return Err(error.into()),
        None => There::Nothing,
    })
}

fn is_enabled(record: &DeviceRecord) -> bool {
    record.account_enabled == Some(true)
}

/// What a replacement would change.
fn differences(old: &DeviceRecord, new: &DeviceRecord) -> Vec<String> {
    let word = |text: &Option<String>| text.as_deref().map_or_else(|| "nothing".to_owned(), quoted);
    let mut found = Vec::new();
    if old.display_name != new.display_name {
        found.push(format!("its name is {}, not {}", word(&old.display_name), word(&new.display_name)));
    }
    if old.trust_type != new.trust_type {
        found.push(format!("it is joined as {}, not {}", word(&old.trust_type), word(&new.trust_type)));
    }
    if old.alternative_security_ids != new.alternative_security_ids {
        found.push("it has another key than this certificate's".to_owned());
    }
    found
}

/// In PEM or in DER: a file that is neither is told of as such.
fn no_certificate(cert: &Path, error: &CertificateError) -> Failure {
    let why = match error {
        CertificateError::Syntax => "it is not an X.509 certificate, neither in PEM nor in DER".to_owned(),
        CertificateError::Key => error.to_string(),
    };
    Failure::new(Code::FileNotMeant, format!("{}: {why}", cert.display()))
}
