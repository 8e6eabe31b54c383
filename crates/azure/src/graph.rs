//! The directory: Microsoft Graph, asked for one device at a time.
//!
//! `GET /v1.0/devices?$filter=deviceId eq '<guid>'&$select=…&$top=2`: by filter and not by key, because only so a second
//! record of the same id is seen. The id is a GUID by its type before it comes near an address.
//!
//! Where policies go by groups of the directory, a device that is there is asked for twice: `POST
//! /v1.0/devices(deviceId='<guid>')/checkMemberGroups` tells which of those groups it is in, directly or not, and nothing
//! of other groups (learn.microsoft.com/graph/api/directoryobject-checkmembergroups).
//!
//! Devices are listed from a copy, the [`Roster`], which [`feed`] is read for.
//!
//! Answers are kept for a short while ([`Cache`]), with the time at which Graph gave them: the rotator judges their age.
//! Who is throttled makes everybody in this process wait, whether or not Graph says for how long.

mod answer;
mod cache;
pub mod feed;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::http::Url;
use futures_util::StreamExt as _;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::directory::{Answer, DeviceRecord, Directory, Listed, Membership};
use keyturn_ports::roster::Roster;
use keyturn_ports::{Error, Kind};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use tokio::time::Instant;
use tracing::warn;

use self::cache::Cache;
pub use self::cache::Keep;
use crate::failure::{Failure, Refused, SetupError};
use crate::retry::{Attempts, count_throttle};
use crate::transport::{HttpsUrl, Reach};

const ASKING: &str = "asking Microsoft Graph for a device";
const ASKING_GROUPS: &str = "asking Microsoft Graph for the groups of a device";
const LISTING: &str = "listing devices of Microsoft Graph";

/// The properties that a device is judged by; `alternativeSecurityIds` comes only when it is named.
const SELECT: &str = "deviceId,displayName,accountEnabled,trustType,alternativeSecurityIds,operatingSystem";

/// The most bytes of an answer.
const ANSWER_BYTES: usize = 4 << 20;
/// Devices of one name.
const NAMED: usize = 32;
/// Groups of one call.
const CHECKED: usize = 20;

/// How Graph is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The origin, `https://graph.microsoft.com` but in national clouds. Tokens are asked for this very host.
    pub url: HttpsUrl,
    /// How often a call is made.
    pub attempts: Attempts,
    /// Calls at once for one batch.
    pub parallel: usize,
    /// For how long answers are kept.
    pub keep: Keep,
    /// How the feed of changes is read, if it is.
    pub feed: Option<Feed>,
}

/// How the feed of changes is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// How often a round is begun.
    pub every: Duration,
    /// For how long a process that reads has its turn, from one page to the next.
    pub hold: Duration,
    /// How often each process looks for what changed.
    pub look: Duration,
    /// After how long without a round that came to its end it is late.
    pub late: Duration,
}

/// The directory.
#[derive(Clone)]
pub struct GraphDirectory(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// Groups that matter. Of others nothing is asked.
    groups: BTreeSet<GroupId>,
    client: reqwest::Client,
    credential: Arc<dyn TokenCredential>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    cache: Cache,
    roster: Arc<dyn Roster>,
    /// Nobody calls before this.
    quiet_until: Mutex<Option<Instant>>,
}

impl GraphDirectory {
    /// The directory at this address, which tells of these groups and no others. Nobody is asked anything yet.
    pub fn open(
        settings: Settings,
        groups: BTreeSet<GroupId>,
        reach: &Reach,
        credential: Arc<dyn TokenCredential>,
        roster: Arc<dyn Roster>,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
    ) -> Result<Self, SetupError> {
        let client = reach.client(false)?;
        let settle = settings.feed.map(|feed| feed.late).unwrap_or_default();
        let cache = Cache::new(settings.keep, settle, settings.feed.is_some());
        let quiet_until = Mutex::new(None);
        let inner =
            Inner { settings, groups, client, credential, clock, entropy, cache, roster, quiet_until };
        Ok(Self(Arc::new(inner)))
    }

    /// How the feed is read, if it is.
    pub fn feed(&self) -> Option<Feed> {
        self.0.settings.feed
    }

