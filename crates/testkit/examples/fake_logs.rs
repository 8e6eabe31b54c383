//! A fake of the Logs Ingestion API as a process, for clients that are not Rust: `fake_logs CA_FILE` writes what its
//! certificate chains to into that file, prints its address on the first line and the id of its rule on the second, and
//! serves until its standard input ends. Its streams are those of infra/azure/logs.json.
//!
//! Lines on its standard input: `next throttle`, `next fail` and `next deny` have the next call go wrong; `rows STREAM`
//! prints the rows of a stream as one line of JSON.

#![expect(clippy::print_stdout, reason = "its address and its rows are all it says")]

use keyturn_testkit::azure::logs::{FakeLogs, Fault, RULE};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let ca = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: fake_logs CA_FILE"))?;
    let template = serde_json::from_str(include_str!("../../../infra/azure/logs.json"))?;
    let logs = FakeLogs::start(&template).await;
    std::fs::write(ca, &logs.server.ca)?;
    println!("{}\n{RULE}", logs.server.url());
    // Calls are answered by other threads meanwhile.
    for line in std::io::stdin().lines() {
        match line?.split_once(' ').unwrap_or(("", "")) {
            ("rows", stream) => {
                println!("{}", serde_json::Value::from(logs.rows(stream)));
                continue;
            }
            ("next", "throttle") => logs.faults([Fault::Throttled(Some(1))]),
            ("next", "fail") => logs.faults([Fault::DoneThen500]),
            ("next", "deny") => logs.faults([Fault::Forbidden]),
            (_, other) => return Err(std::io::Error::other(format!("{other}: no such command"))),
        }
        println!("done");
    }
    Ok(())
}
