//! The clock, the queues, the vault, the directory, the audit.

use std::fs;
use std::time::UNIX_EPOCH;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::Verified;
use keyturn_ports::dead_letters::Strays;
use keyturn_ports::queue::QueueName;
use keyturn_ports::roster::Standing;
use keyturn_ports::vault::VaultReader as _;
use keyturn_service::config::DirectoryEngine;

use keyturn_service::fleet;

use super::{Check, Deployment};
use crate::commands::init::ROOT_PUBLIC_FILE;
use crate::output;

/// Versions opened to see whether the vault can be read.
const OPENED: usize = 64;

/// With `write`, a message is sent to each queue of Azure Storage, and deleted.
pub(super) async fn examine(deployment: &Deployment, write: bool) -> Vec<Check> {
    let mut checks = vec![clock(deployment).await];
    for queue in QueueName::ALL {
        checks.push(self::queue(deployment, queue).await);
    }
    for queue in &deployment.config.queues.azure_storage {
        checks.extend(storage(deployment, *queue, write).await);
    }
    for queue in &deployment.config.queues.service_bus {
        checks.extend(sessions(deployment, *queue).await);
        checks.extend(sending(deployment, *queue).await);
    }
    for (queue, engine) in deployment.engines.strays() {
        checks.push(strays(*queue, &**engine).await);
    }
    checks.push(vault(deployment).await);
    checks.push(directory(deployment).await);
    checks.extend(feed(deployment).await);
    checks.push(fleet(deployment).await);
    checks.push(audit(deployment).await);
    checks
}

/// What was written lately must not lie in the future.
async fn clock(deployment: &Deployment) -> Check {
    const NAME: &str = "clock";
    let now = deployment.engines.clock().now();
    let skew = deployment.config.sections.trust.future_skew.0;
    match deployment.engines.audit().recent(1).await {
        Ok(rows) => match rows.first().map(|row| row.row.at).filter(|at| at.since(now) > skew) {
            Some(at) => {
                let found = format!(
                    "the newest audit row is of {}, and it is {}",
                    output::when(at),
                    output::when(now)
                );
                Check::failed(
                    NAME,
                    found,
                    "set the clock by a time server: messages are refused by their times",
                )
            }
            None => Check::ok(NAME, format!("{}, and nothing recorded is later", output::when(now))),
        },
        Err(error) => Check::failed(NAME, error.to_string(), "mend the database first"),
    }
}

/// What to do about a hop that does not answer, by where it is.
fn out_of_reach(deployment: &Deployment, name: QueueName) -> &'static str {
    let queues = &deployment.config.queues;
    if queues.azure_storage.contains(&name) {
        "see queues.azure_storage, whether the queue was made, and whether this identity or key may read it: docs/AZURE.md"
    } else if queues.service_bus.contains(&name) {
        "see queues.service_bus, whether the queue was made, whether this identity or key may listen to it, and whether \
         port 5671 is open: docs/AZURE.md"
    } else {
        "mend the database first"
    }
}

async fn queue(deployment: &Deployment, name: QueueName) -> Check {
    const NAME: &str = "queue";
    let depth = match deployment.engines.queue().depth(name).await {
        Ok(depth) => depth,
        Err(error) => return Check::failed(NAME, format!("{name}: {error}"), out_of_reach(deployment, name)),
    };
    let now = deployment.engines.clock().now();
    let age = depth.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
    let oldest =
        depth.oldest.map_or_else(String::new, |at| format!(", the oldest for {}", output::ago(at, now)));
    let found = format!("{name}: {} wait{oldest}, {} dead", depth.total, depth.dead);
    if age > deployment.config.sections.doctor.waiting_warn.0 {
        return Check::warning(
            NAME,
            found,
            "see whether its worker runs, and its log: docs/runbooks/queue-stuck.md",
        );
    }
    if depth.dead > 0 {
        return Check::warning(NAME, found, "`keyturn dead-letters list`: docs/runbooks/dead-letters.md");
    }
    Check::ok(NAME, found)
}

/// Whether a queue of Service Bus requires sessions just if the configuration says so. It asks as a receiver does, and takes
/// nothing.
async fn sessions(deployment: &Deployment, queue: QueueName) -> Option<Check> {
    const NAME: &str = "sessions";
    let required = deployment.config.sections.queues.service_bus.sessions;
    let mend = "set queues.service_bus.sessions to what the queues were made with (--enable-session), or make them anew; \
                all of them are alike";
    Some(match deployment.engines.service_bus()?.agrees(queue).await {
        Ok(()) if required => Check::ok(NAME, format!("{queue}: it requires sessions, as configured")),
        Ok(()) => Check::ok(NAME, format!("{queue}: it requires none, as configured")),
        Err(error) => Check::failed(NAME, format!("{queue}: {error}"), mend),
    })
}

