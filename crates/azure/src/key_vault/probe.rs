//! What a doctor asks of the vaults, which no rotation asks: whether this process may read values, and, if it is told to try,
//! whether it may write.

use azure_core::http::RequestContent;
use azure_security_keyvault_secrets::models::{SecretAttributes, SetSecretParameters};
use keyturn_domain::ids::DeviceId;
use keyturn_ports::Error;

use super::KeyVault;
use super::calls::{STORING, Shard, noted};
use super::names::copy_of;
use crate::failure::Failure;

/// The secret that a doctor writes. No device's secret is named like it, and nothing reads it.
pub const DOCTOR: &str = "keyturn-doctor";

/// What is in it.
const VALUE: &str = "Written by keyturn doctor to see whether it may. It means nothing and may be deleted.";

/// A vault, and what came of asking it.
pub type Asked = (String, Result<(), Error>);

impl KeyVault {
    /// Reads a secret that is not there, of a device that nobody has, from each vault: whoever may not read is told so.
    pub async fn try_reading(&self, nobody: DeviceId) -> Vec<Asked> {
        let mut all = Vec::new();
        for shard in &self.0.shards {
            all.push((shard.url.to_string(), shard.current(&copy_of(nobody)).await.map(drop)));
        }
        all
    }

    /// Makes one version of [`DOCTOR`], disabled, in each vault that new versions go to, in its turn among those. It is
    /// written once, whatever comes of it, and stays: Key Vault deletes no single version.
    pub async fn try_writing(&self) -> Vec<Asked> {
        let mut all = Vec::new();
        for shard in self.0.shards.iter().take(self.0.written) {
            let tried = match self.0.pace.turn(shard.url.authority()).await {
                Ok(()) => shard.try_writing().await.map_err(|failure| shard.told(&failure, STORING)),
                Err(error) => Err(error),
            };
            all.push((shard.url.to_string(), tried));
        }
        all
    }
}

impl Shard {
    async fn try_writing(&self) -> Result<(), Failure> {
        let set = async {
            let disabled = SecretAttributes { enabled: Some(false), ..SecretAttributes::default() };
            let parameters = SetSecretParameters {
                value: Some(VALUE.to_owned()),
                content_type: Some("text/plain".to_owned()),
                secret_attributes: Some(disabled),
                ..SetSecretParameters::default()
            };
            let content: RequestContent<SetSecretParameters> = parameters.try_into()?;
            self.client.set_secret(DOCTOR, content, None).await
        };
        set.await.map(drop).map_err(|error| noted(Failure::of(&error)))
    }
}
