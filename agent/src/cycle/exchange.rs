//! One message and its answer: signed, posted, polled for, checked.

use std::time::Duration;

use keyturn_domain::ids::RequestId;
use keyturn_schemas::claims::Common;
use keyturn_schemas::message::Claims;
use keyturn_schemas::result::Answer;

use super::{Error, Run};
use crate::answer::{self, Expected, Rejection};
use crate::client::{self, Endpoint, Polled, Ticket};
use crate::events;
use crate::identity::Signed;

/// How often a message is signed anew because its nonce was not fresh any more.
const SIGNINGS: u32 = 3;

/// A message the server took.
pub(super) struct Sent {
    pub(super) rid: RequestId,
    ticket: Ticket,
    /// When it was first sent, by the monotonic clock.
    posted: Duration,
    /// How long its answer is waited for from then on.
    wait: Duration,
}

/// What waiting for an answer came to.
pub(super) enum Waited {
    Answered(Answer),
    Refused,
    Gone,
}

impl Run {
    /// Signs and posts a message, anew if its nonce is not fresh any more. `draft` gives what it says and what
    /// goes with it.
    pub(super) async fn send<T>(
        &self,
        endpoint: Endpoint,
        wait: Duration,
        draft: impl Fn(Common) -> Result<(Claims, T), Error>,
    ) -> Result<(Sent, T), Error> {
        let context = &*self.context;
        for _ in 0..SIGNINGS {
            let nonce = context.client.nonce().await?;
            let common = self.speaker.common(&context.settings, nonce, &*context.clock, &*context.entropy);
            let (claims, kept) = draft(common)?;
            let Signed { rid, text } = context.settings.identity.sign(&claims).await?;
            let posted = context.clock.monotonic();
            match context.client.post(endpoint, &text).await {
                Ok(ticket) => return Ok((Sent { rid, ticket, posted, wait }, kept)),
                Err(client::Error::StaleNonce) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(client::Error::StaleNonce.into())
    }

    /// Polls until a genuine answer that `accept` takes, a refusal, or the end of patience. Answers that cannot
    /// be trusted are as good as none, and only the first of them is logged.
    pub(super) async fn wait_for(
        &self,
        sent: &Sent,
        mut accept: impl FnMut(&Answer) -> Result<(), Rejection>,
    ) -> Result<Waited, Error> {
        let client = &self.context.client;
        let mut failures = 0;
        let mut warned = false;
        loop {
            let left = sent.wait.saturating_sub(self.age(sent));
            if left.is_zero() {
                return Err(Error::NoAnswer(sent.wait));
            }
            let pause = match client.poll(&sent.ticket, left).await {
                Ok(Polled::Result(text)) => match self.check(&text, sent.rid, &mut accept) {
                    Ok(answer) => return Ok(Waited::Answered(answer)),
                    Err(rejection) => {
                        if !std::mem::replace(&mut warned, true) {
                            events::unusable_answer(sent.rid, &rejection);
                        }
                        None
                    }
                },
                Ok(Polled::Refused(_)) => return Ok(Waited::Refused),
                Ok(Polled::Gone) => return Ok(Waited::Gone),
                Ok(Polled::Pending(after)) => {
                    failures = 0;
                    Some(after.unwrap_or_default().max(client.pause(0)))
                }
                Ok(Polled::Busy(after)) => Some(after.unwrap_or_default().max(client.pause(failures))),
                Ok(Polled::Odd(status)) => {
                    events::retry(
                        "The poll",
                        failures,
                        &format_args!("status {status} is no answer of a Keyturn server"),
                    );
                    None
                }
                Err(error) => {
                    events::retry("The poll", failures, &error);
                    None
                }
            };
            failures += 1;
            tokio::time::sleep(pause.unwrap_or_else(|| client.pause(failures)).min(left)).await;
        }
    }

    fn check(
        &self,
        text: &str,
        rid: RequestId,
        accept: &mut impl FnMut(&Answer) -> Result<(), Rejection>,
    ) -> Result<Answer, Rejection> {
        let context = &*self.context;
        let expected = Expected { deployment: &context.settings.deployment, rid, lane: self.lane };
        let answer = answer::check(text, expected, &context.client.keys().trusted(context.clock.now()))?;
        accept(&answer)?;
        Ok(answer)
    }

    pub(super) fn age(&self, sent: &Sent) -> Duration {
        self.context.clock.monotonic().saturating_sub(sent.posted)
    }
}