const SENDING: &str = "sending";
const WHO_SENDS: &str = "whoever sends there needs the role: of the roles of Keyturn the one before this queue, and whoever \
                         replays dead letters: docs/AZURE.md";

/// Whether messages may be sent to a queue of Service Bus. Nothing is.
async fn sending(deployment: &Deployment, queue: QueueName) -> Option<Check> {
    Some(match deployment.engines.service_bus()?.may_send(queue).await {
        Ok(()) => Check::ok(SENDING, format!("{queue}: this identity may send")),
        Err(error) => Check::failed(SENDING, format!("{queue}: {error}"), WHO_SENDS),
    })
}

/// Whether messages of a queue of Azure Storage may be settled, and with `write` whether they may be sent: it has no way to
/// ask.
async fn storage(deployment: &Deployment, queue: QueueName, write: bool) -> Vec<Check> {
    const SETTLING: &str = "settling";
    let Some(queues) = deployment.engines.storage_queues() else { return Vec::new() };
    let mend = "whoever works on this queue needs the role: of the roles of Keyturn the one behind it: docs/AZURE.md";
    let mut checks = vec![match queues.may_settle(queue).await {
        Ok(()) => {
            Check::ok(SETTLING, format!("{queue}: this identity may renew, put off and delete messages"))
        }
        Err(error) => Check::failed(SETTLING, format!("{queue}: {error}"), mend),
    }];
    if write {
        checks.push(match queues.try_sending(queue).await {
            Ok(()) => {
                Check::ok(SENDING, format!("{queue}: a message that nobody sees was sent, and deleted"))
            }
            Err(error) => Check::failed(SENDING, format!("{queue}: {error}"), WHO_SENDS),
        });
    }
    checks
}

/// Messages that lie dead on their engine and are in no index.
async fn strays(queue: QueueName, engine: &dyn Strays) -> Check {
    const NAME: &str = "dead letters";
    match engine.unindexed(queue).await {
        Ok(0) => Check::ok(NAME, format!("{queue}: none lies on its engine without being in the index")),
        Ok(lie) => Check::warning(
            NAME,
            format!("{queue}: {lie} lie on its engine without being in the index"),
            "see whether the rotator runs, which takes them in: `keyturn dead-letters reconcile`",
        ),
        Err(error) => Check::failed(NAME, format!("{queue}: {error}"), "see the queue's own line"),
    }
}

/// Opens versions that are there; none is made, because it would be nobody's.
async fn vault(deployment: &Deployment) -> Check {
    const NAME: &str = "vault";
    if let Some(vault) = deployment.engines.key_vault() {
        // The question that every write begins with, about a device that nobody has. No password is read: that is what
        // the audit is for.
        let nobody = DeviceId::from_bytes(deployment.engines.entropy().bytes());
        let mend = "see vault.urls, and whether whoever runs this may list secrets; the rotator asks as itself: \
                    docs/AZURE.md, docs/runbooks/vault-writes-fail.md";
        return match vault.history(nobody).await {
            Ok(_) => Check::ok(NAME, format!("Key Vault answers: {vault}")),
            Err(error) => Check::failed(NAME, error.to_string(), mend),
        };
    }
    let keys = match deployment.keys.vault() {
        Ok(keys) => keys,
        Err(error) => return Check::failed(NAME, error.to_string(), "put the key file back"),
    };
    match deployment.engines.vault_keeper(keys).check(0, OPENED).await {
        Ok(page) if page.damaged.is_empty() => {
            Check::ok(NAME, format!("{} opened", output::count(page.opened, "version")))
        }
        Ok(page) => {
            let found = format!("{} of {} versions cannot be opened", page.damaged.len(), page.opened);
            Check::failed(NAME, found, "`keyturn vault verify` names them; see docs/runbooks/restore.md")
        }
        Err(error) => Check::failed(NAME, error.to_string(), "mend the database first"),
    }
}

