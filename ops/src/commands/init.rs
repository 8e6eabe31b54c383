//! `keyturn init`: a new deployment.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::entropy::Entropy;
use keyturn_schemas::claims::{Deployment, Version1};
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::mac::{self, KeyId};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::stamp::StampKeys;
use keyturn_schemas::ticket::TicketKeys;
use keyturn_service::config::Config;
use keyturn_service::engines::{Engines, Made};
use keyturn_service::keys::{KEY_SET_FILE, ROOT, SIGNING, VAULT};
use zeroize::Zeroizing;

use crate::cli::{Arguments, Init};
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result, usage};

/// How long a key set lasts. Agents refuse one that has ended, so it is renewed well before.
pub(super) const KEY_SET_LIFE: Duration = Duration::from_hours(24 * 730);

/// The file that agents are installed with.
pub(crate) const ROOT_PUBLIC_FILE: &str = "root.pub.json";

pub(super) fn run(init: &Init, arguments: &Arguments) -> Result<()> {
    let Some(name) = &init.name else { return tables(arguments) };
    create(&init.folder, name)?;
    let folder = init.folder.display();
    eprintln!("Deployment «{name}» is ready in {folder}.");
    eprintln!("  {folder}/keyturn.toml        the configuration");
    eprintln!("  {folder}/keys/               one key file per kind; give each role only the kinds it needs");
    eprintln!("  {folder}/{ROOT_PUBLIC_FILE}       install every agent with it: it is all they trust");
    eprintln!("  {folder}/offline/root.key    signs key sets and nothing else: take it off this machine now");
    eprintln!("Start it with: keyturn --config {folder}/keyturn.toml up");
    Ok(())
}

/// Makes the tables of a deployment whose state is on PostgreSQL. Done again, it changes nothing.
fn tables(arguments: &Arguments) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    let Some(settings) = &config.postgres else {
        return Err(usage("--tables", "state.engine of the configuration is not \"postgres\""));
    };
    let Made { place, made, beside_others } = Engines::make(settings)?;
    if !made {
        eprintln!("{place} has the tables already; nothing was made.");
        return Ok(());
    }
    eprintln!("The tables are made in {place}, in the schema keyturn.");
    if beside_others {
        eprintln!("There are tables of somebody else's in this database too, which were left alone.");
        eprintln!("If it is the wrong one: DROP SCHEMA keyturn CASCADE takes back what was made.");
    }
    Ok(())
}

/// Makes a deployment in `folder`.
pub(crate) fn create(folder: &Path, name: &str) -> Result<()> {
    let deployment: Deployment = name.parse().map_err(|error| usage("--name", error))?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let problem =
            format!("{}: the folder is not empty; a deployment is made in a new one", folder.display());
        return Err(Failure::new(Code::FileExists, problem));
    }
    let (keys, offline) = (folder.join("keys"), folder.join("offline"));
    for folder in [folder, &keys, &offline] {
        private_folder(folder)?;
    }
    for kind in [NonceKeys::KIND, StampKeys::KIND, TicketKeys::KIND, FindingKeys::KIND, VAULT] {
        let ring = mac::format_secrets(kind, &[(KeyId(1), Zeroizing::new(secret()))]);
        private_file(&keys.join(format!("{kind}.key")), &ring)?;
    }
    let signing = signing_key(&keys.join("signing.key"), SIGNING, "signing-1")?;
    let root = signing_key(&offline.join("root.key"), ROOT, "root-1")?;
    let set = KeySet {
        v: Version1,
        deployment,
        serial: 1,
        keys: vec![signing.public()],
        not_after: SystemClock.now().plus(KEY_SET_LIFE),
    };
    private_file(&keys.join(KEY_SET_FILE), &key_set::sign(&set, &root).or_defect()?)?;
    private_file(&folder.join(ROOT_PUBLIC_FILE), &serde_json::to_string_pretty(&root.public()).or_defect()?)?;
    let config = folder.join("keyturn.toml");
    private_file(&config, &Config::template().replacen("#name =", &format!("name = \"{name}\""), 1))?;
    Engines::open(&Config::load(&config)?)?;
    Ok(())
}

fn secret() -> [u8; 32] {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.bytes()
}

fn signing_key(path: &Path, kind: &'static str, kid: &str) -> Result<SigningKey> {
    let seed = Zeroizing::new(secret());
    private_file(path, &SigningKey::format(kind, kid, &seed))?;
    SigningKey::from_seed(kid, &seed).or_fail(Code::Defect, "a fresh signing key is not usable")
}

fn private_folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.written_to(path)
}

/// Writes a file that only its owner may read. It must not exist.
pub(crate) fn private_file(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
        let problem = format!(
            "{}: there is such a file already, and it is not written over; name another one",
            path.display()
        );
        return Err(Failure::new(Code::FileExists, problem));
    }
    written.written_to(path)
}
