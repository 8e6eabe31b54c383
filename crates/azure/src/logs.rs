//! Azure Monitor: rows into tables of a Log Analytics workspace, by the Logs Ingestion API.
//!
//! `POST {endpoint}/dataCollectionRules/{immutable id}/streams/{stream}?api-version=2023-01-01` with a JSON array, of at
//! most 1 MB, compressed or not; 204 is the answer (learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview,
//! limits: learn.microsoft.com/azure/azure-monitor/service-limits#logs-ingestion-api). The service merges no repeats: a
//! call whose outcome is unknown is made again, and its rows may be there twice.

pub(crate) mod answer;
mod body;
mod names;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::http::Url;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::{Error, Kind};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::time::Instant;

pub use self::names::{NotARule, NotAStream, RuleId, StreamName};
use crate::failure::{Failure, Refused, SetupError};
use crate::retry::Attempts;
use crate::transport::{HttpsUrl, Reach};
use crate::versions;

const SENDING: &str = "sending rows to Azure Monitor";
const ASKING: &str = "asking Azure Monitor whether it would take rows";

/// The most bytes of a call's body before it is compressed, and so after it too: the service's limit.
pub const MOST_BYTES: usize = 1_000_000;

/// Where rows go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The logs ingestion endpoint of the rule, or of a data collection endpoint that it names.
    pub endpoint: HttpsUrl,
    /// What tokens are asked for, `https://monitor.azure.com` but in national clouds.
    pub audience: HttpsUrl,
    /// The data collection rule.
    pub rule: RuleId,
    /// How often a call is made.
    pub attempts: Attempts,
    /// The most bytes of rows in one call, at most [`MOST_BYTES`].
    pub batch_bytes: usize,
    /// Whether bodies are compressed with gzip.
    pub compress: bool,
}

/// The way to one data collection rule.
#[derive(Clone)]
pub struct LogsIngestion(Arc<Inner>);

struct Inner {
    settings: Settings,
    client: reqwest::Client,
    credential: Arc<dyn TokenCredential>,
    entropy: Arc<dyn Entropy>,
    /// Nobody calls before this.
    quiet_until: Mutex<Option<Instant>>,
}

/// What the service said when it was asked whether it would take rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The service's time, to the second, if it told.
    pub time: Option<UnixMillis>,
}

impl LogsIngestion {
    /// The way to this rule. Nobody is asked anything yet.
    pub fn open(
        settings: Settings,
        reach: &Reach,
        credential: Arc<dyn TokenCredential>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, SetupError> {
        let client = reach.client(false)?;
        Ok(Self(Arc::new(Inner { settings, client, credential, entropy, quiet_until: Mutex::new(None) })))
    }

    /// Sends the first of these rows, each a JSON object, in one call: as many as fit, or fewer if the service takes
    /// that for too much. Returns how many it took over; 0 if there are none to send.
    ///
    /// After an error nothing is known: the rows may be there.
    pub async fn send(&self, stream: &StreamName, rows: &[String]) -> Result<usize, Error> {
        let mut count = body::fitting(rows, self.0.settings.batch_bytes);
        while let Some(some) = rows.get(..count).filter(|some| !some.is_empty()) {
            match self.0.ask(stream, &body::array(some), SENDING).await {
                Ok(_) => return Ok(count),
                Err(Failure::Refused(Refused { status: 413, .. })) if count > 1 => count = count.div_ceil(2),
                Err(failure) => return Err(self.0.told(&failure, SENDING)),
            }
        }
        Ok(0)
    }

    /// Asks with a body without rows whether this process may send to the stream. Nothing is stored.
    pub async fn probe(&self, stream: &StreamName) -> Result<Reached, Error> {
        match self.0.ask(stream, "[]", ASKING).await {
            Ok(reached) => Ok(reached),
            // Who may not send is told so before the body is looked at.
            Err(Failure::Refused(Refused { status: 400, .. })) => Ok(Reached { time: None }),
            Err(failure) => Err(self.0.told(&failure, ASKING)),
        }
    }
}

impl Inner {
    /// Makes a call, as often as it takes.
    async fn ask(&self, stream: &StreamName, rows: &str, action: &'static str) -> Result<Reached, Failure> {
        let mut url: Url = self
            .settings
            .endpoint
            .with(&format!("/dataCollectionRules/{}/streams/{stream}", self.settings.rule));
        url.query_pairs_mut().append_pair("api-version", versions::LOGS_INGESTION);
        let (body, encoding) = body::encoded(rows, self.settings.compress);
        let mut made = 1;
        loop {
            self.wait_for_quiet().await?;
            let failure = match self.call(&url, &body, encoding).await {
                Ok(reached) => return Ok(reached),
                Err(failure) => failure,
            };
            let pause = self.settings.attempts.pause(made, &failure, &*self.entropy);
            if let Failure::Refused(Refused { status: 429 | 503, retry_after, .. }) = failure {
                let told = retry_after.map(Duration::from_secs);
                self.keep_quiet(told.or(pause).unwrap_or(self.settings.attempts.max_delay));
            }
            let Some(pause) = pause else { return Err(failure) };
            tracing::debug!(action, made, error = %failure, "a call is made again");
            tokio::time::sleep(pause).await;
            made += 1;
        }
    }

