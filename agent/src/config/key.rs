//! The section about the device's key, where that is not a file in PEM. What is said here is checked when it is read;
//! a token or a TPM is asked when the agent signs, and by its doctor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::span::Span;
use serde::Deserialize;
use toml::Spanned;

use super::Error;
use super::place::Source;
use crate::identity::{self, Identity};
use crate::key;

/// The section, whatever kind it is of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySection {
    kind: Kind,
    file: Option<Spanned<PathBuf>>,
    passphrase_file: Option<Spanned<PathBuf>>,
    module: Option<Spanned<PathBuf>>,
    token: Option<Spanned<String>>,
    label: Option<Spanned<String>>,
    id: Option<Spanned<String>>,
    tcti: Option<Spanned<String>>,
    handle: Option<Spanned<String>>,
    pin_file: Option<Spanned<PathBuf>>,
    time_limit: Option<Spanned<Span>>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Pkcs12,
    Pkcs11,
    Tpm2,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pkcs12 => "pkcs12",
            Self::Pkcs11 => "pkcs11",
            Self::Tpm2 => "tpm2",
        }
    }

    /// Whether this agent can use it, which was chosen when it was built.
    fn is_built_in(self) -> bool {
        match self {
            Self::Pkcs12 => cfg!(feature = "pkcs12"),
            Self::Pkcs11 => cfg!(feature = "pkcs11"),
            Self::Tpm2 => cfg!(feature = "tpm2"),
        }
    }

    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Pkcs12 => &["file", "passphrase_file"],
            Self::Pkcs11 => &["module", "token", "label", "id", "pin_file", "time_limit"],
            Self::Tpm2 => &["tcti", "handle", "pin_file", "time_limit"],
        }
    }
}

/// The section and what stands around it.
pub(super) struct Place<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) section: &'a Spanned<KeySection>,
    pub(super) certificate: Option<&'a Spanned<PathBuf>>,
    pub(super) state: &'a Path,
}

impl KeySection {
    /// The paths that may be relative to the settings file. A module is code and named in full.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let named = self.file.iter_mut().chain(&mut self.passphrase_file).chain(&mut self.pin_file);
        named.map(Spanned::as_mut)
    }

    /// Where each setting that is there stands.
    fn present(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let at = |path: &Option<Spanned<PathBuf>>| path.as_ref().map(|path| path.span().start);
        let text = |text: &Option<Spanned<String>>| text.as_ref().map(|text| text.span().start);
        let all = [
            ("file", at(&self.file)),
            ("passphrase_file", at(&self.passphrase_file)),
            ("module", at(&self.module)),
            ("token", text(&self.token)),
            ("label", text(&self.label)),
            ("id", text(&self.id)),
            ("tcti", text(&self.tcti)),
            ("handle", text(&self.handle)),
            ("pin_file", at(&self.pin_file)),
            ("time_limit", self.time_limit.as_ref().map(|span| span.span().start)),
        ];
        all.into_iter().filter_map(|(name, start)| Some((name, start?)))
    }
}

