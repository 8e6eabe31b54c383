//! Which real resources there are, by the environment: docs/AZURE-LIVE.md. What is set wrongly is a failure, never a skip.

use std::path::PathBuf;

use keyturn_azure::HttpsUrl;
use keyturn_azure::credential::Credential;
use keyturn_azure::logs::RuleId;
use keyturn_azure::service_bus::Namespace;
use keyturn_domain::ids::DeviceId;

/// The variables, each once.
pub(crate) const KEY_VAULT: &str = "KEYTURN_LIVE_KEY_VAULT";
pub(crate) const STORAGE: &str = "KEYTURN_LIVE_STORAGE";
pub(crate) const STORAGE_VERSION: &str = "KEYTURN_LIVE_STORAGE_VERSION";
pub(crate) const BUS: &str = "KEYTURN_LIVE_SERVICE_BUS";
pub(crate) const BUS_PREFIX: &str = "KEYTURN_LIVE_SERVICE_BUS_PREFIX";
pub(crate) const BUS_SESSIONS: &str = "KEYTURN_LIVE_SERVICE_BUS_SESSIONS";
pub(crate) const GRAPH: &str = "KEYTURN_LIVE_GRAPH";
pub(crate) const DEVICE: &str = "KEYTURN_LIVE_GRAPH_DEVICE";
pub(crate) const LOGS: &str = "KEYTURN_LIVE_LOGS";
pub(crate) const RULE: &str = "KEYTURN_LIVE_LOGS_RULE";
pub(crate) const CREDENTIAL: &str = "KEYTURN_LIVE_CREDENTIAL";
pub(crate) const CA: &str = "KEYTURN_LIVE_CA";
pub(crate) const DANGER_FAKES: &str = "KEYTURN_LIVE_DANGER_FAKES";

/// What the environment says; none of a service that is not named.
#[derive(Debug)]
pub(crate) struct Switches {
    pub(crate) key_vault: Option<HttpsUrl>,
    /// The address of the queues and the version of the API that is spoken.
    pub(crate) storage: Option<(String, Option<String>)>,
    /// The namespace, what the names of its queues begin with, and whether these require sessions.
    pub(crate) service_bus: Option<(String, String, bool)>,
    /// Where Graph is, and a device that it has.
    pub(crate) graph: Option<(HttpsUrl, DeviceId)>,
    /// The endpoint and the rule.
    pub(crate) logs: Option<(HttpsUrl, RuleId)>,
    pub(crate) credential: Credential,
    /// What certificates of fakes chain to.
    pub(crate) ca: Option<PathBuf>,
    /// Whether a host that is not Azure's may say what tokens are for.
    pub(crate) fakes: bool,
}

