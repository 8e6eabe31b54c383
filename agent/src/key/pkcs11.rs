//! A key in a token, through the PKCS#11 module of its maker (OASIS PKCS #11 v2.40, which 3.x modules speak too).
//!
//! Nothing of the token is kept between two signatures, of which there are a few in an hour: a token that was pulled
//! out, a daemon that was restarted and a handle that went stale are all found out by the next one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use sha2::{Digest as _, Sha256};

use super::guard::Turn;
use super::{Error, Guard, Signer};

/// A `DigestInfo` of SHA-256 without its digest (RFC 8017 section 9.2), for tokens that do not hash.
const DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0, 4, 32,
];

/// The modules of this process. Each is initialised once and stays: other users of it in the process would be thrown
/// out by an end.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// Which key.
#[derive(Clone, Debug)]
pub struct Pkcs11Key {
    /// The maker's module, a library that is loaded into the agent.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label (CKA_LABEL), where it is told by that.
    pub label: Option<String>,
    /// The key's id (CKA_ID), where it is told by that.
    pub id: Option<Vec<u8>>,
    /// The token's PIN and the tries of it.
    pub guard: Guard,
    /// How long a signature may take.
    pub time_limit: Duration,
}

impl Signer for Pkcs11Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let turn = self.guard.turn()?;
        let module = self.load()?;
        let slot = self.slot(&module)?;
        let session = module.open_ro_session(slot).map_err(|error| self.failed(&error))?;
        self.log_on(&module, slot, &session, &turn)?;
        let key = self.find(&session)?;
        let mechanisms = module.get_mechanism_list(slot).map_err(|error| self.failed(&error))?;
        let signed = if mechanisms.contains(&MechanismType::SHA256_RSA_PKCS) {
            session.sign(&Mechanism::Sha256RsaPkcs, key, message)
        } else {
            let input = [&DIGEST_INFO[..], &Sha256::digest(message)].concat();
            session.sign(&Mechanism::RsaPkcs, key, &input)
        };
        signed.map_err(|error| match error {
            Pkcs11Error::Pkcs11(RvError::UserNotLoggedIn, _) => self.unfit(
                "it asks for the PIN before each signature (CKA_ALWAYS_AUTHENTICATE), which a service cannot give",
            ),
            error => self.failed(&error),
        })
    }

    fn place(&self) -> String {
        format!("the key {} of the token \"{}\"", self.wanted(), self.token)
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(self.time_limit)
    }
}

