//! What this identity may do with a queue, tried so that nobody's messages are touched.
//!
//! A role of Azure lets its holder put and update messages by one action (`messages/write`), or put them alone
//! (`messages/add/action`); a shared access signature tells all of them apart
//! (learn.microsoft.com/azure/storage/queues/queues-auth-abac-attributes).

use std::time::Duration;

use keyturn_ports::Error;
use keyturn_ports::queue::QueueName;

use super::StorageQueues;
use super::client::Received;
use super::failure::Failure;

/// A message and a receipt that nobody has, of the form that the service gives them.
const NOBODYS: (&str, &str) = ("00000000-0000-4000-8000-000000000000", "AgAAAAMAAAAAAAAAAAAAAAAAAAA=");

/// What says whose it is: a worker that comes by in the last second of it takes it away.
const TEXT: &str = "keyturn doctor: whether messages may be sent; nothing is to be done";

/// How long a message of a trial is there, and hidden, should it not be deleted. The service wants the second to be less.
const LASTS: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(59));

impl StorageQueues {
    /// Whether this identity may renew, put off and delete messages of a queue: it tries that with one that nobody has.
    ///
    /// # Errors
    /// [`keyturn_ports::Kind::Denied`] if it may not, and whatever else the service says but that there is no such message.
    pub async fn may_settle(&self, queue: QueueName) -> Result<(), Error> {
        let client = &self.pair(queue).queue;
        let (id, receipt) = NOBODYS;
        let missed = |tried: Result<(), Failure>| match tried {
            Ok(()) | Err(Failure::LeaseLost) => Ok(()),
            Err(Failure::Other(error)) => Err(error),
        };
        missed(client.update(id, receipt, Duration::ZERO, None).await.map(drop))?;
        missed(client.delete(id, receipt).await)
    }

    /// Whether this identity may send to a queue: a message is put there, hidden from the start, and deleted. Who may send
    /// and not delete leaves it to the service, which lets it run out within a minute.
    ///
    /// # Errors
    /// What the service said.
    pub async fn try_sending(&self, queue: QueueName) -> Result<(), Error> {
        let client = &self.pair(queue).queue;
        let (id, receipt) = client.put_hidden(TEXT.to_owned(), LASTS).await?;
        // Whether it may be deleted is another question.
        drop(client.delete(&id, &receipt).await);
        Ok(())
    }

    /// What was received without what is there for a trial. The service has no message hidden for all of its life, so whoever
    /// could not delete one leaves it visible for a second: it is nobody's work, and no dead letter.
    pub(super) async fn without_trials(&self, queue: QueueName, received: Vec<Received>) -> Vec<Received> {
        let (trials, meant): (Vec<_>, Vec<_>) = received.into_iter().partition(|one| one.text == TEXT);
        for trial in trials {
            // If that fails it runs out within the second.
            drop(self.pair(queue).queue.delete(&trial.id, &trial.receipt).await);
        }
        meant
    }
}
