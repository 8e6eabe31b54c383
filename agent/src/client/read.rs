//! What the server's answers mean, by status, media type and body.

use keyturn_schemas::nonce::Nonce;
use keyturn_schemas::problem::{self, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Attempt, Error, Polled, Ticket, Unusable};
use crate::transport::{JOSE, Reply};

/// The code of the problem "the nonce is not fresh".
const STALE_NONCE: &str = "KT-0108";

#[derive(Deserialize)]
struct NonceBody {
    nonce: Nonce,
}

#[derive(Deserialize)]
struct Accepted {
    ticket: String,
}

/// 202 with a ticket is a yes, a problem of the 4xx kind a no; anything else leaves the message's fate unknown.
pub(super) fn post(reply: &Reply) -> Result<Attempt<Ticket>, Error> {
    match reply.status {
        202 => Ok(parse::<Accepted>(reply)
            .and_then(|body| Ticket::parse(body.ticket))
            .map_or_else(|| again(reply), Attempt::Done)),
        408 | 429 => Ok(again(reply)),
        400..=499 => match problem_of(reply) {
            Some(problem) if problem.code == STALE_NONCE => Err(Error::StaleNonce),
            Some(problem) => Err(Error::Rejected(Box::new(problem))),
            None => Ok(again(reply)),
        },
        _ => Ok(again(reply)),
    }
}

/// The nonce in the body of an answer to a call for one.
pub(super) fn nonce(reply: &Reply) -> Option<Nonce> {
    parse::<NonceBody>(reply).map(|body| body.nonce)
}

/// The nonce in a header, or in the problem that says that the last one was stale.
pub(super) fn offered_nonce(reply: &Reply) -> Option<Nonce> {
    let header = reply.nonce.as_deref().and_then(|text| text.parse().ok());
    header.or_else(|| problem_of(reply)?.nonce?.parse().ok())
}

/// What a poll brought.
pub(super) fn poll(reply: Reply) -> Polled {
    match reply.status {
        200 if reply.media_type == JOSE => String::from_utf8(reply.body)
            .map_or(Polled::Odd(200), |text| Polled::Result(text.trim().to_owned())),
        202 => Polled::Pending(reply.retry_after),
        403 => problem_of(&reply).map_or(Polled::Odd(403), Polled::Refused),
        404 | 410 if problem_of(&reply).is_some() => Polled::Gone,
        429 | 503 => Polled::Busy(reply.retry_after),
        status => Polled::Odd(status),
    }
}

/// Not a usable answer: what to make of it.
pub(super) fn again<T>(reply: &Reply) -> Attempt<T> {
    match reply.status {
        429 | 503 => Attempt::Again(Unusable::Busy, reply.retry_after),
        status => Attempt::Again(Unusable::Odd(status), None),
    }
}

fn problem_of(reply: &Reply) -> Option<Problem> {
    serde_json::from_slice(&reply.body).ok().filter(|_| reply.media_type == problem::MEDIA_TYPE)
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Option<T> {
    serde_json::from_slice(&reply.body).ok()
}
