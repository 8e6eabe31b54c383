//! One queue of the service, in our words.

use std::sync::Arc;
use std::time::Duration;

use azure_core::http::headers::HeaderName;
use azure_core::http::policies::Policy;
use azure_core::http::{ClientOptions, RetryOptions};
use azure_storage_queue::models::{
    QueueClientGetPropertiesResultHeaders as _, QueueClientPeekMessagesOptions,
    QueueClientReceiveMessagesOptions, QueueClientSendMessageOptions, QueueClientUpdateMessageOptions,
    QueueMessage,
};
use azure_storage_queue::{QueueClient, QueueClientOptions};
use keyturn_ports::{Error, Kind};
use secrecy::ExposeSecret as _;
use tokio::sync::OnceCell;

use super::failure::Failure;
use super::shared_key::SharedKey;
use super::{Access, Endpoint};
use crate::transport::HttpsUrl;

/// The longest visibility timeout (learn.microsoft.com/rest/api/storageservices/update-message).
const LONGEST: Duration = Duration::from_hours(7 * 24);

const POP_RECEIPT: HeaderName = HeaderName::from_static("x-ms-popreceipt");

/// A queue.
pub(super) struct Client {
    name: String,
    queue: QueueClient,
    made: OnceCell<()>,
}

/// A message the service handed out.
pub(super) struct Received {
    pub(super) id: String,
    pub(super) receipt: String,
    pub(super) text: String,
    pub(super) deliveries: u32,
}

