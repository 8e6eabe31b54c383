//! Who this process is to Azure: one credential for all services.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use zeroize::Zeroizing;

use crate::failure::SetupError;
use crate::transport::Reach;

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The identity of the machine, app or container; the system-assigned one if no client id is given.
    ManagedIdentity {
        /// The client id of a user-assigned identity.
        client_id: Option<String>,
    },
    /// A Kubernetes service account that an app registration trusts. What is not given is in the variables that the
    /// webhook of Azure Workload Identity sets.
    WorkloadIdentity {
        /// The tenant.
        tenant_id: Option<String>,
        /// The client id of the app registration or identity.
        client_id: Option<String>,
        /// The file with the service account's token; it is read anew for each token of Azure.
        token_file: Option<PathBuf>,
    },
    /// Whoever is signed in with `az login`: for operators, and for trying things out.
    AzureCli {
        /// The tenant, if not the default one.
        tenant_id: Option<String>,
    },
    /// A secret of an app registration, in a file that nobody else can read.
    ClientSecret {
        /// The tenant.
        tenant_id: String,
        /// The client id.
        client_id: String,
        /// The file.
        secret_file: PathBuf,
    },
}

impl Credential {
    /// The credential itself. Tokens are had, and kept, when they are needed.
    pub fn open(&self, reach: &Reach) -> Result<Arc<dyn TokenCredential>, SetupError> {
        // What the identity library says of settings it cannot use is about their form, and quotes no secret.
        let told = |error: azure_core::Error| SetupError::Credential(error.to_string());
        Ok(match self {
            Self::ManagedIdentity { client_id } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    client_options: reach.options_of_credential(true)?,
                };
                ManagedIdentityCredential::new(Some(options)).map_err(told)?
            }
            Self::WorkloadIdentity { tenant_id, client_id, token_file } => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions {
                        client_options: reach.options_of_credential(false)?,
                    },
                    tenant_id: tenant_id.clone(),
                    client_id: client_id.clone(),
                    token_file_path: token_file.clone(),
                };
                WorkloadIdentityCredential::new(Some(options)).map_err(told)?
            }
            Self::AzureCli { tenant_id } => {
                let options = AzureCliCredentialOptions {
                    tenant_id: tenant_id.clone(),
                    ..AzureCliCredentialOptions::default()
                };
                AzureCliCredential::new(Some(options)).map_err(told)?
            }
            Self::ClientSecret { tenant_id, client_id, secret_file } => {
                let options =
                    ClientSecretCredentialOptions { client_options: reach.options_of_credential(false)? };
                let secret = read_secret(secret_file)?;
                ClientSecretCredential::new(tenant_id, client_id.clone(), secret, Some(options))
                    .map_err(told)?
            }
        })
    }
}

/// The secret in a file: one line, of a file that the world and its group cannot read.
fn read_secret(path: &Path) -> Result<Secret, SetupError> {
    let wrong = |problem: String| SetupError::File { path: path.display().to_string(), problem };
    let about =
        fs::metadata(path).map_err(|error| wrong(format!("the client secret cannot be read: {error}")))?;
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(wrong(format!(
            "others may read this client secret (mode {mode:03o}); `chmod 600` it, and replace the secret if they did"
        )));
    }
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| wrong(format!("the client secret cannot be read: {error}")))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.chars().any(|one| one.is_whitespace() || one.is_control()) {
        return Err(wrong("the file must hold the client secret on one line, and nothing else".to_owned()));
    }
    Ok(Secret::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::Credential;
    use crate::transport::Reach;

    fn open(text: &str, mode: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("client.secret");
        fs::write(&secret_file, text).unwrap();
        fs::set_permissions(&secret_file, fs::Permissions::from_mode(mode)).unwrap();
        let credential = Credential::ClientSecret {
            tenant_id: "6f1b2c3d-0000-4000-8000-000000000000".to_owned(),
            client_id: "6f1b2c3d-0000-4000-8000-000000000001".to_owned(),
            secret_file,
        };
        let reach = Reach { timeout: Duration::from_secs(1), ca: None, proxy: None };
        credential
            .open(&reach)
            .map(|opened| format!("{opened:?}"))
            .map_err(|error| format!("{error} {error:?}"))
    }

    #[test]
    fn a_client_secret_comes_from_a_private_file_and_is_never_shown() {
        let shown = open("canary-8Q~secret\n", 0o600).unwrap();
        assert!(!shown.contains("canary"), "{shown}");
        for (text, mode, what) in [
            ("canary-8Q~secret", 0o640, "chmod 600"),
            ("", 0o600, "one line"),
            ("canary one\ncanary two", 0o600, "one line"),
        ] {
            let error = open(text, mode).unwrap_err();
            assert!(error.contains(what) && !error.contains("canary"), "{error}");
        }
    }
}
