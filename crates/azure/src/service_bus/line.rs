//! A connection to one entity, and the links of it, each made when it is first used: who only sends need not be allowed
//! to listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::SendError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::{Session, SessionHandle};
use fe2o3_amqp::types::definitions::{Fields, ReceiverSettleMode};
use fe2o3_amqp::types::messaging::{Body, Data, FilterSet, Message, Outcome, Source};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Symbol, Value};
use fe2o3_amqp::{Receiver, Sender};
use keyturn_domain::time::UnixMillis;
use tokio::sync::{Mutex, OnceCell, watch};

use super::asker::{Answer, Asker};
use super::dial::{Dialled, connect};
use super::failure::Wrong;
use super::home::Home;
use super::inbox::{Buffer, Inbox};
use super::sessions::Accepted;
use super::stream::Held;

/// After so many messages the connection is replaced: they are settled through `$management`, so the link itself never
/// hears of it and keeps their tags.
const WORN: u32 = 4096;

/// The link that messages come by.
pub(super) const INBOX: &str = "in";

const SESSION_FILTER: &str = "com.microsoft:session-filter";
const TIMEOUT: &str = "com.microsoft:timeout";

/// How long a refusal may come after a link was attached.
const REFUSAL: Duration = Duration::from_millis(500);

pub(super) struct Line {
    cbs: Asker,
    sender: OnceCell<Mutex<Sender>>,
    manager: OnceCell<Asker>,
    inbox: OnceCell<Inbox>,
    /// When a new token is put.
    refresh: Mutex<UnixMillis>,
    session: Mutex<SessionHandle<()>>,
    // Dropped last, which closes it.
    connection: Mutex<ConnectionHandle<()>>,
    broken: AtomicBool,
    proven: AtomicBool,
    leased: AtomicU32,
    is_cut: watch::Receiver<bool>,
    _held: Held,
}

impl Line {
    /// A connection that may use `entity`.
    pub(super) async fn open(home: &Home, entity: &str) -> Result<Self, Wrong> {
        let dialled = connect(&home.settings.namespace, &home.tls).await?;
        let mut watched = dialled.is_cut.clone();
        tokio::select! {
            line = Self::begin(home, entity, dialled) => line,
            _ = watched.wait_for(|cut| *cut) => Err(Wrong::silence("the connection broke")),
        }
    }

    async fn begin(home: &Home, entity: &str, dialled: Dialled) -> Result<Self, Wrong> {
        let Dialled { mut connection, is_cut, held } = dialled;
        let mut session = Session::begin(&mut connection).await?;
        let cbs = Asker::attach(&mut session, "$cbs", "cbs").await?;
        let line = Self {
            cbs,
            sender: OnceCell::new(),
            manager: OnceCell::new(),
            inbox: OnceCell::new(),
            refresh: Mutex::new(UnixMillis(0)),
            session: Mutex::new(session),
            connection: Mutex::new(connection),
            broken: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            leased: AtomicU32::new(0),
            is_cut,
            _held: held,
        };
        line.authorise(home, entity).await?;
        Ok(line)
    }

    /// Puts a token unless there is one that lasts.
    pub(super) async fn authorise(&self, home: &Home, entity: &str) -> Result<(), Wrong> {
        let mut refresh = self.refresh.lock().await;
        if home.clock.now() < *refresh {
            return Ok(());
        }
        let audience = home.settings.namespace.audience(entity);
        let token = home.access.token(&audience, home.clock.now()).await?;
        let properties = vec![
            ("operation", SimpleValue::String("put-token".to_owned())),
            ("type", SimpleValue::String(token.kind.to_owned())),
            ("name", SimpleValue::String(audience)),
        ];
        self.cbs.ask(properties, Value::String(token.text.as_str().to_owned())).await?.good()?;
        *refresh = UnixMillis(token.ends.0.saturating_sub(millis(home.settings.refresh)));
        Ok(())
    }

    /// Whether it is of no more use.
    pub(super) fn is_over(&self) -> bool {
        self.broken.load(Ordering::Acquire)
            || *self.is_cut.borrow()
            || self.leased.load(Ordering::Relaxed) >= WORN
            || self.inbox.get().is_some_and(|inbox| inbox.over().is_some())
    }