    /// Forgets what was answered about devices that changed, or, with none given, about all. A device that changed is
    /// asked for anew, and for a while its answers are kept as if there were no feed, since one may come from a part of
    /// the directory that does not have the change yet.
    pub fn forget(&self, changed: Option<&[DeviceId]>) {
        self.0.cache.forget(changed, self.0.clock.now());
    }

    /// Says whether the feed is up to date. While it is not, answers are kept as if there were none.
    pub fn is_fed(&self, fed: bool) {
        self.0.cache.is_fed(fed);
    }
}

impl Inner {
    async fn look_up(&self, device: DeviceId) -> Result<Answer, Error> {
        let ask = || async {
            let answered = self.clock.now();
            let mut records = self.devices(&format!("deviceId eq '{device}'"), SELECT, 2, ASKING).await?;
            if let [record] = records.as_mut_slice() {
                record.groups = Some(self.groups_of(device).await?);
            }
            Ok::<_, Error>((records, answered))
        };
        let (records, answered) = self.cache.get(device, self.clock.now(), ask).await?;
        Ok(Answer { records, answered })
    }

    /// Those groups that matter and have the device.
    async fn groups_of(&self, device: DeviceId) -> Result<BTreeSet<Membership>, Error> {
        let url = self.settings.url.with(&format!("/v1.0/devices(deviceId='{device}')/checkMemberGroups"));
        let wanted: Vec<GroupId> = self.groups.iter().copied().collect();
        let mut groups = BTreeSet::new();
        for some in wanted.chunks(CHECKED) {
            let body = serde_json::json!({ "groupIds": some }).to_string();
            let told = self.ask(&url, Some(&body), ASKING_GROUPS).await?;
            let told = answer::groups(&told).map_err(|what| corrupt(ASKING_GROUPS, what))?;
            groups.extend(told.into_iter().filter(|id| some.contains(id)).map(|id| Membership { id }));
        }
        Ok(groups)
    }

    async fn devices(
        &self,
        filter: &str,
        select: &str,
        top: usize,
        action: &'static str,
    ) -> Result<Vec<DeviceRecord>, Error> {
        let mut url = self.settings.url.with("/v1.0/devices");
        let top = top.to_string();
        url.query_pairs_mut().extend_pairs([("$filter", filter), ("$select", select), ("$top", &top)]);
        answer::records(&self.ask(&url, None, action).await?).map_err(|what| corrupt(action, what))
    }

    /// Gets an address or posts to it, as often as it takes.
    async fn ask(&self, url: &Url, body: Option<&str>, action: &'static str) -> Result<Vec<u8>, Error> {
        self.attempt(url, body, action).await.map_err(|trouble| trouble.during(action))
    }

    async fn attempt(&self, url: &Url, body: Option<&str>, action: &'static str) -> Result<Vec<u8>, Trouble> {
        let mut made = 1;
        loop {
            self.wait_for_quiet(action).await.map_err(Trouble::Waits)?;
            let failure = match self.call(url, body).await {
                Ok(body) => return Ok(body),
                Err(Trouble::Failed(failure)) => failure,
                Err(other) => return Err(other),
            };
            let pause = self.settings.attempts.pause(made, &failure, &*self.entropy);
            if let Failure::Refused(Refused { status: status @ (429 | 503), retry_after, .. }) = failure {
                count_throttle("graph", status);
                let told = retry_after.map(Duration::from_secs);
                self.keep_quiet(told.or(pause).unwrap_or(self.settings.attempts.max_delay));
            }
            let Some(pause) = pause else { return Err(failure.into()) };
            tokio::time::sleep(pause).await;
            made += 1;
        }
    }

