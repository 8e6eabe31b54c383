//! A fake Key Vault as a process, for clients that are not Rust: `fake_key_vault CA_FILE` writes what its certificate
//! chains to into that file, prints its address on the first line, and serves until its standard input ends.
//!
//! With `--limit CALLS SECONDS` so many sets are taken in any window of so many seconds and others are throttled, and the
//! second line is a JSON object with the environment by which a managed identity gets tokens for it. With `--delay MILLIS`
//! behind that, every call that is not throttled is answered so much later.
//!
//! The line `throttle` on its standard input throttles the next call that sets a secret, for a second; `deny` forbids it;
//! `count` is answered by a JSON object that says how many calls there were, and `versions` by one of all secrets: how many
//! versions each has, and the value of the current one.

#![expect(clippy::print_stdout, reason = "its address is all it says")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let ca =
        std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: fake_key_vault CA_FILE"))?;
    let vault = FakeKeyVault::start(Arc::new(SystemClock)).await;
    std::fs::write(ca, &vault.server.ca)?;
    println!("{}", vault.server.url());
    let words: Vec<String> = std::env::args().skip(2).collect();
    let identity = match words.as_slice() {
        [] => None,
        [limit, calls, seconds, delay @ ..] if limit == "--limit" && matches!(delay.len(), 0 | 2) => {
            let strange = |_| std::io::Error::other("--limit CALLS SECONDS");
            let window = Duration::from_secs(seconds.parse().map_err(strange)?);
            vault.limit_sets(calls.parse().map_err(strange)?, window);
            if let [word, millis] = delay {
                let late = Duration::from_millis(millis.parse().map_err(strange)?);
                if word != "--delay" {
                    return Err(std::io::Error::other(format!("{word}: expected --delay MILLIS")));
                }
                vault.always((!late.is_zero()).then_some(Fault::Late(late)));
            }
            let identity = ManagedIdentity::start().await;
            let variables: BTreeMap<_, _> = identity.variables().into_iter().collect();
            println!("{}", serde_json::json!(variables));
            Some(identity)
        }
        _ => {
            return Err(std::io::Error::other(
                "usage: fake_key_vault CA_FILE [--limit CALLS SECONDS [--delay MILLIS]]",
            ));
        }
    };
    // The vault is served by other threads meanwhile.
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "throttle" => vault.faults(Call::Set, [Fault::Throttled(Some(1))]),
            "deny" => vault.faults(Call::Set, [Fault::Forbidden(Some("ForbiddenByRbac"))]),
            "count" => {
                let (lists, gets) = (vault.count(Call::List), vault.count(Call::Get));
                let (taken, lasted) = vault.taken_sets();
                println!(
                    "{}",
                    serde_json::json!({
                        "taken": taken, "lasted_s": lasted.as_secs_f64(), "refused": vault.refused_sets(),
                        "most": vault.most_sets(), "lists": lists, "gets": gets,
                    })
                );
                continue;
            }
            "versions" => {
                println!("{}", versions(&vault));
                continue;
            }
            other => return Err(std::io::Error::other(format!("{other}: no such command"))),
        }
        println!("done");
    }
    drop(identity);
    Ok(())
}

/// How many versions each secret has, and the value of the current one.
fn versions(vault: &FakeKeyVault) -> serde_json::Value {
    let of = |name: String| {
        let current = vault.current(&name).and_then(|current| current.get("value").cloned());
        let told = serde_json::json!([vault.versions(&name).len(), current]);
        (name, told)
    };
    serde_json::Value::Object(vault.names().into_iter().map(of).collect())
}
