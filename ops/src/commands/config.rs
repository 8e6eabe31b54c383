//! `keyturn config`.

use keyturn_domain::policies::{Group, Policies, Policy};
use keyturn_domain::span::Span;
use keyturn_service::config::{Config as Loaded, Sections};
use keyturn_service::keys::{KeyError, KeyStore};
use keyturn_service::recovery::RecoveryLog;
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Arguments, Config, Output};
use crate::failure::{Code, Failure, OrFail as _, Result};
use crate::output::{json, say};

pub(super) async fn run(arguments: &Arguments, command: &Config) -> Result<()> {
    match command {
        Config::Template => say!("{}", Loaded::template()),
        Config::Print => print(arguments.output, &Loaded::load(&arguments.config)?.sections)?,
        Config::Check => {
            let told = match Loaded::load(&arguments.config) {
                Err(error) if arguments.output == Output::Json => {
                    vec![Told { state: FAILED, check: "configuration", found: error.to_string() }]
                }
                loaded => check(&loaded?).await?,
            };
            tell(arguments.output, &told)?;
        }
    }
    Ok(())
}

fn print(output: Output, sections: &Sections) -> Result<()> {
    match output {
        Output::Json => json(&effective(sections)?),
        Output::Text => {
            say!("{}", toml(sections)?.trim_end());
            Ok(())
        }
    }
}

/// The values in effect, as a file of them could be, without secrets.
pub(super) fn toml(sections: &Sections) -> Result<String> {
    ::toml::to_string(&effective(sections)?).or_defect()
}

/// The values in effect. The addresses of webhooks are left out, and of others who says that he is whom: either may be
/// all that it takes to get in.
fn effective(sections: &Sections) -> Result<Value> {
    let mut value = serde_json::to_value(sections).or_defect()?;
    clean(&mut value);
    Ok(value)
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(clean);
        }
        Value::Array(members) => members.iter_mut().for_each(clean),
        Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://") {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                if let Some((_, host)) = rest.split_at(end).0.rsplit_once('@') {
                    *text = format!("{scheme}://[…]@{host}{}", rest.split_at(end).1);
                }
            }
        }
        _ => {}
    }
}

const OK: &str = "ok";
const WARNING: &str = "warning";
const FAILED: &str = "failed";

/// What was checked, and how it is.
#[derive(Serialize)]
struct Told {
    check: &'static str,
    state: &'static str,
    found: String,
}

fn tell(output: Output, told: &[Told]) -> Result<()> {
    if output == Output::Json {
        json(&told)?;
    } else {
        for Told { state, check, found } in told {
            say!("{}", format!("{state:<7} {check:<14} {found}").trim_end());
        }
    }
    match told.iter().filter(|one| one.state == FAILED).count() {
        0 => Ok(()),
        failed => Err(Failure::new(Code::CheckFailed, format!("{failed} of {} checks failed", told.len()))),
    }
}

/// Tells every problem, not the first alone.
async fn check(config: &Loaded) -> Result<Vec<Told>> {
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
    let mut told = vec![Told { check: "configuration", state: OK, found: String::new() }];
    told.extend(policies(&config.policies));
    let vault = &config.sections.vault;
    if let (Some(file), Some(key)) = (&vault.recovery_log, &vault.recovery_key) {
        let log = RecoveryLog { file: file.clone(), key: key.clone(), required: true };
        told.push(match log.probe() {
            Ok(_) => Told { check: "recovery log", state: OK, found: file.display().to_string() },
            Err(error) => Told {
                check: "recovery log",
                state: FAILED,
                found: format!("{error}; see that its disk is mounted and its folder is this user's"),
            },
        });
    }
    for webhook in &config.sections.alarms.webhook {
        told.push(named("webhook", &webhook.name, keys.webhook(&webhook.secret_file).map(drop)));
    }
    told.extend(checks.into_iter().map(|(name, checked)| named("key", name, checked)));
    Ok(told)
}

fn named(check: &'static str, name: &str, checked: Result<(), KeyError>) -> Told {
    match checked {
        Ok(()) => Told { check, state: OK, found: name.to_owned() },
        Err(error) => Told { check, state: FAILED, found: format!("{name}: {error}") },
    }
}

/// The default, then the groups in the order in which they are tried.
fn policies(policies: &Policies) -> Vec<Told> {
    let mut told = vec![policy_told("default", policies.default_policy(), "")];
    for Group { name, members, policy } in policies.groups() {
        let listed = members.devices.as_ref().map(|devices| format!("; devices listed: {}", devices.len()));
        let groups =
            members.groups.as_ref().map(|groups| format!("; groups of the directory: {}", groups.len()));
        let claimed = members.is_claimed().then(|| "; by what a device says of itself".to_owned());
        let members: String = listed.into_iter().chain(groups).chain(claimed).collect();
        told.push(policy_told(name, policy, &members));
    }
    told
}

fn policy_told(name: &str, policy: &Policy, members: &str) -> Told {
    let Policy { passwords, rotation } = policy;
    let (bits, every) = (passwords.entropy_bits(), Span(rotation.update_frequency));
    let (state, advice) = if passwords.is_meagre() {
        (WARNING, "; fewer than 80 bits are few, a longer password is better")
    } else {
        (OK, "")
    };
    let found = format!("{name}: {passwords}, {bits:.1} bits, every {every}{members}{advice}");
    Told { check: "policy", state, found }
}
