//! Queues that require sessions (learn.microsoft.com/azure/service-bus-messaging/message-sessions): the messages of one
//! device are one session, and a session is had by one receiver at a time.
//!
//! Each session is a link of its own, on an AMQP session of its own, and has credit for one message: the next comes when
//! that one is settled, so that of one device nothing is worked on twice at once, and in the order in which it was sent.
//! What is put off for a while is a scheduled copy, and comes after what was sent meanwhile.
//!
//! The lock is the session's, and belongs to the connection: a session whose link ended is lost with everything leased
//! from it, and whoever gets it next gets those messages too. A session without a message for a while is given back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::types::primitives::Value;
use keyturn_domain::time::UnixMillis;
use tokio::sync::Notify;

use super::SessionSettings;
use super::failure::Wrong;
use super::home::Home;
use super::inbox::Buffer;
use super::line::Line;
use super::message::Received;
use crate::failure::{Failure, Refused};

/// How long a link may take to close.
const CLOSING: Duration = Duration::from_secs(5);

/// A session that this process has, until its link ends.
pub(super) struct Grip {
    id: String,
    link: String,
    line: Arc<Line>,
    home: Arc<Home>,
    entity: String,
    over: AtomicBool,
    /// Rung when the message in hand is settled, or the session is to be given back.
    done: Notify,
    /// Since when its lock runs, at the latest.
    since: Mutex<UnixMillis>,
}

impl Grip {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The message in hand is dealt with, and the next one may come.
    pub(super) fn done(&self) {
        self.done.notify_one();
    }

    /// Gives the session back, whatever is in hand.
    pub(super) fn give_up(&self) {
        self.over.store(true, Ordering::Release);
        self.done.notify_one();
    }

