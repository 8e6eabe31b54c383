//! Requests and their answers over a pair of links: `$cbs`, and `$management` of an entity.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Value};
use fe2o3_amqp::{Receiver, Sender};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use super::failure::Wrong;

/// Answers that may be under way at once.
const ANSWERS: u32 = 128;

type Waiting = Arc<StdMutex<State>>;

/// Whoever waits for an answer, by the number of the request; or what the link ended with.
#[derive(Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<Result<Answer, Wrong>>>,
    over: Option<Wrong>,
}

/// What came back.
pub(super) struct Answer {
    status: i32,
    condition: Option<String>,
    /// Its body; null if it has none.
    pub(super) body: Value,
}

impl Answer {
    /// The answer, if it says that the request was done. Nothing to be found is an answer as well.
    pub(super) fn good(self) -> Result<Self, Wrong> {
        match self.status {
            200..=299 => Ok(self),
            status => Err(Wrong::answered(status, self.condition.as_deref())),
        }
    }
}

/// A pair of links.
pub(super) struct Asker {
    sender: Mutex<Sender>,
    state: Waiting,
    reply_to: String,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Asker {
    /// Links to `node`; `name` is theirs on this session.
    pub(super) async fn attach(
        session: &mut SessionHandle<()>,
        node: &str,
        name: &str,
    ) -> Result<Self, Wrong> {
        let sender = Sender::attach(session, format!("{name}-out"), node).await?;
        let reply_to = format!("{name}-in");
        let receiver = Receiver::builder()
            .name(reply_to.clone())
            .source(node)
            .target(reply_to.clone())
            .credit_mode(CreditMode::Auto(ANSWERS))
            .auto_accept(true)
            .attach(session)
            .await?;
        let state = Waiting::default();
        let reader = tokio::spawn(read(receiver, Arc::clone(&state)));
        Ok(Self { sender: Mutex::new(sender), state, reply_to, next: AtomicU64::new(1), reader })
    }

    /// Sends a request and awaits its answer.
    pub(super) async fn ask(
        &self,
        properties: Vec<(&str, SimpleValue)>,
        body: Value,
    ) -> Result<Answer, Wrong> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (told, answer) = oneshot::channel();
        {
            let mut state = lock(&self.state);
            if let Some(over) = &state.over {
                return Err(over.clone());
            }
            state.waiting.insert(number, told);
        }
        // Whoever asked may be gone before the answer comes.
        let _forgotten = Forget { state: &self.state, number };
        let mut all = OrderedMap::new();
        for (name, value) in properties {
            all.insert(name.to_owned(), value);
        }
        let about = Properties::builder()
            .message_id(MessageId::String(number.to_string()))
            .reply_to(self.reply_to.clone())
            .build();
        let message = Message::builder()
            .properties(about)
            .application_properties(ApplicationProperties(all))
            .body(AmqpValue(body))
            .build();
        let sent = self.sender.lock().await.send_batchable(message).await?;
        match sent.await? {
            Outcome::Accepted(_) => {}
            Outcome::Rejected(rejected) => {
                let told = rejected.error.as_ref().map(Wrong::closed);
                return Err(told.unwrap_or_else(|| Wrong::silence("the request was rejected")));
            }
            _ => return Err(Wrong::silence("the request was not taken")),
        }
        answer.await.unwrap_or_else(|_| Err(Wrong::silence("the connection broke")))
    }
}

struct Forget<'a> {
    state: &'a Waiting,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.state).waiting.remove(&self.number);
    }
}

fn lock(state: &Waiting) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut receiver: Receiver, state: Waiting) {
    let over = loop {
        match receiver.recv::<Body<Value>>().await {
            Ok(delivery) => {
                let message = delivery.into_message();
                let number = match message.properties.as_ref().and_then(|about| about.correlation_id.as_ref())
                {
                    Some(MessageId::String(text)) => text.parse().ok(),
                    _ => None,
                };
                let waiting = number.and_then(|number: u64| lock(&state).waiting.remove(&number));
                if let Some(told) = waiting {
                    drop(told.send(read_answer(message)));
                }
            }
            Err(error) => break Wrong::from(error),
        }
    };
    let mut state = lock(&state);
    state.over = Some(over.clone());
    for (_, told) in state.waiting.drain() {
        drop(told.send(Err(over.clone())));
    }
}

fn read_answer(message: Message<Body<Value>>) -> Result<Answer, Wrong> {
    let properties = message.application_properties.map(|all| all.0).unwrap_or_default();
    let find = |names: [&str; 2]| names.into_iter().find_map(|name| properties.get(name));
    let status = match find(["statusCode", "status-code"]) {
        Some(SimpleValue::Int(status)) => *status,
        _ => return Err(Wrong::nonsense("an answer has no status")),
    };
    let condition = match find(["errorCondition", "error-condition"]) {
        Some(SimpleValue::Symbol(symbol)) => Some(symbol.as_str().to_owned()),
        Some(SimpleValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let body = match message.body {
        Body::Value(AmqpValue(value)) => value,
        _ => Value::Null,
    };
    Ok(Answer { status, condition, body })
}
