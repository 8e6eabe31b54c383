//! Settings of Azure's services, typed.

use std::path::PathBuf;
use std::time::Duration;

use keyturn_azure::credential::Credential;
use keyturn_azure::pace::Limit;
use keyturn_azure::{Attempts, HttpsUrl, KeyUrl, Reach, graph, key_vault, wrapping_key};

use super::sections::{Azure, AzureCredential, Sections};

/// Where versions are kept.
#[derive(Clone, Debug)]
pub enum VaultEngine {
    /// In the database, sealed.
    Embedded,
    /// In the database, sealed under keys that a key of Key Vault wraps.
    Envelope(wrapping_key::Settings),
    /// In Azure Key Vault, at this pace.
    KeyVault(key_vault::Settings, Limit),
}

/// How confirmed passwords are copied for people with plain vault tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySettings {
    /// How often it is looked for what is to be copied, and how long a process has its turn.
    pub every: Duration,
    /// How often every copy is looked at.
    pub sweep: Duration,
    /// Copies that are looked at at once.
    pub parallel: usize,
}

/// Where devices are looked up.
#[derive(Clone, Debug)]
pub enum DirectoryEngine {
    /// In the database.
    Embedded,
    /// At Microsoft Graph.
    Graph(Box<graph::Settings>),
}

/// How services of Azure are reached.
#[derive(Clone, Debug)]
pub struct AzureAccess {
    /// As whom.
    pub credential: Credential,
    /// Which way.
    pub reach: Reach,
}

impl Azure {
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let AzureCredential { secret_file, token_file, .. } = &mut self.credential;
        [secret_file, token_file, &mut self.ca].into_iter().flatten()
    }

    pub(super) fn attempts(&self) -> Attempts {
        Attempts { most: self.attempts, first_delay: self.first_delay.0, max_delay: self.max_delay.0 }
    }
}

impl Sections {
    /// Where versions are kept; or what is wrong, each with its key.
    pub(super) fn vault_engine(&self) -> Result<VaultEngine, Vec<String>> {
        let (section, mut problems) = (&self.vault, Vec::new());
        if section.confirmed_copy == Some(true) && section.engine != "key-vault" {
            problems.push("vault.confirmed_copy: it goes with vault.engine = \"key-vault\"".to_owned());
        }
        match section.engine.as_str() {
            "key-vault" | "envelope" | "embedded"
                if section.engine != "envelope"
                    && (section.wrapping_key.is_some() || !section.former_wrapping_keys.is_empty()) =>
            {
                problems.push(
                    "vault.wrapping_key, vault.former_wrapping_keys: they go with vault.engine = \"envelope\"".to_owned(),
                );
            }
            "embedded" | "envelope" if !problems.is_empty() => {}
            "embedded" if section.urls.is_empty() && section.read_urls.is_empty() => {
                return Ok(VaultEngine::Embedded);
            }
            "envelope" if section.urls.is_empty() && section.read_urls.is_empty() => return self.envelope(),
            "embedded" | "envelope" => problems
                .push("vault.urls, vault.read_urls: they go with vault.engine = \"key-vault\"".to_owned()),
            "key-vault" => {}
            other => {
                problems.push(format!("vault.engine: «{other}» is not one of embedded, envelope, key-vault"));
            }
        }
        let urls = origins("vault.urls", &section.urls, &mut problems);
        let read_urls = origins("vault.read_urls", &section.read_urls, &mut problems);
        if urls.is_empty() {
            let problem = "vault.urls: vault.engine = \"key-vault\" needs at least one address";
            problems.push(problem.to_owned());
        }
        problems.extend(self.key_vault_bounds());
        if !problems.is_empty() {
            return Err(problems);
        }
        let settings = key_vault::Settings {
            urls,
            read_urls,
            danger_unverified_challenge: section.danger_unverified_challenge,
            attempts: self.azure.attempts(),
            parallel: section.parallel,
        };
        Ok(VaultEngine::KeyVault(settings, self.creations()))
    }