impl Pkcs11Key {
    fn load(&self) -> Result<Pkcs11, Error> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&self.module) {
            return Ok(module.clone());
        }
        let away = |error: Pkcs11Error| Error::Away {
            place: format!("the module {}", self.module.display()),
            reason: format!("{error}; is it a PKCS#11 module of this machine's kind?"),
        };
        let module = Pkcs11::new(&self.module).map_err(away)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(away(error)),
        }
        modules.insert(self.module.clone(), module.clone());
        Ok(module)
    }

    /// The one slot with the token.
    fn slot(&self, module: &Pkcs11) -> Result<Slot, Error> {
        let away = |reason: String| Error::Away { place: format!("the token \"{}\"", self.token), reason };
        let slots = module.get_slots_with_token().map_err(|error| away(error.to_string()))?;
        let label = |slot: &Slot| module.get_token_info(*slot).ok().map(|token| token.label().to_owned());
        let named: Vec<(Slot, String)> =
            slots.into_iter().filter_map(|slot| Some((slot, label(&slot)?))).collect();
        let mut fitting = named.iter().filter(|(_, label)| *label == self.token);
        match (fitting.next(), fitting.next()) {
            (Some((slot, _)), None) => Ok(*slot),
            (Some(_), Some(_)) => Err(away("the module has more than one token of that label".to_owned())),
            (None, _) => {
                let labels: Vec<String> = named.iter().map(|(_, label)| format!("\"{label}\"")).collect();
                Err(away(format!("the module {} has {}", self.module.display(), some_of(&labels))))
            }
        }
    }

    /// Logs on, with a PIN that was not refused before and while there is more than one try left.
    fn log_on(&self, module: &Pkcs11, slot: Slot, session: &Session, turn: &Turn<'_>) -> Result<(), Error> {
        let token = module.get_token_info(slot).map_err(|error| self.failed(&error))?;
        let place = format!("the token \"{}\"", self.token);
        let locked = |reason: &str| Err(Error::Locked { place: place.clone(), reason: reason.to_owned() });
        if !token.login_required() {
            return Ok(());
        }
        if token.user_pin_locked() {
            return locked("is locked after too many wrong PINs; unlock it with its security officer's PIN");
        }
        if token.user_pin_final_try() {
            return locked("has one try left, which the agent does not take; log on once by hand");
        }
        let Some(pin) = turn.secret()? else {
            return locked("asks for a PIN; name a file with it in key.pin_file");
        };
        let logged_on = session.login(UserType::User, Some(&AuthPin::from(pin.as_str())));
        match logged_on {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => turn.answered(),
            Err(Pkcs11Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid,
                _,
            )) => {
                turn.refused(&pin)?;
                let secret = self.guard.file().cloned().unwrap_or_default();
                Err(Error::Refused { place, secret })
            }
            Err(Pkcs11Error::Pkcs11(RvError::PinLocked, _)) => {
                turn.refused(&pin)?;
                locked("is locked after too many wrong PINs; unlock it with its security officer's PIN")
            }
            Err(error) => {
                turn.answered()?;
                Err(Error::Failed { place, reason: error.to_string() })
            }
        }
    }

    /// The one private key that is meant.
    fn find(&self, session: &Session) -> Result<ObjectHandle, Error> {
        let all = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)];
        let mut wanted = all.to_vec();
        wanted.extend(self.label.iter().map(|label| Attribute::Label(label.clone().into_bytes())));
        wanted.extend(self.id.iter().map(|id| Attribute::Id(id.clone())));
        let found = session.find_objects(&wanted).map_err(|error| self.failed(&error))?;
        match found[..] {
            [key] => Ok(key),
            [] => {
                let others = session.find_objects(&all).map_err(|error| self.failed(&error))?;
                let others: Vec<String> = others.into_iter().map(|key| described(session, key)).collect();
                Err(Error::Absent {
                    place: format!("the token \"{}\"", self.token),
                    reason: format!("{} was looked for, and there is {}", self.wanted(), some_of(&others)),
                })
            }
            _ => Err(self.unfit("there are several; tell them apart by key.id or key.label")),
        }
    }

    fn wanted(&self) -> String {
        named(self.label.as_deref(), self.id.as_deref())
    }

    fn unfit(&self, reason: &str) -> Error {
        Error::Unfit { place: self.place(), reason: reason.to_owned() }
    }

    fn failed(&self, error: &Pkcs11Error) -> Error {
        Error::Failed { place: self.place(), reason: error.to_string() }
    }
}

/// A key as its settings would name it.
fn described(session: &Session, key: ObjectHandle) -> String {
    let (mut label, mut id) = (None, None);
    for attribute in
        session.get_attributes(key, &[AttributeType::Label, AttributeType::Id]).unwrap_or_default()
    {
        match attribute {
            Attribute::Label(bytes) => label = String::from_utf8(bytes).ok(),
            Attribute::Id(bytes) => id = Some(bytes),
            _ => {}
        }
    }
    named(label.as_deref(), id.as_deref())
}

fn named(label: Option<&str>, id: Option<&[u8]>) -> String {
    let hex = |hex: String, byte: &u8| hex + &format!("{byte:02x}");
    let id = id.map(|id| id.iter().fold(String::new(), hex));
    match (label, id) {
        (Some(label), Some(id)) => format!("\"{label}\" (id {id})"),
        (Some(label), None) => format!("\"{label}\""),
        (None, Some(id)) => format!("with the id {id}"),
        (None, None) => "without a name".to_owned(),
    }
}

fn some_of(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}
