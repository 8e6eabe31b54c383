//! `keyturn support`: one file for whoever helps, without a secret in it.
//!
//! It is made of what is listed here and of nothing that is read wholesale: no log, no key file, no row's text. Of
//! addresses in the configuration only the host is left, because receivers put tokens in paths and proxies passwords in
//! front.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use keyturn_ports::queue::QueueName;
use serde_json::{Value, json};

use super::Deployment;
use super::keys::home;
use crate::commands::config;
use crate::commands::init::private_file;
use crate::failure::{OrFail as _, Result};
use crate::output;

/// Dead letters looked at.
const LETTERS: usize = 1000;

/// Writes the bundle to a new file that only its owner can read.
pub(in crate::commands) async fn write(deployment: &Deployment, to: &Path) -> Result<()> {
    let engines = &deployment.engines;
    let mut queues = Vec::new();
    for queue in QueueName::ALL {
        queues.push(json!({"queue": queue, "depth": engines.queue().depth(queue).await?}));
    }
    let mut dead: Vec<(QueueName, String, u64)> = Vec::new();
    for letter in engines.dead_letters().list(None, LETTERS).await? {
        let reason = letter.reason.to_string();
        let same = |one: &&mut (QueueName, String, u64)| one.0 == letter.queue && one.1 == reason;
        match dead.iter_mut().find(same) {
            Some((.., count)) => *count += 1,
            None => dead.push((letter.queue, reason, 1)),
        }
    }
    let head = engines.audit().recent(1).await?;
    let bundle = json!({
        "keyturn": env!("CARGO_PKG_VERSION"),
        "made_ms": engines.clock().now(),
        "checks": super::examine(deployment, false).await,
        "configuration": without_addresses(&config::toml(&deployment.config.sections)?).lines().collect::<Vec<_>>(),
        "queues": queues,
        "dead_letters": dead,
        "audit_head": head.first().map(|row| json!({"seq": row.seq, "hash": row.hash})),
        "restored_ms": engines.ledger_reader().restored().await?,
        "files": files(&home(deployment)),
    });
    private_file(to, &format!("{}\n", serde_json::to_string_pretty(&bundle).or_defect()?))?;
    eprintln!("{} is written. Read it before you send it: it names hosts and folders.", to.display());
    Ok(())
}

/// Names, sizes and modes: no contents.
fn files(folder: &Path) -> Vec<Value> {
    let mut files = Vec::new();
    for folder in [folder.to_owned(), folder.join("keys")] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if let Ok(found) = entry.metadata() {
                let (path, mode) = (entry.path().display().to_string(), found.permissions().mode() & 0o777);
                files.push(json!({"path": output::printable(path), "bytes": found.len(), "mode": format!("{mode:o}")}));
            }
        }
    }
    files
}

/// A text in which of every URL only scheme, host and port are left.
fn without_addresses(text: &str) -> String {
    let mut parts = text.split("://");
    let mut cleaned = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c == '"' || c.is_whitespace()).unwrap_or(part.len());
        let (url, rest) = part.split_at(end);
        let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let cut = if host.len() < url.len() { "[…]" } else { "" };
        cleaned.push_str("://");
        cleaned.push_str(host);
        cleaned.push_str(cut);
        cleaned.push_str(rest);
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::without_addresses;

    #[test]
    fn of_addresses_the_host_is_left() {
        for (text, left) in [
            (
                "url: \"https://user:pass@hooks.example.org:8443/T0/token?x=1\",",
                "url: \"https://hooks.example.org:8443[…]\",",
            ),
            (
                "\"http://a@b@proxy:3128\" and \"https://h#t\"",
                "\"http://proxy:3128[…]\" and \"https://h[…]\"",
            ),
            ("nothing, \"https://plain\"", "nothing, \"https://plain\""),
        ] {
            assert_eq!(without_addresses(text), left);
        }
    }
}