impl Place<'_> {
    pub(super) fn identity(&self) -> Result<Identity, Error> {
        let (section, kind) = (self.section.as_ref(), self.section.as_ref().kind);
        let mut strangers = section.present().filter(|(name, _)| !kind.settings().contains(name));
        if let Some((_, start)) = strangers.next() {
            let message = format!("a key of kind `{}` has no such setting", kind.name());
            return Err(self.source.error(start, &message));
        }
        if !kind.is_built_in() {
            let message = format!(
                "this agent was built without the feature `{}`; install one that has it",
                kind.name()
            );
            return Err(self.source.at(self.section, &message));
        }
        match kind {
            Kind::Pkcs12 => self.pkcs12(),
            Kind::Pkcs11 => self.pkcs11(),
            Kind::Tpm2 => self.tpm2(),
        }
    }

    #[cfg(feature = "pkcs12")]
    fn pkcs12(&self) -> Result<Identity, Error> {
        use key::pkcs12::Contents;

        let section = self.section.as_ref();
        let file = self.needed(section.file.as_ref(), "file")?;
        let passphrase = self.needed(section.passphrase_file.as_ref(), "passphrase_file")?;
        let bytes = zeroize::Zeroizing::new(self.source.read(file)?);
        let passphrase = self.source.check(passphrase, |path| key::secret::read(path))?;
        let place = format!("the key in {}", file.as_ref().display());
        let contents = self.source.check(file, |_| Contents::open(&bytes, &passphrase, &place))?;
        let (key, certificate) = match self.certificate {
            Some(_) => (contents.into_key(), self.certificate()?),
            None => self.source.check(file, |_| contents.into_pair())?,
        };
        self.source.check(file, |_| Identity::from_key(&certificate, key))
    }

    #[cfg(feature = "pkcs11")]
    fn pkcs11(&self) -> Result<Identity, Error> {
        let section = self.section.as_ref();
        let module = self.needed(section.module.as_ref(), "module")?;
        self.source.check(module, |module| check_module(module))?;
        let token = self.needed(section.token.as_ref(), "token")?;
        if section.label.is_none() && section.id.is_none() {
            return Err(self.source.at(self.section, &"name the key by its `label`, its `id`, or both"));
        }
        let id = section.id.as_ref().map(|id| self.source.check(id, |id| hex(id))).transpose()?;
        let key = key::pkcs11::Pkcs11Key {
            module: module.as_ref().clone(),
            token: token.as_ref().clone(),
            label: section.label.as_ref().map(|label| label.as_ref().clone()),
            id,
            guard: self.guard()?,
            time_limit: self.time_limit()?,
        };
        self.elsewhere(Arc::new(key))
    }

    #[cfg(feature = "tpm2")]
    fn tpm2(&self) -> Result<Identity, Error> {
        let section = self.section.as_ref();
        let handle = self.needed(section.handle.as_ref(), "handle")?;
        let tcti = match &section.tcti {
            Some(tcti) => self.source.check(tcti, |tcti| tcti.parse())?,
            None => TCTI.parse().map_err(|error| self.source.at(self.section, &error))?,
        };
        let key = key::tpm2::TpmKey {
            tcti,
            handle: self.source.check(handle, |handle| handle.parse())?,
            guard: self.guard()?,
            time_limit: self.time_limit()?,
        };
        self.elsewhere(Arc::new(key))
    }

    fn needed<'b, T>(&self, value: Option<&'b Spanned<T>>, name: &str) -> Result<&'b Spanned<T>, Error> {
        value.ok_or_else(|| self.source.at(self.section, &format!("missing field `{name}`")))
    }

    fn certificate(&self) -> Result<Vec<u8>, Error> {
        let missing = || {
            let message = "name the file of the device's certificate in `certificate`, above all sections";
            self.source.at(self.section, &message)
        };
        let path = self.certificate.ok_or_else(missing)?;
        let text = self.source.read(path)?;
        self.source.check(path, |_| identity::certificate_from_pem(&text))
    }

    fn elsewhere(&self, signer: Arc<dyn key::Signer>) -> Result<Identity, Error> {
        let certificate = self.certificate()?;
        Identity::new(&certificate, signer).map_err(|error| self.source.at(self.section, &error))
    }

    /// The PIN's file is read once now, so that one that cannot be is told of at once.
    fn guard(&self) -> Result<key::Guard, Error> {
        let file = self.section.as_ref().pin_file.as_ref();
        file.map(|file| self.source.check(file, |path| key::secret::read(path).map(drop))).transpose()?;
        Ok(key::Guard::new(self.state.to_owned(), file.map(|file| file.as_ref().clone())))
    }

    fn time_limit(&self) -> Result<Duration, Error> {
        let bounds = Duration::from_secs(1)..=Duration::from_mins(5);
        self.source.within(self.section.as_ref().time_limit.as_ref(), key::TIME_LIMIT, bounds)
    }

    // What `identity` never comes to.
    #[cfg(not(feature = "pkcs12"))]
    fn pkcs12(&self) -> Result<Identity, Error> {
        Err(self.source.at(self.section, &"not built in"))
    }

    #[cfg(not(feature = "pkcs11"))]
    fn pkcs11(&self) -> Result<Identity, Error> {
        Err(self.source.at(self.section, &"not built in"))
    }

    #[cfg(not(feature = "tpm2"))]
    fn tpm2(&self) -> Result<Identity, Error> {
        Err(self.source.at(self.section, &"not built in"))
    }
}

/// The kernel's own resource manager.
#[cfg(feature = "tpm2")]
const TCTI: &str = "device:/dev/tpmrm0";

/// A module is code that runs as root: nobody else may be able to exchange it.
#[cfg(feature = "pkcs11")]
fn check_module(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    if !path.is_absolute() {
        return Err("must be an absolute path".to_owned());
    }
    let found = std::fs::metadata(path).map_err(|error| super::cannot_read(path, &error))?;
    let ours = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || !ours || found.permissions().mode() & 0o022 != 0 {
        return Err(format!("{} must be a file of root's that nobody else can write to", path.display()));
    }
    Ok(())
}

#[cfg(feature = "pkcs11")]
fn hex(text: &str) -> Result<Vec<u8>, &'static str> {
    const EXPECTED: &str = "expected the id in hexadecimal, two digits for each byte, like 01 or a1b2";
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = text.as_bytes().iter().map(digit).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0).ok_or(EXPECTED)?;
    Ok(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}