async fn directory(deployment: &Deployment) -> Check {
    const NAME: &str = "directory";
    let directory = deployment.engines.directory();
    let nobody = DeviceId::from_bytes(deployment.engines.entropy().bytes());
    let asked = match directory.look_up(vec![nobody]).await.pop() {
        Some(Err(error)) => Err(error),
        // What another directory lists has a line of its own.
        _ if deployment.engines.directory_admin().is_none() => return Check::ok(NAME, "it answers"),
        _ => directory.page(None, 1).await,
    };
    match asked {
        Ok(page) if page.is_empty() => {
            Check::warning(NAME, "it answers, and lists no device", "`keyturn device add` or `device import`")
        }
        Ok(_) => Check::ok(NAME, "it answers"),
        Err(error) => Check::failed(NAME, error.to_string(), "until it answers, no device is trusted"),
    }
}

/// How far the directory's feed was read. Nothing where there is none to read.
async fn feed(deployment: &Deployment) -> Option<Check> {
    const NAME: &str = "directory feed";
    let DirectoryEngine::Graph(settings) = &deployment.config.directory else { return None };
    let Some((feed, (_, roster))) = settings.feed.zip(deployment.engines.directory_feed()) else {
        let mend = "`keyturn fleet` lists nothing: set directory.delta_every";
        return Some(Check::warning(NAME, "it is not read", mend));
    };
    let mend = "see whether the validator runs, which reads it, and its log; until then answers are kept for \
                directory.keep_unfed";
    Some(match roster.standing().await {
        Err(error) => Check::failed(NAME, error.to_string(), "mend the database first"),
        Ok(Standing { read: None, .. }) => Check::warning(NAME, "it was never read to its end", mend),
        Ok(Standing { read: Some(read), devices, .. }) => {
            let now = deployment.engines.clock().now();
            let found = format!("{}, as of {} ago", output::count(devices, "device"), output::ago(read, now));
            if now.since(read) > feed.late {
                Check::warning(NAME, found, mend)
            } else {
                Check::ok(NAME, found)
            }
        }
    })
}

/// The report that is made in the background.
async fn fleet(deployment: &Deployment) -> Check {
    const NAME: &str = "fleet";
    let (now, settings) = (deployment.engines.clock().now(), &deployment.config.sections.fleet);
    let report = match fleet::last(&*deployment.engines.chores()).await {
        Ok(Some(report)) => report,
        Ok(None) => return Check::ok(NAME, "no report was made yet: the rotator makes one at its start"),
        Err(error) => return Check::failed(NAME, error.to_string(), "mend the database first"),
    };
    let (percent, listed, ago) = (report.unwell_percent, report.listed, output::ago(report.at, now));
    let devices = output::count(listed, "listed device");
    let found = format!("{percent} % of {devices} had no fresh password {ago} ago");
    if now.since(report.at) > settings.report_every.0 * 2 {
        return Check::warning(
            NAME,
            found,
            "see whether the rotator runs, which makes the report, and its log",
        );
    }
    if report.unwell && is_young(deployment).await {
        let young = "the deployment is younger than that, and devices have yet to come";
        return Check::ok(NAME, format!("{found}; {young}: `keyturn fleet` tells how it is now"));
    }
    if report.unwell {
        return Check::warning(NAME, found, "`keyturn fleet --last-report` names devices");
    }
    Check::ok(NAME, found)
}

/// Whether the deployment was made within the time from one report to the next: by its root's public half, which nobody
/// writes again, and by the first row of its audit, which moves along with it.
async fn is_young(deployment: &Deployment) -> bool {
    let root = fs::metadata(super::keys::home(deployment).join(ROOT_PUBLIC_FILE));
    let made = root.and_then(|found| found.modified()).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let Some(made) = made.map(|since| UnixMillis(0).plus(since)) else { return false };
    let first = deployment.engines.audit().after(0, 1).await.ok().and_then(|rows| Some(rows.first()?.row.at));
    let now = deployment.engines.clock().now();
    now.since(first.map_or(made, |first| first.min(made))) < deployment.config.sections.fleet.report_every.0
}

async fn audit(deployment: &Deployment) -> Check {
    const NAME: &str = "audit";
    match deployment.engines.audit().verify().await {
        Ok(Verified::Intact { rows }) => {
            Check::ok(NAME, format!("{}, the chain is whole", output::count(rows, "row")))
        }
        Ok(Verified::Broken { seq }) => {
            let mend = "keep the file as evidence and compare with an export: docs/runbooks/audit-broken.md";
            Check::failed(NAME, format!("row {seq} does not follow from the one before it"), mend)
        }
        Err(error) => Check::failed(NAME, error.to_string(), "mend the database first"),
    }
}