impl Switches {
    /// From the process's own environment.
    #[expect(clippy::disallowed_methods, reason = "these are switches of a test, and no setting")]
    pub(crate) fn of_environment() -> Self {
        Self::parse(|name| std::env::var(name).ok()).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// From variables. An empty one is one that is not set.
    pub(crate) fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = |name: &'static str| {
            let parsed = given(name).map(|text| text.parse::<HttpsUrl>());
            parsed.transpose().map_err(|error| format!("{name}: {error}"))
        };
        let truth = |name: &'static str| match given(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("{name}: must be true or false")),
        };
        // What goes with another variable is wrong without it, and that one without it.
        let pair = |first: &'static str, second: &'static str| match (given(first), given(second)) {
            (Some(_), None) => Err(format!("{second}: must be given with {first}")),
            (None, Some(_)) => Err(format!("{first}: must be given with {second}")),
            (_, both) => Ok(both),
        };
        let device = pair(GRAPH, DEVICE)?.map(|text| text.parse::<DeviceId>());
        let device = device.transpose().map_err(|error| format!("{DEVICE}: {error}"))?;
        let rule = pair(LOGS, RULE)?.map(|text| text.parse::<RuleId>());
        let rule = rule.transpose().map_err(|error| format!("{RULE}: {error}"))?;
        if let Some(namespace) = given(BUS) {
            Namespace::parse(&namespace).map_err(|error| format!("{BUS}: {error}"))?;
        }
        let prefix = given(BUS_PREFIX).unwrap_or_else(|| "keyturn-live-".to_owned());
        let sessions = truth(BUS_SESSIONS)?;
        let credential = match given(CREDENTIAL).as_deref() {
            None | Some("azure-cli") => Credential::AzureCli { tenant_id: None },
            Some("managed-identity") => Credential::ManagedIdentity { client_id: None },
            Some(_) => return Err(format!("{CREDENTIAL}: must be azure-cli or managed-identity")),
        };
        Ok(Self {
            key_vault: url(KEY_VAULT)?,
            storage: given(STORAGE).map(|address| (address, given(STORAGE_VERSION))),
            service_bus: given(BUS).map(|namespace| (namespace, prefix, sessions)),
            graph: url(GRAPH)?.zip(device),
            logs: url(LOGS)?.zip(rule),
            credential,
            ca: given(CA).map(PathBuf::from),
            fakes: truth(DANGER_FAKES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Switches, String> {
        let all: BTreeMap<&str, &str> = given.iter().copied().collect();
        Switches::parse(|name| all.get(name).map(|&value| value.to_owned()))
    }

    const ID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn what_is_not_set_is_left_out() {
        let none = parse(&[(KEY_VAULT, ""), (CA, "")]).unwrap();
        assert!(none.key_vault.is_none() && none.storage.is_none() && none.service_bus.is_none());
        assert!(none.graph.is_none() && none.logs.is_none() && none.ca.is_none() && !none.fakes);
        assert_eq!(none.credential, Credential::AzureCli { tenant_id: None });
    }

    #[test]
    fn what_is_set_is_read() {
        let all = parse(&[
            (KEY_VAULT, "https://contoso.vault.azure.net"),
            (STORAGE, "https://contoso.queue.core.windows.net"),
            (BUS, "sb://contoso.servicebus.windows.net"),
            (BUS_SESSIONS, "true"),
            (GRAPH, "https://graph.microsoft.com"),
            (DEVICE, ID),
            (LOGS, "https://l.westeurope-1.ingest.monitor.azure.com"),
            (RULE, "dcr-0123456789abcdef0123456789abcdef"),
            (CREDENTIAL, "managed-identity"),
        ]);
        let all = all.unwrap();
        assert_eq!(all.key_vault.unwrap().host(), "contoso.vault.azure.net");
        assert_eq!(all.storage.unwrap().1, None);
        let (_, prefix, sessions) = all.service_bus.unwrap();
        assert!(prefix == "keyturn-live-" && sessions);
        assert_eq!(all.graph.unwrap().1.to_string(), ID);
        assert!(all.logs.is_some());
        assert_eq!(all.credential, Credential::ManagedIdentity { client_id: None });
    }

    #[test]
    fn what_is_wrong_is_no_skip() {
        for (given, named) in [
            (vec![(KEY_VAULT, "contoso")], KEY_VAULT),
            (vec![(BUS, "https://contoso")], BUS),
            (vec![(BUS, "sb://contoso"), (BUS_SESSIONS, "yes")], BUS_SESSIONS),
            (vec![(GRAPH, "https://graph.microsoft.com")], DEVICE),
            (vec![(DEVICE, ID)], GRAPH),
            (vec![(GRAPH, "https://graph.microsoft.com"), (DEVICE, "LAB-07")], DEVICE),
            (vec![(LOGS, "https://l")], RULE),
            (vec![(LOGS, "https://l"), (RULE, "rule")], RULE),
            (vec![(CREDENTIAL, "password")], CREDENTIAL),
            (vec![(DANGER_FAKES, "1")], DANGER_FAKES),
        ] {
            let wrong = parse(&given).unwrap_err();
            assert!(wrong.starts_with(named), "{given:?}: {wrong}");
        }
    }
}
