//! What Key Vault has of a device, without values: every version under both of its names in every vault, whoever wrote
//! it, and whether the secret was deleted.

use azure_security_keyvault_secrets::ResourceExt as _;
use azure_security_keyvault_secrets::models::SecretProperties;
use futures_util::TryStreamExt as _;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::vault::{HeldSecret, HeldVersion};

use super::Inner;
use super::calls::{LISTING, PAGES, Shard};
use super::names::{copy_of, versions_of};
use crate::failure::{Failure, Refused};

impl Inner {
    /// Those secrets of a device that are there, or were deleted.
    pub(super) async fn inventory(&self, device: DeviceId) -> Result<Vec<HeldSecret>, Error> {
        let home = self.home(device)?.url.clone();
        let mut all = Vec::new();
        for shard in &self.shards {
            for name in [versions_of(device), copy_of(device)] {
                let (versions, deleted) = match shard.held(&name).await? {
                    Some(versions) => (versions, Some(false)),
                    // One that is not there may be one that was deleted.
                    None => (Vec::new(), shard.was_deleted(&name).await?),
                };
                if deleted != Some(false) || !versions.is_empty() {
                    let (vault, is_home) = (shard.url.to_string(), shard.url == home);
                    all.push(HeldSecret { vault, name, is_home, deleted, versions });
                }
            }
        }
        Ok(all)
    }
}

impl Shard {
    /// Every version of a secret, the newest first; none if there is no such secret.
    async fn held(&self, name: &str) -> Result<Option<Vec<HeldVersion>>, Error> {
        let list = || async {
            let pages = self.client.list_secret_properties_versions(name, None)?;
            let mut pages = std::pin::pin!(pages.into_pages());
            let mut all = Vec::new();
            for _ in 0..PAGES {
                let Some(page) = pages.try_next().await? else { break };
                all.extend(page.into_model()?.value.iter().filter_map(|one| version(name, one)));
            }
            Ok(all)
        };
        match self.again(list).await {
            Ok(mut versions) => {
                versions.sort_by(|one, other| (other.made, &other.id).cmp(&(one.made, &one.id)));
                Ok(Some(versions))
            }
            Err(Failure::Refused(Refused { status: 404, .. })) => Ok(None),
            Err(failure) => Err(self.told(&failure, LISTING)),
        }
    }

    /// Whether a secret was deleted and can be recovered; none if this identity may not ask.
    async fn was_deleted(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.again(|| self.client.get_deleted_secret(name, None)).await {
            Ok(_) => Ok(Some(true)),
            Err(Failure::Refused(Refused { status: 404, .. })) => Ok(Some(false)),
            Err(Failure::Refused(Refused { status: 403, .. })) => Ok(None),
            Err(failure) => Err(self.told(&failure, LISTING)),
        }
    }
}

/// Tags may be anybody's: what is no id of ours is left out.
fn version(name: &str, one: &SecretProperties) -> Option<HeldVersion> {
    let id = one.resource_id().ok().filter(|id| id.name == name)?.version?;
    let tag = |name: &str| one.tags.as_ref().and_then(|tags| tags.get(name));
    let about = one.attributes.as_ref();
    let time = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    Some(HeldVersion {
        id,
        made: time(
            about.and_then(|about| about.created).map_or(0, azure_core::time::OffsetDateTime::unix_timestamp),
        ),
        enabled: about.and_then(|about| about.enabled).unwrap_or(true),
        ends: about.and_then(|about| about.expires).map(|at| time(at.unix_timestamp())),
        version: tag("version").and_then(|text| text.parse().ok()),
        lane: tag("lane").and_then(|text| text.parse().ok()),
        request: tag("rid").and_then(|text| text.parse().ok()),
        account: tag("UserName").cloned().unwrap_or_default(),
    })
}
