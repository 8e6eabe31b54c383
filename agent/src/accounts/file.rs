//! An account in a file: a salted hash of its password and when it was set. It stands for an operating system's
//! account database where there is none to be had: in trials, demonstrations and tests.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::AccountId;
use keyturn_domain::label::Label;
use keyturn_domain::lane::Hints;
use keyturn_domain::password::Password;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Accounts, Error, Found, Verdict};
use crate::disk;

/// OWASP's figure for PBKDF2-HMAC-SHA256 (Password Storage Cheat Sheet).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA256;

/// One account in a JSON file.
pub struct FileAccounts {
    path: PathBuf,
    name: Label,
    iterations: NonZeroU32,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    faults: Mutex<Faults>,
}

/// How a simulated account misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Passwords shorter than this many characters are refused, and the agent does not know beforehand.
    pub min_length: u32,
    /// This many of the next passwords are refused.
    pub refuse_next: u32,
    /// This many of the next passwords are answered with an error, but set.
    pub error_but_set_next: u32,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    id: AccountId,
    name: Label,
    last_set: Option<u64>,
    hash: Option<Hash>,
}

/// A salted hash, base64url.
#[derive(Serialize, Deserialize)]
struct Hash {
    iterations: NonZeroU32,
    salt: String,
    pbkdf2_sha256: String,
}

impl FileAccounts {
    /// The account `name` in the file `path`, which need not exist.
    pub fn new(path: PathBuf, name: Label, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { path, name, iterations: ITERATIONS, clock, entropy, faults: Mutex::default() }
    }

    /// With another cost of hashing, for simulations with many devices on one machine. Weakens the hash.
    pub fn danger_iterations(mut self, iterations: NonZeroU32) -> Self {
        self.iterations = iterations;
        self
    }

    /// With faults, for simulations and tests.
    pub fn faulty(self, faults: Faults) -> Self {
        Self { faults: Mutex::new(faults), ..self }
    }

    fn read(&self) -> Result<Option<Record>, Error> {
        let Some(content) = disk::read(&self.path)? else { return Ok(None) };
        let record = serde_json::from_slice::<Record>(&content)
            .map_err(|error| Error::Database(format!("line {}, column {}", error.line(), error.column())))?;
        Ok(Some(record))
    }

    fn write(&self, record: &Record) -> Result<Found, Error> {
        let content =
            serde_json::to_vec_pretty(record).map_err(|error| Error::Database(error.to_string()))?;
        disk::replace(&self.path, &content)?;
        Ok(record.found())
    }

    /// The account's number: the same for the same name, as a re-created system account often has its old one.
    fn id(&self) -> Result<AccountId, Error> {
        let digest: [u8; 32] = Sha256::digest(self.name.as_str()).into();
        let head = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
        format!("file-{head:016x}").parse().map_err(|error| Error::Database(format!("account id: {error}")))
    }

    fn hash(&self, password: &Password) -> Hash {
        let salt: [u8; 16] = self.entropy.bytes();
        let mut out = [0; 32];
        pbkdf2::derive(ALGORITHM, self.iterations, &salt, password.expose().as_bytes(), &mut out);
        let (salt, pbkdf2_sha256) = (URL_SAFE_NO_PAD.encode(salt), URL_SAFE_NO_PAD.encode(out));
        Hash { iterations: self.iterations, salt, pbkdf2_sha256 }
    }

    /// What the simulated policy says to a password of this length: set it, and what to answer.
    fn judge(&self, length: usize) -> (bool, Result<(), Error>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = |text: &str| Err(Error::Policy(text.to_owned()));
        if length < faults.min_length as usize {
            return (false, refusal(&format!("shorter than {} characters", faults.min_length)));
        }
        if faults.refuse_next > 0 {
            faults.refuse_next -= 1;
            return (false, refusal("it is in the history"));
        }
        if faults.error_but_set_next > 0 {
            faults.error_but_set_next -= 1;
            return (true, refusal("an error of the system, after the fact"));
        }
        (true, Ok(()))
    }
}

impl Record {
    fn found(&self) -> Found {
        Found { id: self.id.clone(), mark: self.last_set, set_at: self.last_set }
    }
}

impl Hash {
    fn matches(&self, password: &Password) -> Option<bool> {
        let (salt, hash) =
            (URL_SAFE_NO_PAD.decode(&self.salt).ok()?, URL_SAFE_NO_PAD.decode(&self.pbkdf2_sha256).ok()?);
        Some(pbkdf2::verify(ALGORITHM, self.iterations, &salt, password.expose().as_bytes(), &hash).is_ok())
    }
}

impl Accounts for FileAccounts {
    fn name(&self) -> Label {
        self.name.clone()
    }

    fn hints(&self) -> Hints {
        Hints::default()
    }

    fn find(&self) -> Result<Option<Found>, Error> {
        Ok(self.read()?.map(|record| record.found()))
    }

    fn create(&self) -> Result<Found, Error> {
        if let Some(record) = self.read()? {
            return Ok(record.found());
        }
        self.write(&Record { v: 1, id: self.id()?, name: self.name.clone(), last_set: None, hash: None })
    }

    fn set(&self, password: &Password) -> Result<(), Error> {
        let mut record = self.read()?.ok_or(Error::Missing)?;
        let (set, answer) = self.judge(password.expose().chars().count());
        if set {
            record.hash = Some(self.hash(password));
            record.last_set = Some(self.clock.now().0 / 1000);
            self.write(&record)?;
        }
        answer
    }

    fn verify(&self, password: &Password) -> Result<Verdict, Error> {
        let record = self.read()?.ok_or(Error::Missing)?;
        let Some(hash) = record.hash else { return Ok(Verdict::Rejected) };
        let matches =
            hash.matches(password).ok_or_else(|| Error::Database("the hash is damaged".to_owned()))?;
        Ok(if matches { Verdict::Accepted } else { Verdict::Rejected })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use keyturn_domain::ambient::{SystemClock, SystemEntropy};

    use super::*;

    fn account(path: PathBuf) -> FileAccounts {
        let name = Label::parse("lapsadmin").unwrap();
        let account = FileAccounts::new(path, name, Arc::new(SystemClock), Arc::new(SystemEntropy));
        account.danger_iterations(NonZeroU32::MIN)
    }

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[test]
    fn only_the_password_that_was_set_is_accepted_and_the_file_does_not_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account.json");
        let account = account(path.clone());
        assert!(matches!(account.set(&password("first")), Err(Error::Missing)));
        let created = account.create().unwrap();
        assert_eq!((created.mark, account.verify(&password("")).unwrap()), (None, Verdict::Rejected));
        account.set(&password("first")).unwrap();
        account.set(&password("second")).unwrap();
        assert_eq!(account.verify(&password("first")).unwrap(), Verdict::Rejected);
        assert_eq!(account.verify(&password("second")).unwrap(), Verdict::Accepted);
        assert_eq!(account.find().unwrap().unwrap().id, created.id);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("second"));
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_account_keeps_its_number_when_it_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let account = account(folder.path().join("account.json"));
        let first = account.create().unwrap();
        std::fs::remove_file(folder.path().join("account.json")).unwrap();
        assert_eq!(account.create().unwrap(), first);
        assert!(first.id.as_str().starts_with("file-") && first.id.as_str().len() == 21);
    }
}
