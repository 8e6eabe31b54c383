//! What is wrong with an installation, and what mends it: one line for each check.

mod local;
mod server;

use std::fmt;

use keyturn_domain::clock::Clock;

use crate::accounts::Accounts;
use crate::settings::Settings;
use crate::transport::Transport;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What was found; or what is wrong, and what mends it.
    pub found: Result<String, String>,
}

/// What is looked at.
pub struct Patient<'a> {
    /// The settings, which are sound, or there would be none.
    pub settings: &'a Settings,
    /// The account; none if its name has not been chosen yet.
    pub accounts: Option<&'a dyn Accounts>,
    /// The way to the server.
    pub transport: &'a dyn Transport,
    /// The time.
    pub clock: &'a dyn Clock,
}

/// Makes every check, those of this machine first. Writes and removes one file in the state folder, lets the
/// key sign once, asks the server for one nonce, and changes nothing else.
pub async fn examine(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = vec![Check::new("identity", local::identity(patient).await)];
    checks.extend(local::examine(patient));
    checks.extend(server::examine(patient).await);
    checks
}

impl Check {
    pub(crate) fn new(what: &'static str, found: Result<String, String>) -> Self {
        Self { what, found }
    }

    /// Whether all is well.
    pub fn is_good(&self) -> bool {
        self.found.is_ok()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.found {
            Ok(text) => ("ok", text),
            Err(text) => ("fail", text),
        };
        write!(f, "{word:<5} {:<12} {text}", self.what)
    }
}
