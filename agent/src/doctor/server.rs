//! What the server answers.

use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_schemas::key_set;

use super::{Check, Patient};
use crate::agent::chain;
use crate::disk;
use crate::outcome::When;
use crate::transport::{Call, Reply};

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How far the clocks may differ. Messages carry a nonce of the server's and not the device's time; but by its own
/// clock the device tells whether a key set has ended.
const DIFFERENCE: Duration = Duration::from_mins(5);

pub(super) async fn examine(patient: &Patient<'_>) -> Vec<Check> {
    let call =
        Call { path: "v1/nonce", message: None, wait: None, timeout: TIMEOUT, trace: None, follows: None };
    let reply = patient.transport.exchange(call).await;
    let now = patient.clock.now();
    let server = match &reply {
        Ok(reply) => reached(patient, reply),
        Err(error) => Err(format!(
            "{}: {}; check server, proxy and ca in the settings, and what the network lets through",
            patient.settings.server,
            chain(error)
        )),
    };
    let mut checks = vec![Check::new("server", server)];
    if let Some(date) = reply.as_ref().ok().and_then(|reply| reply.date) {
        checks.push(Check::new("clock", compare(now, date)));
    }
    let offered = reply.ok().and_then(|reply| reply.key_set);
    checks.push(Check::new("key set", keys(patient, offered, now)));
    checks
}

fn reached(patient: &Patient<'_>, reply: &Reply) -> Result<String, String> {
    let server = &patient.settings.server;
    match reply.status {
        200 | 204 if reply.nonce.is_some() => Ok(format!("{server} answers")),
        429 | 503 => Err(format!("{server} is busy; try again later")),
        status => {
            Err(format!("{server} is no Keyturn server (status {status}); check server in the settings"))
        }
    }
}

fn compare(here: UnixMillis, there: UnixMillis) -> Result<String, String> {
    let difference = here.0.abs_diff(there.0) / 1000;
    let side = if here > there { "ahead of" } else { "behind" };
    let text = format!("{difference} s {side} the server's");
    if Duration::from_secs(difference) <= DIFFERENCE {
        return Ok(text);
    }
    Err(format!("{text}; turn time synchronisation on, as with timedatectl set-ntp true"))
}

/// The key set that the server gives out, or else the one that is kept.
fn keys(patient: &Patient<'_>, offered: Option<String>, now: UnixMillis) -> Result<String, String> {
    let settings = patient.settings;
    let kept = || disk::read(&settings.state.join("key-set.jws")).ok().flatten();
    let text = offered.or_else(|| kept().map(|text| String::from_utf8_lossy(&text).trim().to_owned()));
    let Some(text) = text else { return Ok("none yet; it comes with the first answer".to_owned()) };
    match key_set::verify(&text, &settings.root, &settings.deployment, now) {
        Ok(set) => Ok(format!("serial {}, signed by the root, until {}", set.serial, When(set.not_after))),
        Err(error) => Err(format!(
            "{error}; compare deployment and root_key in the settings with the server's, and this machine's clock"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared() {
        let at = |seconds: u64| UnixMillis(seconds * 1000);
        assert_eq!(compare(at(1000), at(997)).unwrap(), "3 s ahead of the server's");
        assert!(compare(at(1000), at(1432)).unwrap_err().starts_with("432 s behind the server's; turn time"));
    }
}
