//! What is asked of the services that a deployment stands on besides its queues and its directory: whether Key Vault lets
//! this process read and write, and whether each one's clock agrees with this machine's.

use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_service::config::{DirectoryEngine, VaultEngine};

use super::{Check, Deployment};

/// With `write`, Key Vault is written to. This process asks as whoever runs it, which may be another than the rotator.
pub(super) async fn examine(deployment: &Deployment, write: bool) -> Vec<Check> {
    let mut checks = key_vault(deployment, write).await;
    checks.extend(database_clock(deployment).await);
    checks.extend(clocks(deployment).await);
    checks
}

async fn key_vault(deployment: &Deployment, write: bool) -> Vec<Check> {
    let (readable, writable) = ("vault readable", "vault writable");
    let Some(vault) = deployment.engines.key_vault() else { return Vec::new() };
    let nobody = DeviceId::from_bytes(deployment.engines.entropy().bytes());
    let mend = "whoever reveals passwords needs to read them: docs/AZURE.md tells the roles, \
                docs/runbooks/vault-writes-fail.md what else it may be";
    let read = vault.try_reading(nobody).await.into_iter().map(|(vault, asked)| match asked {
        Ok(()) => Check::ok(readable, format!("{vault}: this identity may read secrets")),
        Err(error) => Check::failed(readable, error.to_string(), mend),
    });
    let mut checks: Vec<Check> = read.collect();
    if write {
        let mend = "without it no password is rotated: docs/AZURE.md tells the roles, docs/runbooks/vault-writes-fail.md \
                    what else it may be";
        checks.extend(vault.try_writing().await.into_iter().map(|(vault, tried)| match tried {
            Ok(()) => Check::ok(
                writable,
                format!("{vault}: a disabled version of the secret keyturn-doctor was written"),
            ),
            Err(error) => Check::failed(writable, error.to_string(), mend),
        }));
    }
    checks
}

const CLOCK: &str = "service clock";

/// PostgreSQL gives messages their times.
async fn database_clock(deployment: &Deployment) -> Option<Check> {
    let asked = deployment.engines.clock().now();
    let told = deployment.engines.server_time().await?;
    let times = (asked, deployment.engines.clock().now());
    Some(compare("PostgreSQL", times, told.map(Some), Duration::ZERO, allowed(deployment)))
}

/// Services of Azure tell their time with each answer, also with one that refuses: these calls have no token. Service Bus
/// has no such answers.
async fn clocks(deployment: &Deployment) -> Vec<Check> {
    let config = &deployment.config;
    let Some(azure) = &config.azure else { return Vec::new() };
    let mut all = Vec::new();
    if let VaultEngine::KeyVault(settings, _) = &config.vault {
        all.extend(settings.urls.iter().chain(&settings.read_urls).cloned());
    }
    if let DirectoryEngine::Graph(settings) = &config.directory {
        all.push(settings.url.clone());
    }
    all.extend(config.queues.account.as_ref().and_then(|account| account.endpoint.origin()));
    let mut checks = Vec::new();
    for url in all {
        let asked = deployment.engines.clock().now();
        let told = azure.reach.time_of(&url).await;
        let (times, coarse) = ((asked, deployment.engines.clock().now()), Duration::from_secs(1));
        checks.push(compare(&url.to_string(), times, told, coarse, allowed(deployment)));
    }
    checks
}

fn allowed(deployment: &Deployment) -> Duration {
    deployment.config.sections.trust.future_skew.0
}

/// The service's time, which is cut down to a multiple of `coarse`, is between when it was asked and when it had answered.
fn compare(
    who: &str,
    (asked, answered): (UnixMillis, UnixMillis),
    told: Result<Option<UnixMillis>, Error>,
    coarse: Duration,
    allowed: Duration,
) -> Check {
    let time = match told {
        Ok(Some(time)) => time,
        Ok(None) => return Check::ok(CLOCK, format!("{who}: it does not tell its time")),
        Err(error) => {
            let mend = "see whether this machine gets there: name, firewall, azure.proxy, azure.ca";
            return Check::failed(CLOCK, error.to_string(), mend);
        }
    };
    let skew = asked.since(time.plus(coarse)).max(time.since(answered));
    let found = format!("{who}: its clock and this machine's are {} s apart", skew.as_secs());
    if skew > allowed {
        return Check::warning(CLOCK, found, "set the clock by a time server: tokens and messages go by it");
    }
    Check::ok(CLOCK, found)
}

#[cfg(test)]
mod tests {
    use keyturn_ports::Kind;

    use super::super::State;
    use super::*;

    #[test]
    fn clocks_are_apart_by_what_no_delay_explains() {
        let state = |told: u64| {
            let times = (UnixMillis(100_000), UnixMillis(104_000));
            let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
            let check = compare("x", times, Ok(Some(UnixMillis(told))), second, minute);
            (check.state, check.found.split_once("machine's are ").unwrap().1.to_owned())
        };
        assert_eq!(state(99_000), (State::Ok, "0 s apart".to_owned()), "it may have been 99.999");
        assert_eq!(state(104_000), (State::Ok, "0 s apart".to_owned()));
        assert_eq!(state(39_000), (State::Ok, "60 s apart".to_owned()));
        assert_eq!(state(38_000), (State::Warning, "61 s apart".to_owned()));
        assert_eq!(state(164_000), (State::Ok, "60 s apart".to_owned()));
        assert_eq!(state(165_000), (State::Warning, "61 s apart".to_owned()));
        let times = (UnixMillis(0), UnixMillis(0));
        let away = Err(Error::new(Kind::Unavailable, "asking", "nobody"));
        let check = compare("x", times, away, Duration::ZERO, Duration::ZERO);
        assert!(check.state == State::Failed && check.mend.is_some());
    }
}
