//! Where the key is that signs results, typed.

use keyturn_azure::signing_key;

use super::sections::Sections;

/// Where the key is that signs results.
#[derive(Clone, Debug, Default)]
pub struct SigningEngine {
    /// The key of Key Vault whose versions may sign, if there is one.
    pub key: Option<signing_key::Settings>,
    /// Whether the next key is a version of it.
    pub next_in_key_vault: bool,
}

impl Sections {
    /// Where the key is that signs results; or what is wrong, each with its key.
    pub(super) fn signing_engine(&self) -> Result<SigningEngine, Vec<String>> {
        let (section, mut problems) = (&self.signing, Vec::new());
        let next_in_key_vault = match section.engine.as_str() {
            "file" => false,
            "key-vault" => true,
            other => {
                problems.push(format!("signing.engine: «{other}» is not one of file, key-vault"));
                false
            }
        };
        if next_in_key_vault && section.key.is_none() {
            let problem = "signing.key: signing.engine = \"key-vault\" needs the key that signs";
            problems.push(problem.to_owned());
        }
        if !(1..=256).contains(&section.parallel) {
            problems.push("signing.parallel: must be 1 to 256".to_owned());
        }
        let url =
            section.key.as_ref().map(|text| text.parse().map_err(|error| format!("signing.key: {error}")));
        let url = url.transpose().map_err(|problem| problems.push(problem)).ok().flatten();
        if !problems.is_empty() {
            return Err(problems);
        }
        let key = url.map(|key| signing_key::Settings {
            key,
            danger_unverified_challenge: section.danger_unverified_challenge,
            attempts: self.azure.attempts(),
            parallel: section.parallel,
        });
        Ok(SigningEngine { key, next_in_key_vault })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    const SIGNING: &str = "[deployment]\nname = \"a\"\n[signing]\n";
    const KEY: &str = "https://one.vault.azure.net/keys/keyturn";

    #[test]
    fn a_signing_key_of_key_vault_is_configured_by_its_address() {
        let config = load(&format!("{SIGNING}engine = \"key-vault\"\nkey = \"{KEY}\"\n")).unwrap();
        let settings = config.signing.key.unwrap();
        assert_eq!((settings.key.to_string().as_str(), settings.parallel), (KEY, 16));
        assert!(config.signing.next_in_key_vault && config.azure.is_some());
        // On the way back to a file the key still signs until the file does.
        let config = load(&format!("{SIGNING}key = \"{KEY}\"\n")).unwrap();
        assert!(!config.signing.next_in_key_vault && config.signing.key.is_some() && config.azure.is_some());
        let config = load(SIGNING).unwrap();
        assert!(config.signing.key.is_none() && config.azure.is_none());
        for (text, part) in [
            ("engine = \"hsm\"\n".to_owned(), "signing.engine: «hsm»"),
            ("engine = \"key-vault\"\n".to_owned(), "signing.key: signing.engine"),
            (format!("key = \"{KEY}/0123\"\n"), "without a version"),
            ("parallel = 0\n".to_owned(), "signing.parallel"),
        ] {
            let error = load(&format!("{SIGNING}{text}")).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
