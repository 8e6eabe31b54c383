//! The account's name, and the digits that may be drawn for it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use keyturn_domain::entropy::Entropy;
use keyturn_domain::label::Label;

use super::database;
use crate::agent::Error;
use crate::lock::Lock;
use crate::{accounts, cycle, disk};

/// The longest name that useradd(8) takes.
pub const MAX: usize = 32;

/// How often digits are drawn until a name is free.
const DRAWS: u32 = 20;

/// A name that every Linux system takes: a small letter or `_`, then small letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(String);

/// A text that is not such a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error(
    "an account's name is a small letter or _, then a-z 0-9 _ -, at most {MAX} characters with its digits"
)]
pub struct NotAName;

impl UserName {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name for people.
    pub fn label(&self) -> Label {
        Label::parse(&self.0).unwrap_or_default()
    }

    fn with(&self, digits: &str) -> Result<Self, NotAName> {
        format!("{}{digits}", self.0).parse()
    }

    /// Whether this is `base` and `digits` digits.
    fn continues(&self, base: &Self, digits: u32) -> bool {
        let rest = self.0.strip_prefix(base.as_str());
        rest.is_some_and(|rest| {
            rest.len() == digits as usize && rest.bytes().all(|byte| byte.is_ascii_digit())
        })
    }
}

impl FromStr for UserName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if first && text.len() <= MAX && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAName)
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name with its digits as it was chosen, if it was.
pub fn known(base: &UserName, digits: u32, state: &Path) -> Result<Option<UserName>, disk::Error> {
    if digits == 0 {
        return Ok(Some(base.clone()));
    }
    let kept = disk::read(&state.join("account-name"))?.unwrap_or_default();
    let kept = String::from_utf8_lossy(&kept).trim().parse::<UserName>().ok();
    Ok(kept.filter(|kept| kept.continues(base, digits)))
}

/// The name with its digits, which are drawn once and then kept in the state folder.
pub fn choose(base: &UserName, digits: u32, state: &Path, entropy: &dyn Entropy) -> Result<UserName, Error> {
    if let Some(name) = known(base, digits, state)? {
        return Ok(name);
    }
    let _lock = Lock::take(state)?;
    if let Some(name) = known(base, digits, state)? {
        return Ok(name);
    }
    let taken = |name: &UserName| database::exists(name.as_str()).map_err(cycle::Error::from);
    for _ in 0..DRAWS {
        let drawn: String = (0..digits).map(|_| entropy.below(10).to_string()).collect();
        let Ok(name) = base.with(&drawn) else { break };
        if !taken(&name)? {
            disk::replace(&state.join("account-name"), name.as_str().as_bytes())?;
            return Ok(name);
        }
    }
    let text = format!("no name of the form {base} and {digits} digits is free; raise account.random_suffix");
    Err(cycle::Error::from(accounts::Error::Database(text)).into())
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ambient::SystemEntropy;

    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_such_as_no_program_can_misread() {
        for good in ["lapsadmin", "_a", "a-b_9"] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "9a", "Admin", "a b", "a:b", "a\n", "é", &"a".repeat(33)] {
            assert_eq!(bad.parse::<UserName>(), Err(NotAName), "{bad}");
        }
    }

    #[test]
    fn digits_are_drawn_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let base = name("keyturn-test-");
        assert_eq!(known(&base, 5, folder.path()).unwrap(), None);
        let first = choose(&base, 5, folder.path(), &SystemEntropy).unwrap();
        assert!(first.continues(&base, 5), "{first}");
        assert_eq!(choose(&base, 5, folder.path(), &SystemEntropy).unwrap(), first);
        assert_eq!(known(&base, 5, folder.path()).unwrap(), Some(first));
        assert_eq!(known(&base, 4, folder.path()).unwrap(), None, "other settings, another name");
        assert_eq!(choose(&base, 0, folder.path(), &SystemEntropy).unwrap(), base);
    }
}
