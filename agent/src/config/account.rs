//! The section about the managed account.

use std::path::PathBuf;
use std::time::Duration;

use keyturn_domain::label::Label;
use keyturn_domain::span::Span;
use serde::Deserialize;
use toml::Spanned;

use super::Error;
use super::place::Source;
use crate::platform::linux::name::{self, UserName};
use crate::platform::linux::{Options, TIME_LIMIT};

/// The most digits that are drawn for a name.
const MAX_DIGITS: u32 = 9;

/// The managed account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountConfig {
    /// An account in a file.
    File {
        /// The file.
        path: PathBuf,
        /// The account's name.
        name: Label,
    },
    /// An account of this Linux system.
    Linux {
        /// The account's name, or its beginning.
        name: UserName,
        /// How many digits are drawn to go with it.
        random_suffix: u32,
        /// How it is managed.
        options: Options,
    },
}

/// The section, whatever kind it is of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountSection {
    kind: Kind,
    name: Spanned<Label>,
    #[serde(default = "yes")]
    pub(super) create: bool,
    pub(super) path: Option<Spanned<PathBuf>>,
    random_suffix: Option<Spanned<u32>>,
    groups: Option<Spanned<Vec<String>>>,
    shell: Option<Spanned<PathBuf>>,
    unlock: Option<Spanned<bool>>,
    danger_manage_root: Option<Spanned<bool>>,
    time_limit: Option<Spanned<Span>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Linux,
}

fn yes() -> bool {
    true
}

impl AccountSection {
    pub(super) fn resolve(section: &Spanned<Self>, source: &Source<'_>) -> Result<AccountConfig, Error> {
        match section.as_ref().kind {
            Kind::File => section.as_ref().file(section, source),
            Kind::Linux => section.as_ref().linux(source),
        }
    }

    fn file(&self, section: &Spanned<Self>, source: &Source<'_>) -> Result<AccountConfig, Error> {
        let strangers = [
            self.random_suffix.as_ref().map(Spanned::span),
            self.groups.as_ref().map(Spanned::span),
            self.shell.as_ref().map(Spanned::span),
            self.unlock.as_ref().map(Spanned::span),
            self.danger_manage_root.as_ref().map(Spanned::span),
            self.time_limit.as_ref().map(Spanned::span),
        ];
        if let Some(stranger) = strangers.into_iter().flatten().next() {
            return Err(source.error(stranger.start, &"an account of kind `file` has no such setting"));
        }
        let path = self.path.as_ref().ok_or_else(|| source.at(section, &"missing field `path`"))?;
        Ok(AccountConfig::File { path: path.as_ref().clone(), name: self.name.as_ref().clone() })
    }

    fn linux(&self, source: &Source<'_>) -> Result<AccountConfig, Error> {
        if let Some(path) = &self.path {
            return Err(source.at(path, &"an account of kind `linux` has no such setting"));
        }
        let name: UserName = source.check(&self.name, |name| name.as_str().parse())?;
        let random_suffix = self.digits(&name, source)?;
        if let Some(groups) = &self.groups {
            source.check(groups, |groups| groups.iter().try_for_each(|group| check_group(group)))?;
        }
        if let Some(shell) = &self.shell {
            source.check(shell, |shell| {
                if shell.is_absolute() { Ok(()) } else { Err("must be an absolute path") }
            })?;
        }
        let is_on = |setting: &Option<Spanned<bool>>| setting.as_ref().is_some_and(|on| *on.as_ref());
        let options = Options {
            groups: self.groups.as_ref().map(|groups| groups.as_ref().clone()),
            shell: self.shell.as_ref().map(|shell| shell.as_ref().clone()),
            unlock: is_on(&self.unlock),
            danger_manage_root: is_on(&self.danger_manage_root),
            time_limit: source.within(
                self.time_limit.as_ref(),
                TIME_LIMIT,
                Duration::from_secs(1)..=Duration::from_mins(2),
            )?,
        };
        Ok(AccountConfig::Linux { name, random_suffix, options })
    }

    fn digits(&self, name: &UserName, source: &Source<'_>) -> Result<u32, Error> {
        let Some(digits) = &self.random_suffix else { return Ok(0) };
        source.check(digits, |digits| match *digits {
            0..=MAX_DIGITS if name.as_str().len() + *digits as usize <= name::MAX => Ok(*digits),
            0..=MAX_DIGITS => {
                Err(format!("{name} and {digits} digits are more than {} characters", name::MAX))
            }
            _ => Err(format!("must be from 0 to {MAX_DIGITS}")),
        })
    }
}

/// A group's name becomes one of several between commas.
fn check_group(group: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !group.is_empty() && !group.starts_with('-') && group.bytes().all(plain) {
        return Ok(());
    }
    Err(format!("«{group}» is no name of a group"))
}
