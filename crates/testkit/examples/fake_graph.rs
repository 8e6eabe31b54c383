//! A fake of Microsoft Graph as a process, for clients that are not Rust: `fake_graph CA_FILE` writes what its certificate
//! chains to into that file, prints its address on the first line, and serves until its standard input ends.
//!
//! Lines on its standard input, each answered by one line:
//!
//! - `add DEVICE_ID NAME [GROUP_ID]`, `duplicate`, `single`, `rename OLD NEW`, `delete NAME` change what it has;
//! - `next STATUS [SECONDS]` and `feed-next STATUS [SECONDS]` have the next call, and the next of the feed, end with that
//!   status and a `Retry-After` of so many seconds, or with none;
//! - `pages OBJECTS`, `replays`, `expire` tell how the feed goes on;
//! - `calls` prints how many calls came in with a token: without the feed's, and the feed's.

#![expect(clippy::print_stdout, reason = "its address and its answers are all it says")]

use std::io::{Error, Result};

use keyturn_domain::ids::DeviceId;
use keyturn_ports::directory::{AlternativeSecurityId, DeviceRecord, Membership};
use keyturn_testkit::azure::graph::{FakeGraph, Fault};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let ca = std::env::args_os().nth(1).ok_or_else(|| Error::other("usage: fake_graph CA_FILE"))?;
    let graph = FakeGraph::start().await;
    std::fs::write(ca, &graph.server.ca)?;
    println!("{}", graph.server.url());
    // Calls are answered by other threads meanwhile.
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["add", id, name] => graph.add(&record(id, name, None)?),
            ["add", id, name, group] => graph.add(&record(id, name, Some(group))?),
            ["duplicate"] => graph.duplicate(),
            ["single"] => graph.single(),
            ["rename", old, new] => graph.change(|device| {
                if device["displayName"] == *old {
                    device["displayName"] = json!(new);
                }
            }),
            ["delete", name] => graph.delete(|device| device["displayName"] == *name),
            ["next", fault @ ..] => graph.faults([status(fault)?]),
            ["feed-next", fault @ ..] => graph.feed_faults([status(fault)?]),
            ["pages", objects] => graph.feed_pages_of(objects.parse().map_err(Error::other)?),
            ["replays"] => graph.feed_replays(),
            ["expire"] => graph.expire_feed(),
            ["calls"] => {
                println!("{}", json!([graph.calls(), graph.feed_calls()]));
                continue;
            }
            _ => return Err(Error::other(format!("{line}: no such command"))),
        }
        println!("done");
    }
    Ok(())
}

fn record(id: &str, name: &str, group: Option<&str>) -> Result<DeviceRecord> {
    let device_id: DeviceId = id.parse().map_err(Error::other)?;
    let group = group.map(|id| serde_json::from_value::<Membership>(json!({ "id": id }))).transpose()?;
    let key: AlternativeSecurityId = serde_json::from_value(json!({ "type": 2, "key": "a2V5dHVybg==" }))?;
    Ok(DeviceRecord {
        device_id,
        display_name: Some(name.to_owned()),
        account_enabled: Some(true),
        trust_type: Some("AzureAd".to_owned()),
        alternative_security_ids: vec![key],
        operating_system: Some("Windows".to_owned()),
        groups: Some(group.into_iter().collect()),
    })
}

fn status(words: &[&str]) -> Result<Fault> {
    let seconds = words.get(1).map(|text| text.parse()).transpose().map_err(Error::other)?;
    let status = words.first().ok_or_else(|| Error::other("a status"))?;
    Ok(Fault::Status(status.parse().map_err(Error::other)?, seconds))
}