impl Client {
    /// A client of the queue `name`.
    pub(super) fn new(endpoint: &Endpoint, access: &Access, name: &str) -> Result<Self, Error> {
        let refused = |detail: &str| Error::new(Kind::Denied, "using a storage queue", detail.to_owned());
        let mut url = endpoint.url.clone();
        let mut path =
            url.path_segments_mut().map_err(|()| refused("the endpoint is no base for addresses"))?;
        path.pop_if_empty().push(name);
        drop(path);
        let mut per_try_policies: Vec<Arc<dyn Policy>> = Vec::new();
        let mut way = ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() };
        let credential = match access {
            Access::Token { credential, reach } => {
                let insecure = |_| refused("tokens are sent over https alone");
                let origin: HttpsUrl = url.origin().ascii_serialization().parse().map_err(insecure)?;
                way = reach.options(&origin).map_err(|_| refused("the way to the service cannot be used"))?;
                Some(Arc::clone(credential))
            }
            Access::SharedKey { account, key } => {
                let key =
                    SharedKey::new(account, key).ok_or_else(|| refused("the account's key is no base64"))?;
                per_try_policies.push(Arc::new(key));
                None
            }
            Access::Signature(signature) => {
                url.set_query(Some(signature.expose_secret()));
                None
            }
        };
        let client_options = ClientOptions { per_try_policies, ..way };
        let mut options = QueueClientOptions { client_options, ..QueueClientOptions::default() };
        if let Some(version) = &endpoint.api_version {
            options.version.clone_from(version);
        }
        // The SDK's own words name the address, which may have a signature in it.
        let queue = QueueClient::new(url, credential, Some(options))
            .map_err(|_| refused("the endpoint cannot be used: tokens are sent over https alone"))?;
        Ok(Self { name: name.to_owned(), queue, made: OnceCell::new() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the queue before its first use, unless there is one. Who may only send or receive may not make queues,
    /// and finds out by the call itself whether there is one.
    async fn made(&self) -> Result<(), Error> {
        let make = async || {
            let made = self.queue.create(None).await;
            let made = made.map(drop).map_err(|error| Failure::of("making a storage queue", &error).error());
            made.or_else(|error| if error.kind() == Kind::Denied { Ok(()) } else { Err(error) })
        };
        self.made.get_or_try_init(make).await.copied()
    }

    /// Puts a message on the queue. It stays until it is deleted.
    pub(super) async fn put(&self, text: String) -> Result<(), Error> {
        self.made().await?;
        let action = "sending to a storage queue";
        let wrong = |error: azure_core::Error| Failure::of(action, &error).error();
        let forever = QueueClientSendMessageOptions { message_time_to_live: Some(-1), ..Default::default() };
        let message = QueueMessage { message_text: Some(text) }.try_into().map_err(wrong)?;
        self.queue.send_message(message, Some(forever)).await.map(drop).map_err(wrong)
    }

    /// Puts a message on the queue that is there and hidden for so long. Returns its number and pop receipt.
    pub(super) async fn put_hidden(
        &self,
        text: String,
        (there, hidden): (Duration, Duration),
    ) -> Result<(String, String), Error> {
        self.made().await?;
        let action = "sending to a storage queue";
        let wrong = |error: azure_core::Error| Failure::of(action, &error).error();
        let options = QueueClientSendMessageOptions {
            message_time_to_live: Some(seconds(there)),
            visibility_timeout: Some(seconds(hidden)),
            ..Default::default()
        };
        let message = QueueMessage { message_text: Some(text) }.try_into().map_err(wrong)?;
        let sent = self.queue.send_message(message, Some(options)).await.map_err(wrong)?;
        let sent = sent.into_model().map_err(wrong)?.items.unwrap_or_default().into_iter().next();
        let unsaid =
            || Error::new(Kind::Unavailable, action, "the service did not say how it calls the message");
        sent.and_then(|sent| sent.message_id.zip(sent.pop_receipt)).ok_or_else(unsaid)
    }

    /// Takes up to `max` messages, at most 32, for `lease`.
    pub(super) async fn receive(&self, max: usize, lease: Duration) -> Result<Vec<Received>, Error> {
        self.made().await?;
        let wrong = |error: azure_core::Error| Failure::of("receiving from a storage queue", &error).error();
        let options = QueueClientReceiveMessagesOptions {
            number_of_messages: Some(i32::try_from(max).unwrap_or(i32::MAX)),
            visibility_timeout: Some(seconds(lease).max(1)),
            ..Default::default()
        };
        let answer = self.queue.receive_messages(Some(options)).await.map_err(wrong)?;
        let items = answer.into_model().map_err(wrong)?.items.unwrap_or_default();
        let received = items.into_iter().filter_map(|item| {
            Some(Received {
                id: item.message_id?,
                receipt: item.pop_receipt?,
                text: item.message_text.unwrap_or_default(),
                deliveries: u32::try_from(item.dequeue_count.unwrap_or(1)).unwrap_or(1),
            })
        });
        Ok(received.collect())
    }

    /// The texts of up to `max` messages that wait, without taking them.
    pub(super) async fn peek(&self, max: usize) -> Result<Vec<String>, Error> {
        self.made().await?;
        let wrong = |error: azure_core::Error| Failure::of("looking at a storage queue", &error).error();
        let number_of_messages = Some(i32::try_from(max).unwrap_or(i32::MAX));
        let options = QueueClientPeekMessagesOptions { number_of_messages, ..Default::default() };
        let answer = self.queue.peek_messages(Some(options)).await.map_err(wrong)?;
        let items = answer.into_model().map_err(wrong)?.items.unwrap_or_default();
        Ok(items.into_iter().filter_map(|item| item.message_text).collect())
    }

    /// Hides a message for `visible` from now, with another text if one is given. Returns the new pop receipt.
    pub(super) async fn update(
        &self,
        id: &str,
        pop_receipt: &str,
        visible: Duration,
        text: Option<String>,
    ) -> Result<String, Failure> {
        let action = "renewing a lease on a storage queue";
        let wrong = |error: azure_core::Error| Failure::of(action, &error);
        let message = text.map(|text| QueueMessage { message_text: Some(text) }.try_into());
        let queue_message = message.transpose().map_err(wrong)?;
        let options = QueueClientUpdateMessageOptions { queue_message, ..Default::default() };
        let updated = self.queue.update_message(id, pop_receipt, seconds(visible), Some(options)).await;
        let headers = updated.map_err(wrong)?;
        let unsaid = || Error::new(Kind::Unavailable, action, "the service did not say the new receipt");
        let receipt = headers.headers().get_optional_string(&POP_RECEIPT);
        receipt.ok_or_else(|| Failure::Other(unsaid()))
    }

    pub(super) async fn delete(&self, id: &str, pop_receipt: &str) -> Result<(), Failure> {
        let deleted = self.queue.delete_message(id, pop_receipt, None).await;
        deleted.map(drop).map_err(|error| Failure::of("deleting from a storage queue", &error))
    }

    /// About how many messages there are, hidden ones included.
    pub(super) async fn count(&self) -> Result<u64, Error> {
        self.made().await?;
        let wrong = |error: azure_core::Error| Failure::of("measuring a storage queue", &error).error();
        let properties = self.queue.get_properties(None).await.map_err(wrong)?;
        let count = properties.approximate_messages_count().map_err(wrong)?;
        Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    }
}

/// Whole seconds, rounded up, as the service takes them.
fn seconds(span: Duration) -> i32 {
    let span = span.min(LONGEST);
    let whole = span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0));
    i32::try_from(whole).unwrap_or(i32::MAX)
}
