//! A fake Key Vault as a process, for clients that are not Rust: `fake_key_vault CA_FILE` writes what its certificate
//! chains to into that file, prints its address on the first line, and serves until its standard input ends.
//!
//! The line `throttle` on its standard input throttles the next call that sets a secret, for a second; `deny` forbids it.

#![expect(clippy::print_stdout, reason = "its address is all it says")]

use std::sync::Arc;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let ca =
        std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: fake_key_vault CA_FILE"))?;
    let vault = FakeKeyVault::start(Arc::new(SystemClock)).await;
    std::fs::write(ca, &vault.server.ca)?;
    println!("{}", vault.server.url());
    // The vault is served by other threads meanwhile.
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "throttle" => vault.faults(Call::Set, [Fault::Throttled(Some(1))]),
            "deny" => vault.faults(Call::Set, [Fault::Forbidden(Some("ForbiddenByRbac"))]),
            other => return Err(std::io::Error::other(format!("{other}: no such command"))),
        }
        println!("done");
    }
    Ok(())
}
