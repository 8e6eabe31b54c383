//! The link that messages come by. The service sends as many as it is given credit for, whenever it has them. Credit
//! cannot be taken back safely: what is on its way by then would break the link. So at most one lease's worth of it is
//! out at a time, and what comes between two leases waits here for the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fe2o3_amqp::Receiver;
use fe2o3_amqp::types::messaging::Body;
use fe2o3_amqp::types::primitives::Value;
use keyturn_domain::clock::Clock;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::failure::Wrong;
use super::message::Received;

/// Messages that came and were not handed out yet. Their locks outlive the connection, and so do they.
#[derive(Default)]
pub(super) struct Buffer {
    ready: Mutex<VecDeque<Received>>,
    /// Rung when one comes, and when the link ends.
    pub(super) bell: Notify,
}

impl Buffer {
    pub(super) fn pop(&self) -> Option<Received> {
        self.lock().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn push(&self, received: Received) {
        self.lock().push_back(received);
        self.bell.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Received>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link that is served by a task of its own.
pub(super) struct Inbox {
    wants: mpsc::UnboundedSender<u32>,
    over: Arc<Mutex<Option<Wrong>>>,
    task: JoinHandle<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inbox {
    /// Serves a link; what comes by it goes into `buffer`.
    pub(super) fn serve(receiver: Receiver, buffer: Arc<Buffer>, clock: Arc<dyn Clock>) -> Self {
        let (wants, wanted) = mpsc::unbounded_channel();
        let over = Arc::new(Mutex::new(None));
        let ends = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let wrong = serve(receiver, wanted, &buffer, &*clock).await;
            *ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
            buffer.bell.notify_waiters();
        });
        Self { wants, over, task }
    }

    /// So many messages may come from now on, unless more may come already.
    pub(super) fn want(&self, credit: u32) {
        // The task is gone only when the link is over, which `over` tells.
        let _ = self.wants.send(credit);
    }

    /// What the link ended with, if it did.
    pub(super) fn over(&self) -> Option<Wrong> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    mut receiver: Receiver,
    mut wanted: mpsc::UnboundedReceiver<u32>,
    buffer: &Buffer,
    clock: &dyn Clock,
) -> Wrong {
    let mut out = 0_u32;
    loop {
        let received = tokio::select! {
            credit = wanted.recv() => match credit {
                Some(credit) if credit <= out => continue,
                Some(credit) => {
                    if let Err(error) = receiver.set_credit(credit).await {
                        return error.into();
                    }
                    out = credit;
                    continue;
                }
                None => return Wrong::silence("the link was given up"),
            },
            received = receiver.recv::<Body<Value>>() => received,
        };
        out = out.saturating_sub(1);
        match received {
            Ok(delivery) => match Received::read(delivery, clock.now()) {
                Some(received) => buffer.push(received),
                None => return Wrong::nonsense("a message came without its lock token"),
            },
            Err(error) => return error.into(),
        }
    }
}
