//! `keyturn queues`.

use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Depth, QueueName};
use keyturn_service::engines::Engines;
use serde::Serialize;

use super::Deployment;
use crate::cli::{Output, Queues};
use crate::failure::{Result, usage};
use crate::output;
use crate::output::say;

/// Looks closer to each other than this tell nothing and keep the engine from its work.
const CLOSEST: Duration = Duration::from_millis(100);

/// A queue, and how fast it moves once there are two looks.
#[derive(Serialize)]
struct Row {
    queue: QueueName,
    #[serde(flatten)]
    depth: Depth,
    /// Messages sent per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_per_minute: Option<u64>,
    /// Messages done with per minute, dead ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_per_minute: Option<u64>,
}

pub(super) async fn run(deployment: &Deployment, queues: &Queues) -> Result<()> {
    let Some(every) = queues.watch.map(|span| span.0) else {
        let rows = rows(&deployment.engines, None).await?;
        return still(deployment, &rows);
    };
    if every < CLOSEST {
        return Err(usage("--watch", format_args!("looks are at least {}ms apart", CLOSEST.as_millis())));
    }
    let (mut before, mut looks) = (None, 0_u64);
    while queues.looks.is_none_or(|most| looks < most) {
        if looks > 0 {
            tokio::time::sleep(every).await;
        }
        let now = deployment.engines.clock().now();
        let rows = rows(&deployment.engines, before.as_ref()).await?;
        moving(deployment, &rows, now)?;
        before = Some((now, rows.iter().map(|row| row.depth).collect()));
        looks += 1;
    }
    Ok(())
}

fn still(deployment: &Deployment, rows: &[Row]) -> Result<()> {
    let now = deployment.engines.clock().now();
    let cells = rows.iter().map(|row| cells(row, now));
    output::table(deployment.output, ["QUEUE", "WAITING", "IN FLIGHT", "OLDEST", "DEAD"], cells, &rows)
}

/// A table in place of the last one on a terminal, below it elsewhere; a line of JSON for programs.
fn moving(deployment: &Deployment, rows: &[Row], now: UnixMillis) -> Result<()> {
    if deployment.output == Output::Json {
        return output::json_line(&serde_json::json!({"at_ms": now, "queues": rows}));
    }
    let back = if output::is_obeyed_by_stdout() { "\u{1b}[H\u{1b}[2J" } else { "" };
    say!("{back}{}", output::when(now));
    let rate = |rate: Option<u64>| rate.map_or_else(|| "–".to_owned(), |rate| rate.to_string());
    let wide = rows.iter().map(|row| {
        let [queue, waiting, flight, oldest, dead] = cells(row, now);
        [queue, waiting, flight, oldest, dead, rate(row.in_per_minute), rate(row.out_per_minute)]
    });
    let headings = ["QUEUE", "WAITING", "IN FLIGHT", "OLDEST", "DEAD", "IN/MIN", "OUT/MIN"];
    output::table(Output::Text, headings, wide, &rows)
}

fn cells(row: &Row, now: UnixMillis) -> [String; 5] {
    let depth = row.depth;
    let oldest = depth.oldest.map_or_else(|| "–".to_owned(), |at| output::ago(at, now));
    let waiting = depth.total.saturating_sub(depth.leased);
    [row.queue.to_string(), waiting.to_string(), depth.leased.to_string(), oldest, depth.dead.to_string()]
}

async fn rows(engines: &Engines, before: Option<&(UnixMillis, Vec<Depth>)>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (at, queue) in QueueName::ALL.into_iter().enumerate() {
        let depth = engines.queue().depth(queue).await?;
        let millis = before.map(|(then, _)| engines.clock().now().since(*then).as_millis());
        let earlier = before.and_then(|(_, depths)| depths.get(at));
        let per_minute = |count: fn(&Depth) -> Option<u64>| {
            let more = count(&depth)?.saturating_sub(count(earlier?)?);
            u64::try_from(u128::from(more) * 60_000 / millis?.max(1)).ok()
        };
        rows.push(Row {
            queue,
            depth,
            in_per_minute: per_minute(|depth| depth.sent),
            out_per_minute: per_minute(|depth| Some(depth.sent?.saturating_sub(depth.total))),
        });
    }
    Ok(rows)
}
