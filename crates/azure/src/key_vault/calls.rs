//! Calls to one vault, each with our retries and our words for what went wrong.

use std::sync::Arc;
use std::time::Duration;

use azure_core::http::RequestContent;
use azure_security_keyvault_secrets::models::{
    SecretAttributes, SecretClientGetSecretOptions, SecretProperties, SetSecretParameters,
};
use azure_security_keyvault_secrets::{ResourceExt as _, ResourceId, SecretClient};
use futures_util::TryStreamExt as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::vault::Entry;
use keyturn_ports::{Error, Kind};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::names::{Place, is_id};
use super::stored::{CONTENT_TYPE, Listed, Stored};
use crate::failure::{Failure, Refused};
use crate::retry::{Attempts, again, count_throttle};
use crate::transport::HttpsUrl;

pub(super) const READING: &str = "reading a password version from Key Vault";
pub(super) const STORING: &str = "storing a password version in Key Vault";
pub(super) const LISTING: &str = "listing password versions in Key Vault";

/// Pages of a list that are read: at 25 versions each, forty years of one a week and more than can be backed up.
pub(super) const PAGES: usize = 100;

/// One vault.
pub(super) struct Shard {
    pub(super) url: HttpsUrl,
    pub(super) client: SecretClient,
    pub(super) attempts: Attempts,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// How a write ended.
pub(super) enum Written {
    /// The version is there.
    Stored(Listed),
    /// It may be there, or is not yet: look again after this pause.
    Unknown(Duration),
}

impl Shard {
    /// A version under the port's names.
    pub(super) fn entry(&self, listed: &Listed) -> Entry {
        let Listed { id, name, created, stored, enabled: _ } = listed;
        let place = Place { vault: self.url.clone(), name: name.clone(), id: id.clone() };
        Entry { version: stored.version, lane: stored.lane, vault_ref: place.to_string(), created: *created }
    }

    /// Every version under `name` whose tags are of one; in no order.
    pub(super) async fn versions(&self, name: &str) -> Result<Vec<Listed>, Error> {
        match self.again(|| self.list(name)).await {
            Ok(listed) => Ok(listed),
            Err(Failure::Refused(Refused { status: 404, .. })) => Ok(Vec::new()),
            Err(failure) => Err(self.told(&failure, LISTING)),
        }
    }

    async fn list(&self, name: &str) -> azure_core::Result<Vec<Listed>> {
        let pages = self.client.list_secret_properties_versions(name, None)?;
        let mut pages = std::pin::pin!(pages.into_pages());
        let (mut all, mut read) = (Vec::new(), 0);
        while let Some(page) = pages.try_next().await? {
            let page = page.into_model()?;
            let listed = page.value.iter().filter_map(|one| listed(name, one));
            all.extend(listed);
            read += 1;
            if read == PAGES {
                warn!(secret = name, pages = read, "this secret has more versions than are looked at");
                break;
            }
        }
        Ok(all)
    }

    /// The value of a version, if there is one.
    pub(super) async fn value(&self, place: &Place) -> Result<Option<Zeroizing<String>>, Error> {
        let get = || async {
            let options = SecretClientGetSecretOptions {
                secret_version: Some(place.id.clone()),
                ..SecretClientGetSecretOptions::default()
            };
            self.client.get_secret(&place.name, Some(options)).await?.into_model()
        };
        match self.again(get).await {
            Ok(secret) => Ok(secret.value.map(Zeroizing::new)),
            Err(Failure::Refused(Refused { status: 404, .. })) => Ok(None),
            Err(failure) => Err(self.told(&failure, READING)),
        }
    }

    /// Writes a version, once. `made` is how often that was tried with this time.
    pub(super) async fn write(
        &self,
        name: &str,
        value: &str,
        stored: &Stored,
        made: u32,
    ) -> Result<Written, Error> {
        match self.set(name, value, stored).await {
            Ok(Some(listed)) => Ok(Written::Stored(listed)),
            // It was taken, and the answer does not say where it is. The list does.
            Ok(None) if made < self.attempts.most => Ok(Written::Unknown(Duration::ZERO)),
            Ok(None) => Err(self.told(&Failure::Nonsense("the answer does not name the version"), STORING)),
            Err(error) => {
                let failure = noted(Failure::of(&error));
                // An answer that cannot be read may follow on a write that was made, so that is looked for as well.
                let silence = Failure::Silence("the outcome is unknown");
                let judged = if failure.is_unknown() { &silence } else { &failure };
                match self.attempts.pause(made, judged, &*self.entropy) {
                    Some(pause) => Ok(Written::Unknown(pause)),
                    None => Err(self.told(&failure, STORING)),
                }
            }
        }
    }