    async fn call(&self, url: &Url, body: &[u8], encoding: Option<&'static str>) -> Result<Reached, Failure> {
        let scope = format!("{}/.default", self.settings.audience);
        let token = self.credential.get_token(&[&scope], None).await;
        let token = token.map_err(|error| match Failure::of(&error) {
            Failure::Refused(refused) => Failure::NoToken(Some(refused.status)),
            other => other,
        })?;
        let mut posted = self.client.post(url.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(encoding) = encoding {
            posted = posted.header(CONTENT_ENCODING, encoding);
        }
        let sent = posted.bearer_auth(token.token.secret()).body(body.to_vec()).send().await;
        let response = sent.map_err(|_| Failure::Silence("Azure Monitor did not answer"))?;
        let time = answer::date(response.headers());
        // Nothing else says that the rows were taken over: a page of a proxy comes with 200.
        match response.status() {
            StatusCode::NO_CONTENT => Ok(Reached { time }),
            status if status.is_success() || status.is_redirection() => {
                Err(Failure::Nonsense("something else answers on the way to Azure Monitor"))
            }
            _ => Err(Failure::Refused(answer::refusal(response).await)),
        }
    }

    fn keep_quiet(&self, pause: Duration) {
        let until = Instant::now() + pause.min(Duration::from_mins(5));
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = Some(quiet.map_or(until, |other| other.max(until)));
    }

    /// Waits while the service wants to be left alone, if that is not for long.
    async fn wait_for_quiet(&self) -> Result<(), Failure> {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pause) = until.map(|until| until.saturating_duration_since(Instant::now())) else {
            return Ok(());
        };
        if pause > self.settings.attempts.max_delay {
            let retry_after = Some(pause.as_secs() + 1);
            return Err(Failure::Refused(Refused { status: 429, code: None, retry_after }));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// A failure with what mends it.
    fn told(&self, failure: &Failure, action: &'static str) -> Error {
        let rule = &self.settings.rule;
        let (kind, mend) = match failure {
            Failure::Refused(Refused { status: 403, .. }) => (
                Kind::Denied,
                format!(
                    ": this identity needs the role Monitoring Metrics Publisher on the data collection rule {rule} \
                     itself; a new role takes up to 30 minutes"
                ),
            ),
            Failure::Refused(Refused { status: 401, .. }) => (
                Kind::Denied,
                ": the token is refused; see azure.logs.audience, azure.credential.tenant_id and this machine's clock"
                    .to_owned(),
            ),
            Failure::Refused(Refused { status: 404, .. }) => (
                Kind::Denied,
                format!(
                    ": {} has no data collection rule {rule} with this stream; see azure.logs.endpoint, rule and the \
                     names of streams",
                    self.settings.endpoint
                ),
            ),
            Failure::Refused(Refused { status: 413, .. }) => {
                (Kind::Corrupt, ": one row alone is too much for the service".to_owned())
            }
            Failure::Refused(Refused { status: 429, .. }) => {
                (Kind::Unavailable, ": the data collection rule is throttled".to_owned())
            }
            _ => (failure.during(action).kind(), String::new()),
        };
        Error::new(kind, action, format!("{failure}{mend}"))
    }
}
