//! Azure Storage Queues (learn.microsoft.com/azure/storage/queues).
//!
//! What the service has no place for is in the text of a message: a line of JSON that says what it was sent as and
//! how it fared, and then the body. A lease is the service's visibility timeout, its proof the pop receipt. Renewing
//! gives a message a new pop receipt, so this adapter remembers the newest one of every lease that it gave out;
//! a lease is renewed and settled by the process that took it.
//!
//! The service has no dead letters. A message that is given up on is written into the index of the deployment's state,
//! then deleted. A death in between repeats the work: the index takes a message once. What somebody else puts onto the
//! queue `<name>-poison` (the convention of Azure Functions) is moved into the index (`strays`).
//!
//! - A message has at most 64 KiB. `send` refuses a longer one before it reaches the service.
//! - Times to live are infinite: nothing goes away by itself.
//! - Delays and leases are whole seconds, rounded up, at most 7 days.
//! - Depths are approximate. Messages that are leased or delayed are told apart from those that wait only while fewer
//!   than 32 wait.

mod client;
mod failure;
mod receipts;
mod settle;
mod shared_key;
mod strays;
mod text;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::http::Url;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::dead_letters::Graveyard;
use keyturn_ports::queue::{Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use secrecy::SecretString;
use tokio::sync::Notify;

use self::client::{Client, Received};
use self::receipts::{Held, Receipts};
use self::text::Head;
use crate::transport::{HttpsUrl, Reach};

/// The most messages the service hands out at once.
const AT_ONCE: usize = 32;

/// Where the queues are and how they are used.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: Url,
    prefix: String,
    /// How often an empty queue is looked at.
    pub poll: Duration,
    /// Requests under way at once for one call of the port.
    pub parallel: usize,
    /// The version of the service's API, if not the SDK's own. An emulator may know older ones only.
    pub api_version: Option<String>,
}

/// An address or a prefix that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// The address is none.
    #[error("is no address like https://ACCOUNT.queue.core.windows.net")]
    Address,
    /// Requests would go unprotected over a network.
    #[error("must begin with https://; plain http is for an emulator on this machine alone")]
    Unprotected,
    /// The address has parts that it must not have.
    #[error("must have neither a user, nor a query, nor a fragment; a signature belongs into a file")]
    Surplus,
    /// The service would not have queues of such names
    /// (learn.microsoft.com/rest/api/storageservices/naming-queues-and-metadata).
    #[error(
        "the prefix must be 1 to 40 characters of a-z 0-9 -, begin with a letter or digit, and have no two -"
    )]
    Prefix,
}

impl Endpoint {
    /// Its origin, if it is reached over TLS.
    pub fn origin(&self) -> Option<HttpsUrl> {
        self.url.origin().ascii_serialization().parse().ok()
    }

    /// The queues of the account at `url`, whose names begin with `prefix`.
    pub fn new(url: &str, prefix: &str) -> Result<Self, EndpointError> {
        let url: Url = url.parse().map_err(|_| EndpointError::Address)?;
        let host = url.host_str().ok_or(EndpointError::Address)?;
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match url.scheme() {
            "https" => {}
            "http" if here => {}
            "http" => return Err(EndpointError::Unprotected),
            _ => return Err(EndpointError::Address),
        }
        let signed_in = !url.username().is_empty() || url.password().is_some();
        if signed_in || url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointError::Surplus);
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=40).contains(&prefix.len())
            && prefix.chars().all(fits)
            && !prefix.starts_with('-')
            && !prefix.contains("--");
        if !good {
            return Err(EndpointError::Prefix);
        }
        let (poll, parallel) = (Duration::from_millis(500), 16);
        Ok(Self { url, prefix: prefix.to_owned(), poll, parallel, api_version: None })
    }
}

/// How requests are authorised.
#[derive(Clone, Debug)]
pub enum Access {
    /// By tokens of Microsoft Entra ID. The role «Storage Queue Data Contributor» on the account is enough. Https only.
    Token {
        /// Where tokens come from.
        credential: Arc<dyn TokenCredential>,
        /// The way to the service. Tokens go to no other host than the endpoint's.
        reach: Reach,
    },
    /// By the account's key: for emulators, and accounts that are not in Entra ID.
    SharedKey {
        /// The account's name.
        account: String,
        /// Its key, in base64.
        key: SecretString,
    },
    /// By a shared access signature, as the query of a URL has it, without the question mark.
    Signature(SecretString),
}

/// The queues of a deployment on Azure Storage.
pub struct StorageQueues {
    clients: [Pair; QueueName::ALL.len()],
    graveyard: Arc<dyn Graveyard>,
    clock: Arc<dyn Clock>,
    receipts: Receipts,
    sent: [Notify; QueueName::ALL.len()],
    poll: Duration,
    parallel: usize,
}

/// A queue, and what others gave up on beside it.
struct Pair {
    queue: Client,
    poison: Client,
}

impl StorageQueues {
    /// Queues as the settings say. Those that do not exist are made when they are first used, by whoever may make
    /// them.
    ///
    /// # Errors
    /// [`keyturn_ports::Kind::Denied`] if the settings cannot be used. The service is not asked yet.
    pub fn new(
        endpoint: &Endpoint,
        access: &Access,
        graveyard: Arc<dyn Graveyard>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let client = |queue: QueueName, suffix: &str| {
            Client::new(endpoint, access, &format!("{}{queue}{suffix}", endpoint.prefix))
        };
        let pair =
            |queue| Ok::<_, Error>(Pair { queue: client(queue, "")?, poison: client(queue, "-poison")? });
        let [one, two, three, four] = QueueName::ALL.map(pair);
        let clients = [one?, two?, three?, four?];
        Ok(Self {
            clients,
            graveyard,
            clock,
            receipts: Receipts::default(),
            sent: Default::default(),
            poll: endpoint.poll,
            parallel: endpoint.parallel.max(1),
        })
    }

