//! `keyturn queues`.

use anyhow::Result;
use keyturn_ports::queue::QueueName;
use keyturn_service::engines::Engines;
use serde::Serialize;

use super::Deployment;
use crate::output;

#[derive(Serialize)]
struct Row {
    queue: QueueName,
    #[serde(flatten)]
    depth: keyturn_ports::queue::Depth,
}

pub(super) async fn run(deployment: &Deployment) -> Result<()> {
    let rows = rows(&deployment.engines).await?;
    let now = deployment.engines.clock().now();
    let cells = rows.iter().map(|row| {
        let depth = row.depth;
        let oldest = depth.oldest.map_or_else(|| "–".to_owned(), |at| output::ago(at, now));
        let waiting = depth.total.saturating_sub(depth.leased);
        [row.queue.to_string(), waiting.to_string(), depth.leased.to_string(), oldest, depth.dead.to_string()]
    });
    output::table(deployment.output, ["QUEUE", "WAITING", "IN FLIGHT", "OLDEST", "DEAD"], cells, &rows)
}

async fn rows(engines: &Engines) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for queue in QueueName::ALL {
        rows.push(Row { queue, depth: engines.queue().depth(queue).await? });
    }
    Ok(rows)
}
