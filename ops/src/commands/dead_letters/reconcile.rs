//! Whether the index of dead letters and the messages there are say the same. Changes nothing.

use std::collections::BTreeMap;

use keyturn_pipeline::replay::eligible::Skip;
use keyturn_ports::queue::QueueName;
use serde::Serialize;

use super::select::{Names, Selection};
use crate::commands::Deployment;
use crate::failure::{Code, Failure, Result};
use crate::output;

/// Numbers of letters that are named.
const NAMED: usize = 20;

/// How the index and the messages of a queue compare.
#[derive(Default, Serialize)]
struct Compared {
    /// Letters that the index has.
    indexed: u64,
    /// Letters that the queue's own count has.
    counted: u64,
    /// Rows without a message that is still of use: it has been heard since, or a newer one was.
    overtaken: u64,
    /// The first of these.
    overtaken_ids: Vec<u64>,
    /// Messages that lie dead on their engine without being in the index.
    unindexed: u64,
}

pub(super) async fn run(deployment: &Deployment) -> Result<()> {
    let mut found: BTreeMap<QueueName, Compared> = BTreeMap::new();
    let (selection, mut names) =
        (Selection::parse(&deployment.engines, None, &[]).await?, Names::new(deployment));
    let mut pages = selection.letters();
    while let Some(page) = pages.next(&mut names).await? {
        for letter in &page {
            let compared = found.entry(letter.queue).or_default();
            compared.indexed += 1;
            if names.judge(letter).await? == Err(Skip::Superseded) {
                compared.overtaken += 1;
                if compared.overtaken_ids.len() < NAMED {
                    compared.overtaken_ids.push(letter.id.0);
                }
            }
        }
    }
    for queue in QueueName::ALL {
        let compared = found.entry(queue).or_default();
        compared.counted = deployment.engines.queue().depth(queue).await?.dead;
        if let Some(engine) = deployment.engines.strays().get(&queue) {
            compared.unindexed = engine.unindexed(queue).await?;
        }
    }
    let cells = found.iter().map(|(queue, compared)| {
        let Compared { indexed, counted, overtaken, unindexed, .. } = compared;
        [
            queue.to_string(),
            indexed.to_string(),
            counted.to_string(),
            overtaken.to_string(),
            unindexed.to_string(),
        ]
    });
    let headings = ["QUEUE", "INDEXED", "COUNTED", "OVERTAKEN", "UNINDEXED"];
    output::table(deployment.output, headings, cells, &found)?;
    let orphans: u64 = found.iter().map(|(queue, compared)| tell(*queue, compared)).sum();
    match orphans {
        0 => Ok(()),
        _ => Err(Failure::new(Code::Partial, format!("{orphans} things do not agree; nothing was changed"))),
    }
}

/// Tells what does not agree, and the mend. Returns how much that is.
fn tell(queue: QueueName, compared: &Compared) -> u64 {
    let Compared { indexed, counted, overtaken, overtaken_ids, unindexed } = compared;
    if *overtaken > 0 {
        let ids: Vec<String> = overtaken_ids.iter().map(u64::to_string).collect();
        eprintln!(
            "{queue}: {overtaken} rows are of messages that were heard since, or overtaken. A replay does nothing: \
             keyturn dead-letters discard {} --yes-discard {queue} --reason …",
            ids.join(" ")
        );
    }
    if *unindexed > 0 {
        eprintln!(
            "{queue}: of the messages that another program gave up on, {unindexed} are not in the index. Whoever looks after \
             the store (the rotator, or `keyturn up`) takes them in every retention.every: see that it runs, and its log"
        );
    }
    if indexed != counted {
        eprintln!(
            "{queue}: the index has {indexed} letters and the queue's count says {counted}. If letters died or went \
             meanwhile, look again; if it stays, the metric is wrong and the index is right: report it"
        );
    }
    overtaken + unindexed + u64::from(indexed != counted)
}