    pub(super) fn since(&self) -> UnixMillis {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the lock last for the queue's lock duration from now.
    pub(super) async fn renew(&self) -> Result<(), Wrong> {
        let asked = self.home.clock.now();
        self.manage("renew-session-lock", vec![("session-id", Value::String(self.id.clone()))]).await?;
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// An operation on what is leased from the session, which names it.
    pub(super) async fn settle(
        &self,
        name: &'static str,
        mut body: Vec<(&'static str, Value)>,
    ) -> Result<(), Wrong> {
        body.push(("session-id", Value::String(self.id.clone())));
        self.manage(name, body).await
    }

    /// On the connection that has the session and on no other. After an unknown outcome the session is given back, since
    /// its link may be gone as well: what was not done comes again.
    async fn manage(&self, name: &'static str, body: Vec<(&'static str, Value)>) -> Result<(), Wrong> {
        let (home, mut made) = (&*self.home, 1);
        loop {
            if self.is_over() {
                return Err(Wrong::LeaseLost);
            }
            home.wait_for_quiet().await;
            let asking = async {
                self.line.authorise(home, &self.entity).await?;
                self.line.manage(&self.entity, name, &self.link, body.clone()).await
            };
            let asked = tokio::select! {
                asked = tokio::time::timeout(home.settings.timeout, asking) => asked,
                () = self.line.cut() => Ok(Err(Wrong::silence("the connection broke"))),
            };
            let asked = asked.unwrap_or_else(|_| Err(Wrong::silence("no answer in time")));
            let Err(wrong) = asked else { return Ok(()) };
            match &wrong {
                Wrong::Failed(failure @ Failure::Refused(Refused { status: 503, .. })) => {
                    let Some(pause) = home.settings.attempts.pause(made, failure, &*home.entropy) else {
                        return Err(wrong);
                    };
                    home.hush(pause);
                    made += 1;
                }
                Wrong::TooLarge => return Err(wrong),
                Wrong::LeaseLost => {
                    self.give_up();
                    return Err(Wrong::LeaseLost);
                }
                Wrong::Failed(_) => {
                    self.line.give_up();
                    self.give_up();
                    return Err(Wrong::LeaseLost);
                }
            }
        }
    }
}

/// A link to a session.
pub(super) struct Accepted {
    pub(super) id: String,
    pub(super) receiver: Receiver,
    pub(super) session: SessionHandle<()>,
}

/// The sessions of one queue that this process has or waits for.
pub(super) struct Sessions {
    settings: SessionSettings,
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    held: usize,
    accepting: usize,
    /// How many more would be of use.
    wanted: usize,
    /// What an accept ended with that nobody was told yet.
    failed: Option<Wrong>,
}

/// What a task needs that has a session.
#[derive(Clone)]
pub(super) struct Taker {
    pub(super) home: Arc<Home>,
    pub(super) entity: String,
    pub(super) buffer: Arc<Buffer>,
    pub(super) line: Arc<Line>,
    /// How long a link waits for a session.
    pub(super) patience: Duration,
}

impl Sessions {
    pub(super) fn new(settings: SessionSettings) -> Self {
        Self { settings, state: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// What went wrong since this was asked last.
    pub(super) fn failed(&self) -> Option<Wrong> {
        self.lock().failed.take()
    }

    /// So many more sessions would be of use. While there are none, one link waits for one; with each that comes, one
    /// more is asked for at once than there are, up to the bound of the settings.
    ///
    /// Nothing more is asked for by itself once nobody wants any: a session that nobody works on keeps its device from
    /// others.
    pub(super) fn want(self: &Arc<Self>, sessions: usize, taker: &Taker) {
        self.lock().wanted = sessions;
        self.ask(taker);
    }

    /// Whoever wanted sessions has what there is.
    pub(super) fn want_no_more(&self) {
        self.lock().wanted = 0;
    }

    fn ask(self: &Arc<Self>, taker: &Taker) {
        let more = {
            let mut state = self.lock();
            let free = self.settings.held.saturating_sub(state.held + state.accepting);
            let at_once = (state.held + 1).min(state.wanted).saturating_sub(state.accepting);
            let more = if taker.line.is_over() { 0 } else { free.min(at_once) };
            state.accepting += more;
            more
        };
        for _ in 0..more {
            let (this, taker) = (Arc::clone(self), taker.clone());
            tokio::spawn(async move { this.take(taker).await });
        }
    }

    async fn take(self: Arc<Self>, taker: Taker) {
        let link = format!("in-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut place = Place { sessions: &self, holds: false };
        let asked = taker.home.clock.now();
        let accepted = tokio::select! {
            accepted = taker.line.accept(&taker.entity, &link, taker.patience) => accepted,
            () = taker.line.cut() => Err(Wrong::silence("the connection broke")),
        };
        let accepted = match accepted {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return,
            Err(wrong) => {
                self.lock().failed = Some(wrong);
                taker.buffer.bell.notify_waiters();
                return;
            }
        };
        place.hold();
        self.ask(&taker);
        let grip = Arc::new(Grip {
            id: accepted.id,
            link,
            line: Arc::clone(&taker.line),
            home: Arc::clone(&taker.home),
            entity: taker.entity.clone(),
            over: AtomicBool::new(false),
            done: Notify::new(),
            since: Mutex::new(asked),
        });
        let mut receiver = accepted.receiver;
        let _ends = Ends(&grip);
        tokio::select! {
            () = self.serve(&mut receiver, &grip, &taker) => {}
            () = taker.line.cut() => return,
        }
        grip.give_up();
        let mut session = accepted.session;
        let closing = async {
            drop(receiver.close().await);
            drop(session.end().await);
        };
        drop(tokio::time::timeout(CLOSING, closing).await);
        drop(place);
        self.ask(&taker);
    }

    /// One message after the other, until none comes for a while or the link ends.
    async fn serve(&self, receiver: &mut Receiver, grip: &Arc<Grip>, taker: &Taker) {
        while !grip.is_over() && !taker.line.is_over() && receiver.set_credit(1).await.is_ok() {
            let received = tokio::time::timeout(self.settings.idle, receiver.recv::<Body<Value>>()).await;
            let Ok(Ok(delivery)) = received else { return };
            let Some(received) = Received::read(delivery, taker.home.clock.now()) else { return };
            taker.buffer.push(Received { session: Some(Arc::clone(grip)), ..received });
            // Without credit nothing comes but the end.
            tokio::select! {
                () = grip.done.notified() => {}
                _ = receiver.recv::<Body<Value>>() => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a task in the count, also when it is dropped.
struct Place<'a> {
    sessions: &'a Sessions,
    holds: bool,
}

impl Place<'_> {
    fn hold(&mut self) {
        let mut state = self.sessions.lock();
        state.accepting = state.accepting.saturating_sub(1);
        state.held += 1;
        state.wanted = state.wanted.saturating_sub(1);
        self.holds = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        let count = if self.holds { &mut state.held } else { &mut state.accepting };
        *count = count.saturating_sub(1);
    }
}

/// A session is over when the task is that has its link, however that ends.
struct Ends<'a>(&'a Grip);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