    /// Resolves when the connection is at its end.
    pub(super) async fn cut(&self) {
        // An error means that whoever would tell is gone, and the stream with them.
        drop(self.is_cut.clone().wait_for(|cut| *cut).await);
    }

    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether anything ever went well on it.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub(super) fn count(&self, leased: usize) {
        self.leased.fetch_add(u32::try_from(leased).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) async fn send(&self, entity: &str, message: Message<Data>) -> Result<(), Wrong> {
        let attach = async || {
            let mut session = self.session.lock().await;
            Ok::<_, Wrong>(Mutex::new(Sender::attach(&mut session, "out", entity).await?))
        };
        let sender = self.sender.get_or_try_init(attach).await?;
        let sent = sender.lock().await.send_batchable(message).await?;
        match sent.await? {
            Outcome::Accepted(_) => Ok(()),
            Outcome::Rejected(rejected) => {
                let told = rejected.error.as_ref().map(Wrong::closed);
                Err(told.unwrap_or_else(|| Wrong::silence("the message was rejected")))
            }
            _ => Err(Wrong::silence("the message was not taken")),
        }
    }

    /// The link that messages come by.
    pub(super) async fn inbox(
        &self,
        home: &Home,
        entity: &str,
        buffer: &Arc<Buffer>,
    ) -> Result<&Inbox, Wrong> {
        let attach = async || {
            let mut session = self.session.lock().await;
            let receiver = Receiver::builder()
                .name(INBOX)
                .source(entity)
                .target(INBOX)
                .receiver_settle_mode(ReceiverSettleMode::Second)
                .credit_mode(CreditMode::Manual)
                .attach(&mut session)
                .await?;
            Ok::<_, Wrong>(Inbox::serve(receiver, Arc::clone(buffer), Arc::clone(&home.clock)))
        };
        self.inbox.get_or_try_init(attach).await
    }

    /// A link to the next session that has messages and that nobody has; none if there is none within `wait`. On an AMQP
    /// session of its own: while it waits for its answer others go on, and whatever ends it ends nothing else.
    pub(super) async fn accept(
        &self,
        entity: &str,
        link: &str,
        wait: Duration,
    ) -> Result<Option<Accepted>, Wrong> {
        let mut session = Session::begin(&mut *self.connection.lock().await).await?;
        let mut filter = FilterSet::new();
        filter.insert(Symbol::from(SESSION_FILTER), Value::Null);
        let mut properties = Fields::new();
        let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        properties.insert(Symbol::from(TIMEOUT), Value::Uint(wait));
        let attached = Receiver::builder()
            .name(link)
            .source(Source::builder().address(entity).filter(filter).build())
            .target(link)
            .properties(properties)
            // A service that has no session answers with the filter as it was asked for.
            .verify_incoming_source(false)
            .receiver_settle_mode(ReceiverSettleMode::Second)
            .credit_mode(CreditMode::Manual)
            .attach(&mut session)
            .await;
        let wrong = match attached {
            Ok(mut receiver) => {
                let filter = receiver.source().as_ref().and_then(|source| source.filter.as_ref());
                match filter.and_then(|filter| filter.get(&Symbol::from(SESSION_FILTER))) {
                    Some(Value::String(id)) => {
                        let id = id.clone();
                        return Ok(Some(Accepted { id, receiver, session }));
                    }
                    // What it is refused with comes right behind.
                    _ => match receiver.recv::<Body<Value>>().await {
                        Err(error) => Wrong::from(error),
                        Ok(_) => Wrong::nonsense("a link to a session does not say which"),
                    },
                }
            }
            Err(error) => Wrong::from(error),
        };
        drop(session.end().await);
        if wrong.is_no_session() { Ok(None) } else { Err(wrong) }
    }

    /// Whether the queue lets somebody receive who asks for no session. Nothing is received.
    pub(super) async fn look(&self, entity: &str) -> Result<(), Wrong> {
        let mut session = Session::begin(&mut *self.connection.lock().await).await?;
        let mut receiver = Receiver::builder()
            .name("look")
            .source(entity)
            .target("look")
            .credit_mode(CreditMode::Manual)
            .attach(&mut session)
            .await?;
        // A refusal comes right behind the answer.
        let refused = tokio::time::timeout(REFUSAL, receiver.recv::<Body<Value>>()).await;
        drop(receiver.close().await);
        drop(session.end().await);
        match refused {
            Ok(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Attaches a link to send by, on an AMQP session of its own, sends nothing, and lets go of it.
    pub(super) async fn may_send(&self, entity: &str) -> Result<(), Wrong> {
        let mut session = Session::begin(&mut *self.connection.lock().await).await?;
        let mut sender = Sender::attach(&mut session, "may-send", entity).await?;
        // A refusal comes right behind the answer.
        let refused = tokio::time::timeout(REFUSAL, sender.on_detach()).await;
        drop(sender.close().await);
        drop(session.end().await);
        match refused {
            Ok(error) => Err(SendError::Detached(error).into()),
            Err(_) => Ok(()),
        }
    }

    /// An operation of `$management` (learn.microsoft.com/azure/service-bus-messaging, "AMQP request-response-based
    /// operations").
    pub(super) async fn manage(
        &self,
        entity: &str,
        operation: &str,
        link: &str,
        body: Vec<(&str, Value)>,
    ) -> Result<Answer, Wrong> {
        let attach = async || {
            let mut session = self.session.lock().await;
            Asker::attach(&mut session, &format!("{entity}/$management"), "manage").await
        };
        let manager = self.manager.get_or_try_init(attach).await?;
        let mut map = OrderedMap::new();
        for (name, value) in body {
            map.insert(Value::String(name.to_owned()), value);
        }
        let properties = vec![
            ("operation", SimpleValue::String(format!("com.microsoft:{operation}"))),
            ("associated-link-name", SimpleValue::String(link.to_owned())),
        ];
        manager.ask(properties, Value::Map(map)).await?.good()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
