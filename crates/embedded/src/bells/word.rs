//! What one process tells another.

use keyturn_domain::ids::RequestId;
use keyturn_ports::queue::QueueName;

use crate::signals::Woken;

/// Which form follows.
const VERSION: u8 = 1;
/// Of more results at once, all are worth a look.
const RESULTS: usize = 256;
/// The longest name of a socket.
const NAME: usize = 255;
/// Version, the name with its length, kind, queues, results with their number.
pub(super) const LONGEST: usize = 1 + 1 + NAME + 1 + QUEUES * 9 + RESULTS * REQUEST;
/// Bytes of a message's id.
const REQUEST: usize = 32;
const QUEUES: usize = QueueName::ALL.len();

const HELLO: u8 = 0;
const OF: u8 = 1;
const ANYTHING: u8 = 2;

/// A word of a process that has a socket of this name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) from: String,
    /// None if it only says hello.
    pub(super) news: Option<News>,
}

/// What was committed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This.
    Of(Woken),
    /// It is not known what.
    Anything,
}

impl Word {
    pub(super) fn hello(from: String) -> Self {
        Self { from, news: None }
    }

    pub(super) fn of(from: String, woken: &Woken) -> Self {
        let news = if woken.results().len() > RESULTS { News::Anything } else { News::Of(woken.clone()) };
        Self { from, news: Some(news) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, u8::try_from(self.from.len()).unwrap_or(0)];
        bytes.extend(self.from.as_bytes());
        match &self.news {
            None => bytes.push(HELLO),
            Some(News::Anything) => bytes.push(ANYTHING),
            Some(News::Of(woken)) => {
                bytes.push(OF);
                for queue in QueueName::ALL {
                    bytes.push(woken.rings(queue).into());
                    bytes.extend(woken.last(queue).to_be_bytes());
                }
                woken.results().iter().for_each(|request| bytes.extend(request.as_bytes()));
            }
        }
        bytes
    }

    /// None if it is none of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first()?;
        let (length, bytes) = bytes.split_first()?;
        let (from, bytes) = bytes.split_at_checked((*length).into())?;
        let (kind, bytes) = bytes.split_first()?;
        let from = String::from_utf8(from.to_vec()).ok()?;
        let news = match (version, kind, bytes) {
            (&VERSION, &HELLO, []) => None,
            (&VERSION, &ANYTHING, []) => Some(News::Anything),
            (&VERSION, &OF, bytes) => Some(News::Of(woken(bytes)?)),
            _ => return None,
        };
        Some(Self { from, news })
    }
}

fn woken(mut bytes: &[u8]) -> Option<Woken> {
    let mut woken = Woken::default();
    for queue in QueueName::ALL {
        let (rings, rest) = bytes.split_first()?;
        let (last, rest) = rest.split_first_chunk()?;
        if *rings == 1 {
            woken.sent(queue, i64::from_be_bytes(*last));
        }
        bytes = rest;
    }
    for request in bytes.chunks(REQUEST) {
        woken.result(RequestId::from_slice(request)?);
    }
    Some(woken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u8) -> RequestId {
        RequestId::from_slice(&[number; REQUEST]).unwrap()
    }

    fn all() -> Vec<Word> {
        let mut woken = Woken::default();
        woken.sent(QueueName::Requests, 12);
        woken.again(QueueName::Alarms);
        woken.result(request(1));
        woken.result(request(2));
        let mut many = Woken::default();
        (0..=RESULTS).for_each(|_| many.result(request(3)));
        let from = || "keyturn.db.bell-0123456789abcdef".to_owned();
        vec![Word::hello(from()), Word::of(from(), &woken), Word::of(from(), &many)]
    }

    #[test]
    fn words_survive_the_way() {
        for word in all() {
            let encoded = word.encode();
            assert!(encoded.len() <= LONGEST);
            assert_eq!(Word::decode(&encoded), Some(word));
        }
        assert_eq!(all()[2].news, Some(News::Anything));
    }

    #[test]
    fn what_was_cut_or_grew_is_not_taken_for_a_word() {
        for word in all() {
            let encoded = word.encode();
            // A word without its last result is one of fewer results.
            let whole = |length: usize| {
                matches!(word.news, Some(News::Of(_))) && (encoded.len() - length).is_multiple_of(REQUEST)
            };
            for length in (0..encoded.len()).filter(|length| !whole(*length)) {
                assert_eq!(Word::decode(&encoded[..length]), None, "{length} of {word:?}");
            }
            assert_eq!(Word::decode(&[encoded, vec![0]].concat()), None);
        }
    }
}
