//! The copy of a device's confirmed password for people with plain tools: the current version of `lap-<device id>`, with
//! CloudLAPS's content type and tags and the password itself as its value.
//!
//! Nothing here is ever read for what a device has: whoever may set secrets may set this one to anything. It is looked at
//! before it is written, and again after: what a call came to is told by what is there.

use azure_core::http::RequestContent;
use azure_security_keyvault_secrets::models::{Secret, SetSecretParameters};
use keyturn_ports::vault::ConfirmedCopy;
use keyturn_ports::{Error, Kind};
use zeroize::Zeroizing;

use super::calls::{Shard, noted};
use super::names::copy_of;
use super::{Inner, stored};
use crate::failure::{Failure, Refused};

pub(super) const COPYING: &str = "copying a confirmed password in Key Vault";

/// What CloudLAPS calls its secrets.
const CONTENT_TYPE: &str = "Local Administrator";

impl Inner {
    /// Writes the copy unless it is there. Returns whether it was written.
    pub(super) async fn copy(&self, copy: ConfirmedCopy) -> Result<bool, Error> {
        let device = copy.tags.device;
        let (shard, name) = (self.home(device)?, copy_of(device));
        let (value, tags) = (stored::plain(&copy.password), stored::copy_tags(&copy));
        drop(copy);
        let mut made = 0;
        loop {
            if shard.current(&name).await?.is_some_and(|current| is(&current, &value, &tags)) {
                return Ok(made > 0);
            }
            if made >= shard.attempts.most {
                // Somebody else sets this secret, and will be met the next time.
                let problem = format!("{}: it was written and is not what was written", shard.url);
                return Err(Error::new(Kind::Unavailable, COPYING, problem));
            }
            self.pace.turn(shard.url.authority()).await?;
            made += 1;
            if let Err(failure) = shard.set_copy(&name, &value, &tags).await {
                let silence = Failure::Silence("the outcome is unknown");
                let judged = if failure.is_unknown() { &silence } else { &failure };
                match shard.attempts.pause(made, judged, &*shard.entropy) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(shard.told(&failure, super::calls::STORING)),
                }
            }
        }
    }
}

type Tags = std::collections::HashMap<String, String>;

fn is(current: &Secret, value: &str, tags: &Tags) -> bool {
    let has = current.tags.as_ref();
    current.value.as_deref() == Some(value)
        && tags.iter().all(|(name, text)| has.and_then(|has| has.get(name)) == Some(text))
}

impl Shard {
    /// The current version of a secret, if there is one.
    pub(super) async fn current(&self, name: &str) -> Result<Option<Secret>, Error> {
        match self.again(|| async { self.client.get_secret(name, None).await?.into_model() }).await {
            Ok(secret) => Ok(Some(secret)),
            Err(Failure::Refused(Refused { status: 404, .. })) => Ok(None),
            Err(failure) => Err(self.told(&failure, COPYING)),
        }
    }

    async fn set_copy(&self, name: &str, value: &Zeroizing<String>, tags: &Tags) -> Result<(), Failure> {
        let set = async {
            let parameters = SetSecretParameters {
                value: Some(value.to_string()),
                content_type: Some(CONTENT_TYPE.to_owned()),
                tags: Some(tags.clone()),
                ..SetSecretParameters::default()
            };
            let content: RequestContent<SetSecretParameters> = parameters.try_into()?;
            self.client.set_secret(name, content, None).await
        };
        set.await.map(drop).map_err(|error| noted(Failure::of(&error)))
    }
}
