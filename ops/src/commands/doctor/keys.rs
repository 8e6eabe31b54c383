//! Key files, who can read them, what agents trust, certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use keyturn_schemas::claims::Deployment as Name;
use keyturn_schemas::key_set;
use keyturn_schemas::signing::PublicKey;
use keyturn_service::keys::KeyError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Check, Deployment};
use crate::commands::init::ROOT_PUBLIC_FILE;
use crate::output;

pub(super) async fn examine(deployment: &Deployment) -> Vec<Check> {
    let mut checks = vec![permissions(deployment), root(deployment)];
    checks.extend(readable(deployment));
    checks.push(pins(deployment));
    checks.extend(signs(deployment).await);
    checks.extend(certificate(deployment));
    checks
}

/// The folder of the configuration file.
pub(in crate::commands) fn home(deployment: &Deployment) -> PathBuf {
    let keys = &deployment.config.sections.data.keys;
    keys.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The database, in which secrets are sealed. Roles that are users of their own share it as a group.
fn database(deployment: &Deployment) -> Vec<PathBuf> {
    let file = &deployment.config.sections.data.file;
    let beside = ["", "-wal", "-shm"].map(|suffix| {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    });
    beside.into()
}

/// Files that hold secrets as they are.
fn secrets(deployment: &Deployment) -> Vec<PathBuf> {
    let data = &deployment.config.sections.data;
    let keys = fs::read_dir(&data.keys).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        keys.filter(|path| path.extension().is_some_and(|extension| extension == "key")).collect();
    files.extend(deployment.config.sections.alarms.webhook.iter().map(|webhook| webhook.secret_file.clone()));
    files
}

/// By the rule that the roles go by when they read a key: its group may read it, as with roles that are users of one
/// group, and nobody else; nobody but its owner may write it. The database is its owner's and its group's.
fn permissions(deployment: &Deployment) -> Check {
    const NAME: &str = "permissions";
    let has = |path: &PathBuf, bits: u32| {
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & bits != 0)
    };
    let named = |files: &[PathBuf], bits: u32| -> Vec<String> {
        files.iter().filter(|path| has(path, bits)).map(|path| path.display().to_string()).collect()
    };
    let (secrets, database) = (secrets(deployment), database(deployment));
    let (keys, data) = (named(&secrets, 0o037), named(&database, 0o007));
    let wrong = [keys.clone(), data.clone()].concat().join(", ");
    if !wrong.is_empty() {
        let chmod = |mode: &str, files: &[String]| {
            (!files.is_empty()).then(|| format!("chmod {mode} {}", files.join(" ")))
        };
        let mends: Vec<String> = [chmod("600", &keys), chmod("o=", &data)].into_iter().flatten().collect();
        return Check::failed(NAME, format!("others may read or write {wrong}"), mends.join("; "));
    }
    let grouped = named(&secrets, 0o040).len();
    let all = output::count(secrets.len() + database.len(), "file");
    let shared = match grouped {
        0 => String::new(),
        some => format!("; its group may read {}", output::count(some, "key file")),
    };
    Check::ok(NAME, format!("{all} checked, closed to others{shared}"))
}

fn root(deployment: &Deployment) -> Check {
    let file = home(deployment).join("offline/root.key");
    if file.exists() {
        let mend = "take it off this machine: whoever has it can sign keys that every agent trusts";
        return Check::warning("root key", format!("{} is here", file.display()), mend);
    }
    Check::ok("root key", "it is not on this machine")
}

fn readable(deployment: &Deployment) -> Vec<Check> {
    let keys = &deployment.keys;
    let mut tried = vec![
        ("nonce", keys.nonces().map(drop)),
        ("stamp", keys.stamps().map(drop)),
        ("ticket", keys.tickets().map(drop)),
        ("finding", keys.findings().map(drop)),
        ("signing", keys.signing().map(drop)),
        ("vault", keys.vault().map(drop)),
    ];
    for webhook in &deployment.config.sections.alarms.webhook {
        tried.push(("webhook", keys.webhook(&webhook.secret_file).map(drop)));
    }
    let total = tried.len();
    let mut wrong = Vec::new();
    for (kind, read) in tried {
        if let Err(error) = read {
            let mend = match &error {
                // It is there and whole, and the error says what to do about it.
                KeyError::Exposed { .. } => "until then no role reads it",
                _ => "put the file back from where keys are kept; `keyturn keys list` tells which there are",
            };
            wrong.push(Check::failed("keys", format!("{kind}: {error}"), mend));
        }
    }
    if wrong.is_empty() {
        vec![Check::ok("keys", format!("{total} are there and can be read"))]
    } else {
        wrong
    }
}

