//! alarms → webhooks.
//!
//! An alarm comes from the rotator once, addressed to nobody. The first handling looks which webhooks are to have it
//! and sends one message to each, in the step that completes it; from then on every webhook has its own retries and
//! its own dead letters, so that one that is down keeps no alarm from another.
//!
//! # What an answer means
//! 2xx: delivered. 410: the receiver wants no more; the alarm goes to the dead letters at once. Anything else, a
//! redirect too, and no answer in time: not delivered, and tried again until the alarm is too old. What a receiver
//! says beside its status is never read.
//!
//! # Order
//! Deliveries to one webhook follow each other. When one fails in a way that the next one would as well, the rest of
//! the batch is not tried; when it fails alone, what follows of the same device waits with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::live::Live;
use keyturn_domain::webhook::{AlarmPolicy, Webhook, WebhookName};
use keyturn_pipeline::decode::decode;
use keyturn_pipeline::handler::{Failure, Handled, Handler};
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, QueueName};
use keyturn_schemas::alarm::{AlarmRaised, ID, Notice, SIGNATURE, TIMESTAMP, WebhookSecrets};
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::envelope::Envelope;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::tls::Version;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// The secrets of the webhooks, by name.
pub type Secrets = BTreeMap<WebhookName, WebhookSecrets>;

/// A client that cannot be set up: the certificates to trust, or the proxy, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("alarms: the way to webhook {webhook} cannot be set up; check alarms.ca and alarms.proxy: {source}")]
pub struct SetupError {
    /// The webhook.
    pub webhook: WebhookName,
    /// Why.
    pub source: reqwest::Error,
}

/// The handler of alarms.
pub struct Webhooks(Arc<Inner>);

struct Inner {
    deployment: Deployment,
    targets: BTreeMap<WebhookName, Target>,
    secrets: Live<Secrets>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

struct Target {
    webhook: Webhook,
    client: reqwest::Client,
}

/// An alarm for one webhook, and its place in the batch.
struct Delivery {
    slot: usize,
    envelope: Envelope<AlarmRaised>,
}

/// What one attempt came to.
enum Attempt {
    Delivered,
    /// The receiver wants no more.
    Gone,
    /// It takes no alarm now.
    Down(String),
    /// It does not take this one.
    Refused(String),
}

impl Webhooks {
    /// A handler that delivers as `policy` says, signed with what `secrets` has.
    pub fn new(
        deployment: Deployment,
        policy: &AlarmPolicy,
        secrets: impl Into<Live<Secrets>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let target = |webhook: &Webhook| {
            let failed = |source| SetupError { webhook: webhook.name.clone(), source };
            let client = client(webhook, policy).map_err(failed)?;
            Ok((webhook.name.clone(), Target { webhook: webhook.clone(), client }))
        };
        let targets = policy.webhooks.iter().map(target).collect::<Result<_, _>>()?;
        let (secrets, timeout) = (secrets.into(), policy.timeout);
        Ok(Self(Arc::new(Inner { deployment, targets, secrets, timeout, clock })))
    }
}

/// TLS 1.2 or newer, no redirects, no retries of its own, no proxy of the environment.
fn client(webhook: &Webhook, policy: &AlarmPolicy) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("keyturn/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .tls_version_min(Version::TLS_1_2)
        .https_only(!webhook.url.is_plain())
        .no_proxy();
    if let Some(proxy) = policy.proxy.as_ref().filter(|_| !webhook.url.is_plain()) {
        builder = builder.proxy(reqwest::Proxy::all(proxy.as_str())?);
    }
    if let Some(pem) = &policy.ca {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    builder.build()
}

#[async_trait]
impl Handler for Webhooks {
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let (mut handled, mut queues) = (Vec::with_capacity(batch.len()), BTreeMap::new());
        for (slot, leased) in batch.iter().enumerate() {
            // What is delivered below is answered below; this stands if that ends without an answer.
            let unanswered = || Handled::failed(Failure::Engine("the delivery was cut off".to_owned()));
            handled.push(match decode::<AlarmRaised>(leased) {
                Err(dead) => dead,
                Ok(envelope) => match envelope.data.webhook.clone() {
                    None => self.0.address(&envelope),
                    Some(name) if self.0.targets.contains_key(&name) => {
                        queues.entry(name).or_insert_with(Vec::new).push(Delivery { slot, envelope });
                        unanswered()
                    }
                    Some(name) => {
                        let problem = format!("webhook {name} is configured no more");
                        Handled::dead(DeadReason::Exhausted, problem)
                    }
                },
            });
        }
        let mut deliveries = JoinSet::new();
        for (name, mut queue) in queues {
            // Retries come back in any order; what is at hand at the same time goes out in the order it was raised in.
            queue.sort_by_key(|delivery: &Delivery| delivery.envelope.data.at_ms);
            let inner = Arc::clone(&self.0);
            deliveries.spawn(async move { inner.deliver_all(&name, queue).await });
        }
        while let Some(done) = deliveries.join_next().await {
            for (slot, answer) in done.unwrap_or_default() {
                if let Some(one) = handled.get_mut(slot) {
                    *one = answer;
                }
            }
        }
        handled
    }
}

impl Inner {
    /// One message for each webhook that is to have the alarm.
    fn address(&self, envelope: &Envelope<AlarmRaised>) -> Handled {
        let wanting =
            self.targets.values().filter(|target| target.webhook.kinds.contains(&envelope.data.alarm));
        let message = |target: &Target| {
            let data = AlarmRaised { webhook: Some(target.webhook.name.clone()), ..envelope.data.clone() };
            let (id, device, at) = (envelope.id, envelope.subject, self.clock.now());
            let addressed = Envelope::new(id, device, "notifier", at, envelope.traceparent, data);
            (QueueName::Alarms, NewMessage { request: id, device, body: addressed.to_json() })
        };
        Handled { forward: wanting.map(message).collect(), ..Handled::done() }
    }