    fn key_vault_bounds(&self) -> Vec<String> {
        let section = &self.vault;
        let minute = Duration::from_mins(1);
        let rules = [
            (
                !(2..=3000).contains(&section.creations),
                "vault.creations: must be 2 to 3000; Key Vault takes 300 in 10 seconds",
            ),
            (
                !(Duration::from_secs(1)..=minute).contains(&section.creations_window.0),
                "vault.creations_window: must be 1s to 1m",
            ),
            (
                !(Duration::from_millis(20)..=Duration::from_secs(5)).contains(&section.creations_slack.0),
                "vault.creations_slack: must be 20ms to 5s",
            ),
            (!(1..=300).contains(&section.creations_lease), "vault.creations_lease: must be 1 to 300"),
            (section.turn_patience.0 > minute, "vault.turn_patience: must be at most 1m"),
            (!(1..=256).contains(&section.parallel), "vault.parallel: must be 1 to 256"),
            (
                !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&section.copy_every.0),
                "vault.copy_every: must be 1s to 1h",
            ),
            (
                section.copy_sweep_every.0 < section.copy_every.0,
                "vault.copy_sweep_every: must be at least vault.copy_every",
            ),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()).collect()
    }

    /// How confirmed passwords are copied, if they are.
    pub(super) fn copies(&self) -> Option<CopySettings> {
        let section = &self.vault;
        (section.confirmed_copy != Some(false) && section.engine == "key-vault").then_some(CopySettings {
            every: section.copy_every.0,
            sweep: section.copy_sweep_every.0,
            parallel: section.parallel,
        })
    }

    fn creations(&self) -> Limit {
        let section = &self.vault;
        Limit {
            calls: section.creations,
            window: section.creations_window.0,
            slack: section.creations_slack.0,
            lease: section.creations_lease,
            patience: section.turn_patience.0,
        }
    }

    fn envelope(&self) -> Result<VaultEngine, Vec<String>> {
        let (section, mut problems) = (&self.vault, Vec::new());
        let mut read = |key: &str, text: &String| {
            text.parse().map_err(|error| problems.push(format!("{key}: {error}"))).ok()
        };
        let key: Option<KeyUrl> =
            section.wrapping_key.as_ref().and_then(|text| read("vault.wrapping_key", text));
        let former: Vec<_> = section
            .former_wrapping_keys
            .iter()
            .filter_map(|text| read("vault.former_wrapping_keys", text))
            .collect();
        if section.wrapping_key.is_none() {
            problems
                .push("vault.wrapping_key: vault.engine = \"envelope\" needs the key that wraps".to_owned());
        }
        if !(Duration::from_secs(1)..=Duration::from_mins(5)).contains(&section.unwrap_every.0) {
            problems.push("vault.unwrap_every: must be 1s to 5m".to_owned());
        }
        match key.filter(|_| problems.is_empty()) {
            Some(key) => Ok(VaultEngine::Envelope(wrapping_key::Settings {
                key,
                former,
                danger_unverified_challenge: section.danger_unverified_challenge,
                attempts: self.azure.attempts(),
            })),
            None => Err(problems),
        }
    }

    /// Where devices are looked up; or what is wrong, each with its key.
    pub(super) fn directory_engine(&self) -> Result<DirectoryEngine, Vec<String>> {
        let (section, mut problems) = (&self.directory, Vec::new());
        match section.engine.as_str() {
            "embedded" => return Ok(DirectoryEngine::Embedded),
            "graph" => {}
            other => problems.push(format!("directory.engine: «{other}» is not one of embedded, graph")),
        }
        let url = origins("directory.url", std::slice::from_ref(&section.url), &mut problems);
        let finding = self.trust.finding_max_age.0;
        let rules = [
            (
                section.keep.0 >= finding || section.keep_unknown.0 >= finding,
                "directory.keep, directory.keep_unknown: must be less than trust.finding_max_age",
            ),
            (!(1..=1000).contains(&section.keep_uses), "directory.keep_uses: must be 1 to 1000"),
            (
                !(1..=10_000_000).contains(&section.keep_entries),
                "directory.keep_entries: must be 1 to 10000000",
            ),
            (!(1..=256).contains(&section.parallel), "directory.parallel: must be 1 to 256"),
            (
                !section.delta_every.0.is_zero() && section.delta_every.0 < Duration::from_secs(1)
                    || section.delta_every.0 > Duration::from_hours(24),
                "directory.delta_every: must be 0s, or 1s to 1d",
            ),
            (
                section.delta_hold.0 <= self.azure.timeout.0
                    || section.delta_hold.0 > Duration::from_hours(1),
                "directory.delta_hold: must be more than azure.timeout, and at most 1h",
            ),
            (
                !(Duration::from_millis(100)..=Duration::from_mins(5)).contains(&section.delta_look.0),
                "directory.delta_look: must be 100ms to 5m",
            ),
            (
                section.delta_late.0 <= section.delta_every.0,
                "directory.delta_late: must be more than directory.delta_every",
            ),
        ];
        problems.extend(rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()));
        let feed = (!section.delta_every.0.is_zero()).then_some(graph::Feed {
            every: section.delta_every.0,
            hold: section.delta_hold.0,
            look: section.delta_look.0,
            late: section.delta_late.0,
        });
        let keep = graph::Keep {
            known: section.keep.0,
            unknown: section.keep_unknown.0,
            unfed: section.keep_unfed.0,
            uses: section.keep_uses,
            entries: section.keep_entries,
        };
        let (attempts, parallel) = (self.azure.attempts(), section.parallel);
        match url.into_iter().next().filter(|_| problems.is_empty()) {
            Some(url) => {
                let settings = graph::Settings { url, attempts, parallel, keep, feed };
                Ok(DirectoryEngine::Graph(Box::new(settings)))
            }
            None => Err(problems),
        }
    }

    /// Whether anything of Azure is used.
    fn uses_azure(&self) -> bool {
        let vault = matches!(self.vault.engine.as_str(), "key-vault" | "envelope");
        let queues = self.queues_by_identity() || self.queues_on_service_bus();
        let signing = self.signing.key.is_some();
        vault || signing || self.directory.engine == "graph" || queues || self.azure.logs.endpoint.is_some()
    }

    /// How services of Azure are reached, if one is used; or what is wrong, each with its key.
    pub(super) fn azure_access(&self) -> Result<Option<AzureAccess>, Vec<String>> {
        if !self.uses_azure() {
            return Ok(None);
        }
        let (section, mut problems) = (&self.azure, Vec::new());
        let credential = credential(&section.credential).map_err(|problem| problems.push(problem)).ok();
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| format!("azure.ca: {}: cannot be read: {error}", path.display()))
        };
        let ca = section.ca.as_ref().map(read).transpose().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let second = Duration::from_secs(1);
        let rules = [
            (
                !(second..=Duration::from_mins(2)).contains(&section.timeout.0),
                "azure.timeout: must be 1s to 2m",
            ),
            (!(1..=10).contains(&section.attempts), "azure.attempts: must be 1 to 10"),
            (
                section.first_delay.0.is_zero() || section.max_delay.0 < section.first_delay.0,
                "azure.first_delay, azure.max_delay: must not be zero, and the second at least the first",
            ),
            (section.max_delay.0 > Duration::from_mins(1), "azure.max_delay: must be at most 1m"),
        ];
        problems.extend(rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()));
        let reach = Reach { timeout: section.timeout.0, ca, proxy: section.proxy.clone() };
        match credential.filter(|_| problems.is_empty()) {
            Some(credential) => Ok(Some(AzureAccess { credential, reach })),
            None => Err(problems),
        }
    }
}

