//! Wake-ups between processes: LISTEN and NOTIFY.
//!
//! A commit that notifies takes a lock of the whole cluster until it is on disk, so that commits which do would go to
//! the disk one by one. Notifications therefore never go with the writes they tell of: a task sends them after the
//! commit, in a transaction of their own that waits for no disk, and puts together what came up meanwhile. What is
//! lost with a process is found by those who look from time to time. See docs/decisions/0023-wake-ups-on-postgresql.md.

use std::sync::{Arc, Weak};
use std::time::Duration;

use keyturn_ports::Kind;
use tokio_postgres::AsyncMessage;
use tracing::{debug, info, warn};

use crate::failure::Failure;
use crate::pool::{Dialer, Session};
use crate::signals::{Signals, Woken};

/// The channel of the deployment. Databases of one cluster have channels of their own.
const CHANNEL: &str = "keyturn";

/// How long a listener that lost its connection waits before it makes the next one.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a listener that hears nothing asks whether its connection still lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The task that listens and tells, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Listener(tokio::task::JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// Listens on a connection of its own, which is made anew whenever it is lost.
    pub(crate) fn start(dialer: Dialer, signals: &Arc<Signals>) -> Self {
        Self(tokio::spawn(listen_for_good(dialer, Arc::downgrade(signals))))
    }
}

async fn listen_for_good(dialer: Dialer, signals: Weak<Signals>) {
    let mut lost = false;
    while let Some(bells) = signals.upgrade() {
        match listen(&dialer, &bells, lost).await {
            Ok(()) => return,
            Err(failure) if lost => debug!(error = %failure, "still no connection for wake-ups"),
            Err(failure) => {
                warn!(error = %failure, "the connection for wake-ups is lost; looking from time to time");
            }
        }
        lost = true;
        drop(bells);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(dialer: &Dialer, signals: &Arc<Signals>, lost: bool) -> Result<(), Failure> {
    let (client, wire) = dialer.dial().await?;
    let own = Arc::clone(signals);
    let mut driving = tokio::spawn(wire.drive(move |message| {
        if let AsyncMessage::Notification(notification) = message
            && notification.channel() == CHANNEL
        {
            own.ring(Woken::heard(notification.payload()));
        }
    }));
    let session = Session::settled_in(client, &dialer.settings().limits).await?;
    session.client().batch_execute("SET synchronous_commit = off; LISTEN keyturn").await?;
    if lost {
        info!("the connection for wake-ups is back");
    }
    // What was written before this connection listened was not heard.
    signals.ring_all();
    let ended = tokio::select! {
        told = tell(&session, signals) => told,
        _ = &mut driving => Err(Failure::new(Kind::Unavailable, "the server closed it")),
    };
    driving.abort();
    ended
}

/// Tells the others what this process wrote, until the connection fails.
async fn tell(session: &Session, signals: &Signals) -> Result<(), Failure> {
    let notify = session.prepare("SELECT pg_notify('keyturn', $1)").await?;
    loop {
        match tokio::time::timeout(HEARTBEAT, signals.next_to_tell()).await {
            Ok(woken) => {
                session.client().query_one(&notify, &[&woken.told()]).await?;
            }
            Err(_) => session.client().batch_execute("").await?,
        }
    }
}