    /// Delivers one after the other, until one fails in a way that the next one would as well.
    async fn deliver_all(&self, name: &WebhookName, queue: Vec<Delivery>) -> Vec<(usize, Handled)> {
        let (mut answers, mut waiting, mut down) = (Vec::with_capacity(queue.len()), BTreeSet::new(), None);
        for Delivery { slot, envelope } in queue {
            let answer = match &down {
                Some(why) => failed(format!("not tried, because the delivery before it failed: {why}")),
                None if waiting.contains(&envelope.subject) => {
                    failed("not tried, because an earlier alarm of its device waits".to_owned())
                }
                None => {
                    let attempt = self.deliver(name, &envelope).await;
                    tell(name, &envelope, &attempt);
                    match attempt {
                        Attempt::Delivered => Handled::done(),
                        Attempt::Gone => Handled::dead(DeadReason::Exhausted, "the receiver answered 410"),
                        Attempt::Down(why) => {
                            down = Some(why.clone());
                            failed(why)
                        }
                        Attempt::Refused(why) => {
                            waiting.insert(envelope.subject);
                            failed(why)
                        }
                    }
                }
            };
            answers.push((slot, answer));
        }
        answers
    }

    async fn deliver(&self, name: &WebhookName, envelope: &Envelope<AlarmRaised>) -> Attempt {
        let secrets = self.secrets.now();
        let (Some(target), Some(secrets)) = (self.targets.get(name), secrets.get(name)) else {
            return Attempt::Down(format!("webhook {name} has no secret"));
        };
        let notice = Notice::of(&envelope.data, self.deployment.clone(), envelope.subject, envelope.id);
        let (body, event, now) = (notice.to_json(), envelope.data.event, self.clock.now().0 / 1000);
        let request = target.client.post(target.webhook.url.as_str()).timeout(self.timeout);
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .header(ID, event.to_string())
            .header(TIMESTAMP, now.to_string())
            .header(SIGNATURE, secrets.signature(event, now, &body));
        match request.body(body).send().await {
            // The body is not read: the connection is closed with it unread.
            Ok(response) => judge(response.status()),
            Err(error) => Attempt::Down(format!("no answer: {}", root_cause(error))),
        }
    }
}

fn judge(status: StatusCode) -> Attempt {
    let said = || format!("the receiver answered {}", status.as_u16());
    match status {
        StatusCode::GONE => Attempt::Gone,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Attempt::Down(said())
        }
        _ if status.is_success() => Attempt::Delivered,
        _ if status.is_client_error() => Attempt::Refused(said()),
        _ => Attempt::Down(said()),
    }
}

fn failed(why: String) -> Handled {
    Handled::failed(Failure::Engine(why))
}

/// The cause at the bottom, without the address: what stands in its path may be a secret of the receiver's.
fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn tell(name: &WebhookName, envelope: &Envelope<AlarmRaised>, attempt: &Attempt) {
    let (event, device, trace) = (envelope.data.event, envelope.subject, envelope.traceparent.trace_id());
    let (outcome, why) = match attempt {
        Attempt::Delivered => ("delivered", None),
        Attempt::Gone => ("gone", Some("the receiver answered 410")),
        Attempt::Down(why) => ("down", Some(why.as_str())),
        Attempt::Refused(why) => ("refused", Some(why.as_str())),
    };
    metrics::counter!("keyturn_alarm_deliveries_total", "webhook" => name.to_string(), "outcome" => outcome)
        .increment(1);
    if let Some(why) = why {
        warn!(webhook = %name, alarm.id = %event, device.id = %device, trace.id = trace, error = why,
            "the alarm is not delivered");
    } else {
        info!(webhook = %name, alarm.id = %event, device.id = %device, trace.id = trace, "the alarm is delivered");
    }
}