fn origins(key: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<HttpsUrl> {
    let mut urls: Vec<HttpsUrl> = Vec::new();
    for text in texts {
        match text.parse::<HttpsUrl>() {
            Ok(url) if urls.contains(&url) => problems.push(format!("{key}: {url} is there twice")),
            Ok(url) => urls.push(url),
            Err(error) => problems.push(format!("{key}: {error}")),
        }
    }
    urls
}

fn credential(section: &AzureCredential) -> Result<Credential, String> {
    let AzureCredential { kind, tenant_id, client_id, secret_file, token_file } = section;
    for (key, value) in [("tenant_id", tenant_id), ("client_id", client_id)] {
        let is_guid = |text: &String| keyturn_domain::ids::DeviceId::parse_any_case(text).is_ok();
        if value.as_ref().is_some_and(|text| !is_guid(text)) {
            return Err(format!("azure.credential.{key}: must be a GUID"));
        }
    }
    let (tenant_id, client_id) = (tenant_id.clone(), client_id.clone());
    match (kind.as_str(), secret_file.clone(), token_file.clone()) {
        ("managed-identity", None, None) => Ok(Credential::ManagedIdentity { client_id }),
        ("workload-identity", None, token_file) => {
            Ok(Credential::WorkloadIdentity { tenant_id, client_id, token_file })
        }
        ("azure-cli", None, None) => Ok(Credential::AzureCli { tenant_id }),
        ("client-secret", Some(secret_file), None) => match (tenant_id, client_id) {
            (Some(tenant_id), Some(client_id)) => {
                Ok(Credential::ClientSecret { tenant_id, client_id, secret_file })
            }
            _ => Err("azure.credential: kind = \"client-secret\" needs tenant_id and client_id".to_owned()),
        },
        ("client-secret", None, _) => {
            Err("azure.credential.secret_file: kind = \"client-secret\" needs the file that has the secret"
                .to_owned())
        }
        ("managed-identity" | "workload-identity" | "azure-cli" | "client-secret", ..) => {
            Err("azure.credential: secret_file goes with kind = \"client-secret\" alone, token_file with \
                 \"workload-identity\" alone"
                .to_owned())
        }
        (other, ..) => Err(format!(
            "azure.credential.kind: «{other}» is not one of managed-identity, workload-identity, azure-cli, client-secret"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use std::time::Duration;

    use super::VaultEngine;

    const KEY_VAULT: &str = "[deployment]\nname = \"a\"\n[vault]\nengine = \"key-vault\"\n";

    const ENVELOPE: &str = "[deployment]\nname = \"a\"\n[vault]\nengine = \"envelope\"\n";
    const KEY: &str = "https://one.vault.azure.net/keys/keyturn";

    #[test]
    fn an_envelope_is_configured_by_its_key() {
        let config = load(&format!("{ENVELOPE}wrapping_key = \"{KEY}\"\n")).unwrap();
        let VaultEngine::Envelope(settings) = config.vault else { panic!("another engine") };
        assert_eq!(settings.key.to_string(), KEY);
        assert!(config.azure.is_some());
    }

    #[test]
    fn confirmed_passwords_are_copied_in_key_vault_unless_told_otherwise() {
        let good = format!("{KEY_VAULT}urls = [\"https://one.vault.azure.net\"]\n");
        assert!(load(&good).unwrap().copies.is_some());
        assert!(load(&format!("{good}confirmed_copy = true\n")).unwrap().copies.is_some());
        assert!(load(&format!("{good}confirmed_copy = false\n")).unwrap().copies.is_none());
        let elsewhere = "[deployment]\nname = \"a\"\n";
        assert!(load(elsewhere).unwrap().copies.is_none());
        assert!(load(&format!("{elsewhere}[vault]\nconfirmed_copy = false\n")).unwrap().copies.is_none());
    }

    #[test]
    fn a_vault_of_azure_is_configured_by_its_address() {
        let config = load(&format!("{KEY_VAULT}urls = [\"https://one.vault.azure.net/\"]\n")).unwrap();
        let VaultEngine::KeyVault(settings, limit) = config.vault else { panic!("another engine") };
        assert_eq!(settings.urls[0].to_string(), "https://one.vault.azure.net");
        assert_eq!((limit.calls, limit.window), (300, Duration::from_secs(10)));
        // Of the 300 that the service takes in 10 seconds 97 in 100 can be used.
        assert!(limit.interval() * 291 <= limit.window, "{:?}", limit.interval());
        assert!(config.azure.is_some());
        assert!(load("[deployment]\nname = \"a\"\n").unwrap().azure.is_none());
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_key() {
        let good = format!("{KEY_VAULT}urls = [\"https://one.vault.azure.net\"]\n");
        for (text, part) in [
            (KEY_VAULT.to_owned(), "vault.urls: vault.engine"),
            (format!("{KEY_VAULT}urls = [\"http://one.vault.azure.net\"]\n"), "vault.urls: \"http"),
            (format!("{KEY_VAULT}urls = [\"https://a.b\", \"https://a.b/\"]\n"), "there twice"),
            ("[deployment]\nname = \"a\"\n[vault]\nurls = [\"https://a.b\"]\n".to_owned(), "they go with"),
            ("[deployment]\nname = \"a\"\n[vault]\nengine = \"keyvault\"\n".to_owned(), "vault.engine"),
            (ENVELOPE.to_owned(), "vault.wrapping_key: vault.engine"),
            (
                format!("{ENVELOPE}wrapping_key = \"https://a.vault.azure.net\"\n"),
                "vault.wrapping_key: \"https",
            ),
            (format!("{ENVELOPE}wrapping_key = \"{KEY}/0123\"\n"), "without a version"),
            (format!("{ENVELOPE}wrapping_key = \"{KEY}\"\nunwrap_every = \"0s\"\n"), "vault.unwrap_every"),
            (format!("{ENVELOPE}urls = [\"https://a.b\"]\n"), "they go with"),
            (format!("{good}wrapping_key = \"{KEY}\"\n"), "they go with vault.engine = \"envelope\""),
            (format!("{good}creations = 1\n"), "vault.creations:"),
            (format!("{good}copy_every = \"0s\"\n"), "vault.copy_every"),
            (format!("{good}copy_sweep_every = \"1s\"\n"), "vault.copy_sweep_every"),
            (
                "[deployment]\nname = \"a\"\n[vault]\nconfirmed_copy = true\n".to_owned(),
                "vault.confirmed_copy",
            ),
            (format!("{good}creations_slack = \"10s\"\n"), "vault.creations_slack"),
            (format!("{good}[azure.credential]\nkind = \"client-secret\"\n"), "secret_file"),
            (format!("{good}[azure.credential]\nsecret = \"x\"\n"), "unknown field `secret`"),
            (format!("{good}[azure.credential]\nkind = \"password\"\n"), "azure.credential.kind"),
            (format!("{good}[azure.credential]\nclient_id = \"../x\"\n"), "must be a GUID"),
            (format!("{good}[azure]\nattempts = 0\n"), "azure.attempts"),
            (format!("{good}[directory]\nengine = \"entra\"\n"), "directory.engine"),
            (format!("{good}[directory]\nengine = \"graph\"\nkeep = \"1h\"\n"), "trust.finding_max_age"),
            (format!("{good}[directory]\nengine = \"graph\"\nurl = \"http://g\"\n"), "directory.url"),
            (
                format!("{good}[directory]\nengine = \"graph\"\ndelta_every = \"10ms\"\n"),
                "directory.delta_every",
            ),
            (
                format!("{good}[directory]\nengine = \"graph\"\ndelta_every = \"1h\"\n"),
                "directory.delta_late",
            ),
            (format!("{good}[directory]\nengine = \"graph\"\ndelta_hold = \"5s\"\n"), "directory.delta_hold"),
            (format!("{good}[azure]\nca = \"nowhere.pem\"\n"), "azure.ca"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
