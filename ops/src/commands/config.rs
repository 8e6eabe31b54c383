//! `keyturn config`.

use std::process::ExitCode;

use anyhow::Result;
use keyturn_domain::policies::{Group, Policies, Policy};
use keyturn_domain::span::Span;
use keyturn_service::config::Config as Loaded;
use keyturn_service::keys::{KeyError, KeyStore};
use keyturn_service::recovery::RecoveryLog;

use crate::cli::{Arguments, Config};
use crate::output::say;

pub(super) async fn run(arguments: &Arguments, command: &Config) -> Result<ExitCode> {
    match command {
        Config::Template => say!("{}", Loaded::template()),
        Config::Print => say!("{:#?}", Loaded::load(&arguments.config)?.sections),
        Config::Check => return check(&Loaded::load(&arguments.config)?).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells every problem, not the first alone.
async fn check(config: &Loaded) -> Result<ExitCode> {
    let keys = KeyStore::of(config)?;
    // What comes of it is told with the key.
    drop(keys.unlock().await);
    let checks: [(&str, Result<(), KeyError>); 7] = [
        ("nonce", keys.nonces().map(drop)),
        ("stamp", keys.stamps().map(drop)),
        ("ticket", keys.tickets().map(drop)),
        ("finding", keys.findings().map(drop)),
        ("signing", keys.signing().map(drop)),
        ("vault", keys.vault().map(drop)),
        ("key set", keys.key_set().map(drop)),
    ];
    say!("ok      configuration");
    tell_policies(&config.policies);
    let mut problems = 0;
    if let (Some(file), Some(key)) =
        (&config.sections.vault.recovery_log, &config.sections.vault.recovery_key)
    {
        let log = RecoveryLog { file: file.clone(), key: key.clone(), required: true };
        match log.probe() {
            Ok(_) => say!("ok      recovery log   {}", file.display()),
            Err(error) => {
                problems += 1;
                say!(
                    "failed  recovery log   {error}; see that its disk is mounted and its folder is this user's"
                );
            }
        }
    }
    for webhook in &config.sections.alarms.webhook {
        match keys.webhook(&webhook.secret_file) {
            Ok(_) => say!("ok      webhook        {}", webhook.name),
            Err(error) => {
                problems += 1;
                say!("failed  webhook        {}: {error}", webhook.name);
            }
        }
    }
    for (name, checked) in checks {
        match checked {
            Ok(()) => say!("ok      key            {name}"),
            Err(error) => {
                problems += 1;
                say!("failed  key            {name}: {error}");
            }
        }
    }
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The default, then the groups in the order in which they are tried.
fn tell_policies(policies: &Policies) {
    tell_policy("default", policies.default_policy(), "");
    for Group { name, members, policy } in policies.groups() {
        let listed = members.devices.as_ref().map(|devices| format!("; devices listed: {}", devices.len()));
        let groups =
            members.groups.as_ref().map(|groups| format!("; groups of the directory: {}", groups.len()));
        let claimed = members.is_claimed().then(|| "; by what a device says of itself".to_owned());
        let members: String = listed.into_iter().chain(groups).chain(claimed).collect();
        tell_policy(name, policy, &members);
    }
}

fn tell_policy(name: &str, policy: &Policy, members: &str) {
    let Policy { passwords, rotation } = policy;
    let (bits, every) = (passwords.entropy_bits(), Span(rotation.update_frequency));
    let (word, advice) = if passwords.is_meagre() {
        ("warning", "; fewer than 80 bits are few, a longer password is better")
    } else {
        ("ok     ", "")
    };
    say!("{word} policy         {name}: {passwords}, {bits:.1} bits, every {every}{members}{advice}");
}
