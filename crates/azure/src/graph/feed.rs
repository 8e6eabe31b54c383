//! The feed of changes: `GET /v1.0/devices/delta` (learn.microsoft.com/graph/api/device-delta), page by page.
//!
//! The first page is asked for with a selection; every other one by the address that the page before it gave
//! (`@odata.nextLink` within a round, `@odata.deltaLink` at its end), which is used as it is, but at our own host alone.
//! A place that Graph does not take any more (410, or 400 for an address that it gave itself) means to begin anew
//! (learn.microsoft.com/graph/delta-query-overview).

use azure_core::http::Url;
use keyturn_domain::ids::ObjectId;
use keyturn_ports::Error;
use keyturn_ports::roster::{Change, KEPT, PLACE_BYTES};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{GraphDirectory, Trouble, corrupt};
use crate::failure::{Failure, Refused};
use crate::transport::HttpsUrl;

const READING: &str = "reading what changed in Microsoft Graph";

/// Where devices are at Graph; places of the feed are nowhere else.
const DEVICES: &str = "/v1.0/devices";

/// A page of the feed.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// What it says, in its order.
    pub changes: Vec<Change>,
    /// What comes after it.
    pub next: Link,
    /// Entries that have no id and are passed over.
    pub unread: usize,
}

/// What comes after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Another page, at this place.
    More(String),
    /// The next round, at this place.
    Done(String),
    /// Nothing: Graph does not know the place that was asked for.
    Lost,
}

impl GraphDirectory {
    /// The page at a place, or the first one.
    ///
    /// # Errors
    /// As a look-up. Nothing of a page that cannot be read whole is told.
    pub async fn changes(&self, place: Option<&str>) -> Result<Page, Error> {
        let inner = &self.0;
        let lost = Page { changes: Vec::new(), next: Link::Lost, unread: 0 };
        let url = match place {
            None => {
                let mut url = inner.settings.url.with("/v1.0/devices/delta");
                url.query_pairs_mut().append_pair("$select", &KEPT.join(","));
                url
            }
            // One of another time, as after a change of directory.url, is as good as lost.
            Some(place) => match address(&inner.settings.url, place) {
                Some(url) => url,
                None => return Ok(lost),
            },
        };
        match inner.attempt(&url, None, READING).await {
            Ok(body) => page(&inner.settings.url, &body).map_err(|what| corrupt(READING, what)),
            Err(Trouble::Failed(Failure::Refused(Refused { status: 400 | 410, .. }))) if place.is_some() => {
                Ok(lost)
            }
            Err(trouble) => Err(trouble.during(READING)),
        }
    }
}

/// The address of a place, which is a path with a query.
fn address(origin: &HttpsUrl, place: &str) -> Option<Url> {
    let (path, query) = place.split_once('?')?;
    let mut url = origin.with(path);
    url.set_query(Some(query));
    is_place(&url).then_some(url)
}

fn is_place(url: &Url) -> bool {
    url.path().strip_prefix(DEVICES).is_some_and(|rest| rest.starts_with(['/', '(']))
        && url.query().is_some_and(|query| !query.is_empty())
}

/// The place that a link of an answer leads to. One that leads elsewhere is not followed: a token would go there.
fn place(origin: &HttpsUrl, link: &str) -> Result<String, &'static str> {
    let elsewhere = "a link in the answer leads to another place than Graph's devices; it is not followed";
    let url = Url::parse(link).ok().filter(|url| origin.covers(url) && is_place(url)).ok_or(elsewhere)?;
    let place = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    if place.len() > PLACE_BYTES { Err("a link in the answer is too long") } else { Ok(place) }
}

fn page(origin: &HttpsUrl, body: &[u8]) -> Result<Page, &'static str> {
    #[derive(Deserialize)]
    struct Answer {
        value: Vec<Map<String, Value>>,
        #[serde(rename = "@odata.nextLink")]
        next: Option<String>,
        #[serde(rename = "@odata.deltaLink")]
        delta: Option<String>,
    }
    let Answer { value, next, delta } =
        serde_json::from_slice(body).map_err(|_| "the answer is no page of changes, or is cut short")?;
    let next = match (next, delta) {
        (Some(link), None) => Link::More(place(origin, &link)?),
        (None, Some(link)) => Link::Done(place(origin, &link)?),
        _ => return Err("the answer says not where to read on"),
    };
    let told = value.len();
    let changes: Vec<Change> = value.into_iter().filter_map(change).collect();
    Ok(Page { unread: told - changes.len(), changes, next })
}

/// `@removed` is said of objects that were deleted, for good (`deleted`) or so that they can be restored (`changed`): in
/// either case the device is not there.
fn change(object: Map<String, Value>) -> Option<Change> {
    let id = object.get("id")?.as_str()?;
    let id = ObjectId::parse_any_case(id).ok()?;
    let removed = object.get("@removed").is_some_and(|removed| !removed.is_null());
    Some(if removed { Change::Gone(id) } else { Change::Seen(id, object) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b53cc85-eb81-4a3c-9a24-8ed3c3bcf6ba";

    fn read(body: &str) -> Result<Page, &'static str> {
        page(&"https://graph.microsoft.com".parse().unwrap(), body.as_bytes())
    }

    /// As in learn.microsoft.com/graph/api/device-delta, shortened.
    #[test]
    fn a_page_says_what_changed_and_what_is_next() {
        let link = "https://graph.microsoft.com/v1.0/devices/delta?$deltatoken=a%2Bb_-";
        let body = format!(
            r#"{{"@odata.context":"x","@odata.deltaLink":"{link}","value":[
                {{"id":"{ID}","accountEnabled":false}},
                {{"id":"{}","@removed":{{"reason":"changed"}}}},{{"displayName":"no id"}}]}}"#,
            ID.to_ascii_uppercase()
        );
        let page = read(&body).unwrap();
        assert_eq!(page.next, Link::Done("/v1.0/devices/delta?$deltatoken=a%2Bb_-".to_owned()));
        assert!(matches!(&page.changes[..], [Change::Seen(..), Change::Gone(id)] if id.to_string() == ID));
        assert_eq!(page.unread, 1);
        let Link::Done(place) = page.next else { panic!("done") };
        let origin = "https://graph.microsoft.com".parse().unwrap();
        assert_eq!(address(&origin, &place).unwrap().as_str(), link, "it is used as it was given");
    }

    #[test]
    fn a_link_elsewhere_is_not_followed() {
        for link in [
            "https://evil.example/v1.0/devices/delta?$skiptoken=x",
            "http://graph.microsoft.com/v1.0/devices/delta?$skiptoken=x",
            "https://graph.microsoft.com:444/v1.0/devices/delta?$skiptoken=x",
            "https://graph.microsoft.com/v1.0/users?$skiptoken=x",
            "https://graph.microsoft.com/v1.0/devices/../users/delta?$skiptoken=x",
            "https://graph.microsoft.com/v1.0/devicesx/delta?$skiptoken=x",
            "https://graph.microsoft.com/v1.0/devices/delta",
            "/v1.0/devices/delta?$skiptoken=x",
        ] {
            let body = format!(r#"{{"value":[],"@odata.nextLink":"{link}"}}"#);
            assert!(read(&body).is_err(), "{link}");
        }
        assert!(read(r#"{"value":[]}"#).is_err());
        assert!(read("<html>").is_err());
    }
}