    async fn set(&self, name: &str, value: &str, stored: &Stored) -> azure_core::Result<Option<Listed>> {
        let parameters = SetSecretParameters {
            value: Some(value.to_owned()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            tags: Some(stored.tags()),
            ..SetSecretParameters::default()
        };
        let content: RequestContent<SetSecretParameters> = parameters.try_into()?;
        let secret = self.client.set_secret(name, content, None).await?.into_model()?;
        let returned = secret.tags.as_ref().and_then(Stored::parse).filter(|returned| returned.is(stored));
        Ok(returned
            .and_then(|stored| told_of(name, secret.resource_id().ok(), secret.attributes.as_ref(), stored)))
    }

    /// Makes a call that changes nothing, until it goes well or there is no hope.
    pub(super) async fn again<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = azure_core::Result<T>>,
    {
        again("key_vault", self.attempts, &*self.entropy, call).await
    }

    /// A failure in words that an operator can act on.
    pub(super) fn told(&self, failure: &Failure, action: &'static str) -> Error {
        let Failure::Refused(Refused { status, code, .. }) = failure else {
            return Error::new(failure.during(action).kind(), action, format!("{}: {failure}", self.url));
        };
        let code = code.as_deref().unwrap_or("");
        let (kind, mend) = match (*status, code) {
            (409, _) => (
                Kind::Unavailable,
                "the device's secret is deleted but recoverable; recover it with `az keyvault secret recover`",
            ),
            (403, "ForbiddenByRbac" | "ForbiddenByPolicy" | "AccessDenied" | "Forbidden")
                if action != STORING =>
            {
                (Kind::Denied, "this identity may not read; see docs/AZURE.md for the roles that it needs")
            }
            (403, "ForbiddenByRbac" | "ForbiddenByPolicy" | "AccessDenied") => {
                (Kind::Denied, "this identity may not write; see docs/AZURE.md for the roles that it needs")
            }
            (403, "ForbiddenByFirewall" | "ForbiddenByConnection") => {
                (Kind::Denied, "the vault's firewall does not let this machine in")
            }
            (403, "SecretDisabled") => {
                (Kind::Denied, "the version is disabled; nothing of Keyturn does that")
            }
            (403, _) if action == STORING => (
                Kind::Unavailable,
                "the vault takes no writes now, as while it fails over to another region; if that lasts, this identity may \
                 not write",
            ),
            (429, _) => (Kind::Unavailable, "the vault is throttled; lower vault.creations or add a vault"),
            _ => (failure.during(action).kind(), ""),
        };
        let mend = if mend.is_empty() { String::new() } else { format!(": {mend}") };
        Error::new(kind, action, format!("{}: {failure}{mend}", self.url))
    }
}

/// Counts it if the vault throttles.
pub(super) fn noted(failure: Failure) -> Failure {
    if let Failure::Refused(Refused { status, .. }) = &failure {
        count_throttle("key_vault", *status);
    }
    failure
}

fn listed(name: &str, one: &SecretProperties) -> Option<Listed> {
    let stored = one.tags.as_ref().and_then(Stored::parse);
    let found =
        stored.and_then(|stored| told_of(name, one.resource_id().ok(), one.attributes.as_ref(), stored));
    if found.is_none() {
        debug!(secret = name, "a version that Keyturn did not write is passed over");
    }
    found
}

/// A version as an answer tells of it, if that is of this vault and secret.
fn told_of(
    name: &str,
    id: Option<ResourceId>,
    about: Option<&SecretAttributes>,
    stored: Stored,
) -> Option<Listed> {
    let id = id.filter(|id| id.name == name)?.version.filter(|id| is_id(id))?;
    let seconds =
        about.and_then(|about| about.created).map_or(0, azure_core::time::OffsetDateTime::unix_timestamp);
    let created = UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let enabled = about.and_then(|about| about.enabled).unwrap_or(true);
    Some(Listed { id, name: name.to_owned(), created, enabled, stored })
}
