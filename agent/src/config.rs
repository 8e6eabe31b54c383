//! The agent's settings in a TOML file. Unknown keys are errors, and every error names the file, the line and
//! the key: a typing error in a security setting must not pass for its default.

mod account;
#[cfg_attr(
    not(any(feature = "pkcs11", feature = "tpm2")),
    expect(dead_code, reason = "what tokens and TPMs have in common is not needed without them")
)]
mod key;
mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::signing::PublicKey;
use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

pub use self::account::AccountConfig;
use self::account::AccountSection;
use self::key::{KeySection, Place};
use self::place::Source;
use crate::about;
use crate::identity::{self, Identity};
use crate::key::secret;
use crate::settings::{CHECK_IN, ProxyUrl, SPLAY, ServerUrl, Settings, Timing, WAIT};
use keyturn_domain::span::Span;

/// Where the file is looked for.
pub const DEFAULT_PATH: &str = "/etc/keyturn/agent.toml";

/// The settings and the account they are for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings.
    pub settings: Settings,
    /// The managed account.
    pub account: AccountConfig,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{path}: the settings file cannot be read: {source}; give another with --config FILE")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {key}{message}")]
    Setting {
        /// File and line.
        place: String,
        /// The key and a colon, where there is one.
        key: String,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Spanned<String>,
    deployment: Deployment,
    root_key: Spanned<PathBuf>,
    device_id: Spanned<DeviceId>,
    certificate: Option<Spanned<PathBuf>>,
    private_key: Option<Spanned<PathBuf>>,
    key: Option<Spanned<KeySection>>,
    #[serde(default = "default_state")]
    state: PathBuf,
    ca: Option<Spanned<PathBuf>>,
    proxy: Option<Spanned<String>>,
    wait: Option<Spanned<Span>>,
    check_in: Option<Spanned<Span>>,
    splay: Option<Spanned<Span>>,
    account: Spanned<AccountSection>,
    #[serde(default)]
    timing: TimingSection,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingSection {
    unknown_post: Option<Span>,
    gap: Option<Span>,
    long_poll: Option<Spanned<Span>>,
    report_wait: Option<Span>,
    connect: Option<Span>,
}

fn default_state() -> PathBuf {
    "/var/lib/keyturn-agent".into()
}

impl Config {
    /// Reads the file and everything it names.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = fs::read_to_string(path);
        let text = read.map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        let source = Source { path, text: &text };
        let mut file: File = toml::from_str(&text).map_err(|error| source.syntax(&error))?;
        file.anchor(path.parent().unwrap_or(Path::new("")));
        let account = AccountSection::resolve(&file.account, &source)?;
        Ok(Self { settings: file.resolve(&source)?, account })
    }
}

impl File {
    /// Relative paths are relative to the folder of the file, wherever the agent is started.
    fn anchor(&mut self, home: &Path) {
        let named =
            [&mut self.root_key].into_iter().chain(&mut self.certificate).chain(&mut self.private_key);
        let named = named.chain(&mut self.ca).chain(&mut self.account.as_mut().path).map(Spanned::as_mut);
        let of_key = self.key.iter_mut().flat_map(|key| key.as_mut().paths());
        for path in named.chain(of_key).chain([&mut self.state]) {
            *path = home.join(&*path);
        }
    }

    fn resolve(self, source: &Source<'_>) -> Result<Settings, Error> {
        let identity = self.identity(source)?;
        let server: ServerUrl = source.check(&self.server, |text| text.parse())?;
        let root = source.read(&self.root_key)?;
        let root: PublicKey = source.check(&self.root_key, |_| {
            serde_json::from_slice(&root)
                .map_err(|_| "it is not the root's public key: expected JSON with kid, alg and x")
        })?;
        Ok(Settings {
            server,
            ca: self.ca.as_ref().map(|path| source.read(path)).transpose()?,
            proxy: self
                .proxy
                .as_ref()
                .map(|proxy| source.check(proxy, |text| text.parse::<ProxyUrl>()))
                .transpose()?,
            deployment: self.deployment,
            root,
            device: *self.device_id.as_ref(),
            identity: Arc::new(identity),
            state: self.state,
            labels: about::labels(),
            machine: about::machine(),
            create_account: self.account.as_ref().create,
            wait: source.within(
                self.wait.as_ref(),
                WAIT,
                Duration::from_secs(1)..=Duration::from_hours(1),
            )?,
            check_in: source.within(
                self.check_in.as_ref(),
                CHECK_IN,
                Duration::from_mins(1)..=Duration::from_hours(24 * 7),
            )?,
            splay: source.within(self.splay.as_ref(), SPLAY, Duration::ZERO..=Duration::from_hours(24))?,
            timing: self.timing.resolve(source)?,
        })
    }

    fn identity(&self, source: &Source<'_>) -> Result<Identity, Error> {
        let (certificate, state) = (self.certificate.as_ref(), &self.state);
        let identity = match (&self.private_key, &self.key) {
            (Some(private_key), None) => self.pem(private_key, source)?,
            (None, Some(section)) => Place { source, section, certificate, state }.identity()?,
            (Some(private_key), Some(_)) => {
                return Err(source.at(private_key, &"there is a [key] as well; take one of them out"));
            }
            (None, None) => {
                let message = "name the device's `private_key`, or say in a [key] where it is".to_owned();
                let place = source.path.display().to_string();
                return Err(Error::Setting { place, key: String::new(), message });
            }
        };
        let named = identity.device();
        source.check(&self.device_id, |device| match named {
            Some(named) if named != *device => Err(format!("the certificate was issued to {named}")),
            _ => Ok(()),
        })?;
        Ok(identity)
    }

    fn pem(&self, private_key: &Spanned<PathBuf>, source: &Source<'_>) -> Result<Identity, Error> {
        let Some(certificate) = &self.certificate else {
            return Err(source.at(private_key, &"name the file of the device's `certificate` as well"));
        };
        source.check(private_key, |path| check_private(path))?;
        let key = Zeroizing::new(source.read(private_key)?);
        let text = source.read(certificate)?;
        let place = format!("the key in {}", private_key.as_ref().display());
        Identity::from_pem(&text, &key, &place).map_err(|error| match error {
            identity::Error::CertificatePem | identity::Error::Certificate(_) => {
                source.at(certificate, &error)
            }
            _ => source.at(private_key, &error),
        })
    }
}

impl TimingSection {
    fn resolve(self, source: &Source<'_>) -> Result<Timing, Error> {
        let default = Timing::default();
        let or = |span: Option<Span>, default| span.map_or(default, |span| span.0);
        Ok(Timing {
            unknown_post: or(self.unknown_post, default.unknown_post),
            gap: or(self.gap, default.gap),
            long_poll: source.within(
                self.long_poll.as_ref(),
                default.long_poll,
                Duration::ZERO..=Duration::from_secs(30),
            )?,
            report_wait: or(self.report_wait, default.report_wait),
            connect: or(self.connect, default.connect),
            ..default
        })
    }
}

/// A private key that others on the machine can read is not private.
fn check_private(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    secret::check_private(&found).map_err(|reason| format!("{}: {reason}", path.display()))
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}