/// Whether the key that signs does so, if it is in Key Vault. This process asks as whoever runs it, which may be another
/// than the rotator.
async fn signs(deployment: &Deployment) -> Option<Check> {
    const NAME: &str = "signing";
    deployment.config.signing.key.as_ref()?;
    Some(match deployment.keys.try_signing("signing.key").await {
        Ok(Some(key)) => Check::ok(NAME, format!("{key} signs, and agents take it")),
        Ok(None) => Check::warning(
            NAME,
            "results are signed with a key in a file, though signing.key is set",
            "take a key of Key Vault with `keyturn keys rotate signing`, or take signing.key away",
        ),
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            "no device gets an answer without it, messages wait: docs/AZURE.md",
        ),
    })
}

/// Whether agents, who trust the root alone, would take what the rotator signs.
fn pins(deployment: &Deployment) -> Check {
    const NAME: &str = "agent pins";
    let path = home(deployment).join(ROOT_PUBLIC_FILE);
    let Some(root) =
        fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<PublicKey>(&text).ok())
    else {
        let found = format!("{} cannot be read", path.display());
        return Check::warning(NAME, found, "put it there, to have the key set checked as agents check it");
    };
    let (set, signing) = match (deployment.keys.key_set(), deployment.keys.signing()) {
        (Ok(set), Ok(signing)) => (set, signing),
        (Err(KeyError::OtherDeployment { theirs, ours, .. }), _) => {
            let found = format!("the key set is of deployment «{theirs}», and deployment.name says «{ours}»");
            let mend = format!(
                "put deployment.name = \"{theirs}\" back: no process starts, and no agent takes an answer"
            );
            return Check::failed(NAME, found, mend);
        }
        (Err(error), _) | (_, Err(error)) => {
            return Check::failed(NAME, error.to_string(), "put the file back from where keys are kept");
        }
    };
    let mend = "sign a key set with the root key: `keyturn root sign-keys`";
    let Ok(name) = deployment.config.sections.deployment.name.parse::<Name>() else {
        return Check::failed(NAME, "the deployment has no valid name", "mend deployment.name");
    };
    let now = deployment.engines.clock().now();
    let set = match key_set::verify(&set, &root, &name, now) {
        Ok(set) => set,
        Err(error) => return Check::failed(NAME, format!("no agent takes the key set: {error}"), mend),
    };
    if !set.keys.contains(&signing.public()) {
        let found = format!("the rotator signs with {}, which the key set does not list", signing.kid());
        return Check::failed(NAME, found, mend);
    }
    let left = set.not_after.since(now);
    let found = format!(
        "the root vouches for {}, key set {}, until {}",
        signing.kid(),
        set.serial,
        output::when(set.not_after)
    );
    if left < deployment.config.sections.doctor.certificate_warn.0 {
        return Check::warning(NAME, found, mend);
    }
    Check::ok(NAME, found)
}

fn certificate(deployment: &Deployment) -> Option<Check> {
    const NAME: &str = "certificate";
    let path = deployment.config.sections.ingress.tls.certificate.as_ref()?;
    let mend = "put a new certificate in its place; running processes read it by themselves";
    let Some((from, until)) = CertificateDer::from_pem_file(path).ok().and_then(|der| validity(&der)) else {
        let found = format!("{} holds no certificate that can be read", path.display());
        return Some(Check::failed(NAME, found, mend));
    };
    let now = i64::try_from(deployment.engines.clock().now().0 / 1000).unwrap_or(i64::MAX);
    let days = (until - now) / 86_400;
    let warn = deployment.config.sections.doctor.certificate_warn.0.as_secs();
    let found = format!("{} ends in {days} days", path.display());
    Some(if until <= now {
        Check::failed(NAME, format!("{} has ended", path.display()), mend)
    } else if from > now {
        Check::failed(NAME, format!("{} is not valid yet", path.display()), "look at the clock, or wait")
    } else if u64::try_from(until - now).unwrap_or_default() < warn {
        Check::warning(NAME, found, mend)
    } else {
        Check::ok(NAME, found)
    })
}

/// From and until when, in seconds since the Unix epoch.
fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