    fn pair(&self, queue: QueueName) -> &Pair {
        let [requests, findings, outcomes, alarms] = &self.clients;
        match queue {
            QueueName::Requests => requests,
            QueueName::Findings => findings,
            QueueName::Outcomes => outcomes,
            QueueName::Alarms => alarms,
        }
    }

    fn bell(&self, queue: QueueName) -> &Notify {
        let [requests, findings, outcomes, alarms] = &self.sent;
        match queue {
            QueueName::Requests => requests,
            QueueName::Findings => findings,
            QueueName::Outcomes => outcomes,
            QueueName::Alarms => alarms,
        }
    }

    /// A message as the port has it. One that somebody else put there is passed on as it is, so that its reader
    /// gives it up and an operator gets to see it.
    fn leased(&self, queue: QueueName, received: Received, until: UnixMillis) -> Leased {
        let (head, body) = Head::split(&received.text).unzip();
        let about =
            head.as_ref().map(|head: &Head| (head.request, head.device, head.enqueued, head.released));
        let strange = || (RequestId::of(&received.text), DeviceId::from_bytes([0; 16]), self.clock.now(), 0);
        let (request, device, enqueued, released) = about.unwrap_or_else(strange);
        let message = NewMessage { request, device, body: body.unwrap_or(&received.text).to_owned() };
        let deliveries = received.deliveries.saturating_sub(released).max(1);
        let receipt = Receipt { message: received.id, lease: received.receipt.clone() };
        let leased = Leased { receipt, message, deliveries, enqueued };
        let held = Held { pop_receipt: received.receipt, leased: leased.clone(), head, until };
        self.receipts.remember(queue, held, self.clock.now());
        leased
    }
}

#[async_trait]
impl Queue for StorageQueues {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        let now = self.clock.now();
        let texts: Vec<String> = messages
            .iter()
            .map(|message| Head::of(message, now).text(&message.body))
            .collect::<Result<_, _>>()?;
        let client = &self.pair(queue).queue;
        let outcomes = crate::each(self.parallel, texts, |text| async { client.put(text).await }).await;
        self.bell(queue).notify_waiters();
        outcomes.into_iter().collect()
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        let (mut leased, until) = (Vec::new(), self.clock.now().plus(lease));
        while leased.len() < max {
            let wanted = (max - leased.len()).min(AT_ONCE);
            let received = match self.pair(queue).queue.receive(wanted, lease).await {
                Ok(received) => received,
                // What is leased already is handled; the rest is asked for again soon enough.
                Err(_) if !leased.is_empty() => break,
                Err(error) => return Err(error),
            };
            let short = received.len() < wanted;
            let meant = self.without_trials(queue, received).await;
            leased.extend(meant.into_iter().map(|received| self.leased(queue, received, until)));
            if short {
                break;
            }
        }
        Ok(leased)
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        crate::lost(self.parallel, receipts, |receipt| async move {
            let void = self.renew_one(queue, &receipt, lease).await?;
            Ok(void.then_some(receipt))
        })
        .await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        crate::forward(self, forward).await?;
        crate::lost(self.parallel, settled, |(receipt, settlement)| async move {
            let done = self.settle_one(queue, &receipt, settlement).await?;
            Ok((!done).then_some(receipt))
        })
        .await
    }

    fn system(&self, _: QueueName) -> &'static str {
        "azure_storage"
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        let Pair { queue: alive, poison } = self.pair(queue);
        let (total, dead, waiting) = tokio::try_join!(alive.count(), poison.count(), alive.peek(AT_ONCE))?;
        let seen = u64::try_from(waiting.len()).unwrap_or(u64::MAX);
        let leased = if waiting.len() < AT_ONCE { total.saturating_sub(seen) } else { 0 };
        let enqueued = waiting.iter().filter_map(|text| Head::split(text)).map(|(head, _)| head.enqueued);
        let oldest = enqueued.chain(self.receipts.oldest(queue, self.clock.now())).min();
        Ok(Depth { total, leased, oldest, dead, sent: None })
    }

    /// Resolves when this process sends to the queue, and after the time between two looks at the latest: the
    /// service cannot tell.
    async fn arrival(&self, queue: QueueName) {
        drop(tokio::time::timeout(self.poll, self.bell(queue).notified()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_are_checked() {
        let good = "https://contoso.queue.core.windows.net";
        for (url, prefix, expected) in [
            (good, "keyturn-", None),
            ("http://127.0.0.1:10001/devstoreaccount1", "k", None),
            ("contoso", "k", Some(EndpointError::Address)),
            ("ftp://contoso.example", "k", Some(EndpointError::Address)),
            ("http://contoso.queue.core.windows.net", "k", Some(EndpointError::Unprotected)),
            ("http://127.0.0.1.example.org", "k", Some(EndpointError::Unprotected)),
            ("https://contoso.queue.core.windows.net?sig=x", "k", Some(EndpointError::Surplus)),
            ("https://user:secret@contoso.example", "k", Some(EndpointError::Surplus)),
            (good, "", Some(EndpointError::Prefix)),
            (good, "Key-", Some(EndpointError::Prefix)),
            (good, "-k", Some(EndpointError::Prefix)),
            (good, "k--", Some(EndpointError::Prefix)),
            (good, "../k", Some(EndpointError::Prefix)),
        ] {
            assert_eq!(Endpoint::new(url, prefix).err(), expected, "{url} {prefix}");
        }
    }
}