    async fn call(&self, url: &Url, body: Option<&str>) -> Result<Vec<u8>, Trouble> {
        let scope = format!("{}/.default", self.settings.url);
        let token = self.credential.get_token(&[&scope], None).await;
        let token = token.map_err(|error| match Failure::of(&error) {
            Failure::Refused(refused) => Failure::NoToken(Some(refused.status)),
            other => other,
        })?;
        let asked = match body {
            None => self.client.get(url.clone()),
            Some(body) => {
                let posted = self.client.post(url.clone()).header(CONTENT_TYPE, "application/json");
                posted.body(body.to_owned())
            }
        };
        let sent = asked.bearer_auth(token.token.secret()).send().await;
        let mut response = sent.map_err(|_| Failure::Silence("Graph did not answer"))?;
        note_throttle(&response);
        if response.status() != StatusCode::OK {
            let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = header.and_then(|text| text.trim().parse().ok());
            let status = response.status().as_u16();
            return Err(Failure::Refused(Refused { status, code: None, retry_after }).into());
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !kind.starts_with("application/json") {
            return Err(Trouble::Strange(
                "the answer is not JSON; something else answers on the way to Graph",
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|_| Failure::Silence("Graph's answer broke off"))?
        {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err(Trouble::Strange("the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn keep_quiet(&self, pause: Duration) {
        let until = Instant::now() + pause.min(Duration::from_mins(5));
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = Some(quiet.map_or(until, |other| other.max(until)));
    }

    /// Waits while Graph wants to be left alone, if that is not for long.
    async fn wait_for_quiet(&self, action: &'static str) -> Result<(), Error> {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pause) = until.map(|until| until.saturating_duration_since(Instant::now())) else {
            return Ok(());
        };
        if pause > self.settings.attempts.max_delay {
            let detail = format!("Graph throttles this app for another {} s", pause.as_secs() + 1);
            return Err(Error::new(Kind::Unavailable, action, detail));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Graph says when four fifths of what an app may do are used up.
fn note_throttle(response: &reqwest::Response) {
    let header = response.headers().get("x-ms-throttle-limit-percentage");
    let part = header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<f64>().ok());
    if let Some(part) = part.filter(|part| *part >= 0.8) {
        warn!(part, "this app nears its limit at Microsoft Graph, above which it is throttled");
    }
}

/// How a call ended that did not end well.
enum Trouble {
    Failed(Failure),
    /// It was answered with something that is no answer of Graph.
    Strange(&'static str),
    /// It was not made, since Graph wants to be left alone.
    Waits(Error),
}

impl Trouble {
    fn during(self, action: &'static str) -> Error {
        match self {
            Self::Failed(failure) => told(&failure, action),
            Self::Strange(what) => corrupt(action, what),
            Self::Waits(error) => error,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn corrupt(action: &'static str, what: &'static str) -> Error {
    Error::new(Kind::Corrupt, action, what)
}

fn told(failure: &Failure, action: &'static str) -> Error {
    let mend = match failure {
        Failure::Refused(Refused { status: 403, .. }) => {
            ": this identity needs the application permission Device.Read.All; see docs/AZURE.md"
        }
        // A device that was there a moment ago is gone; it is asked for again.
        Failure::Refused(Refused { status: 404, .. }) if action == ASKING_GROUPS => ": it has no such device",
        Failure::Refused(Refused { status: 404, .. }) => ": there are no devices at directory.url",
        Failure::Refused(Refused { status: 429, .. }) => ": Graph throttles this app",
        _ => "",
    };
    Error::new(failure.during(action).kind(), action, format!("{failure}{mend}"))
}

#[async_trait]
impl Directory for GraphDirectory {
    async fn look_up(&self, devices: Vec<DeviceId>) -> Vec<Result<Answer, Error>> {
        let asking = devices.into_iter().map(|device| self.0.look_up(device));
        futures_util::stream::iter(asking).buffered(self.0.settings.parallel.max(1)).collect().await
    }

    /// Graph lists devices in no order of their ids: they are listed as its feed told them, without keys and groups.
    async fn page(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        let roster = &self.0.roster;
        if self.0.settings.feed.is_none() {
            let mend = "directory.delta_every is 0s, so nobody reads which devices Microsoft Graph has";
            return Err(Error::new(Kind::Denied, LISTING, mend));
        }
        // Half a reading must not pass for all there is.
        if after.is_none() && roster.changed(u64::MAX, 0).await?.read.is_none() {
            let mend = "what Microsoft Graph has was not read to its end yet; the validator, or `keyturn up`, does so";
            return Err(Error::new(Kind::Unavailable, LISTING, mend));
        }
        roster.devices(after, limit).await
    }

    async fn named(&self, name: &str) -> Result<Vec<DeviceId>, Error> {
        // Longer than any name in the directory, or empty: nothing has it.
        if name.is_empty() || name.chars().count() > 256 {
            return Ok(Vec::new());
        }
        let filter = format!("displayName eq '{}'", name.replace('\'', "''"));
        let records = self.0.devices(&filter, SELECT, NAMED, LISTING).await?;
        let mut ids: Vec<DeviceId> = records.into_iter().map(|record| record.device_id).collect();
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}
