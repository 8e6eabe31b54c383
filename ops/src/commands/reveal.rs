//! `keyturn reveal`.

use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::lane::Standing;
use serde::Serialize;

use super::Deployment;
use crate::cli::{Output, Reveal};
use crate::failure::{OrFail as _, Result, usage};
use crate::output::say;
use crate::reveal::{Look, Revealed};
use crate::{operator, output, resolve};

pub(super) async fn run(deployment: &Deployment, command: &Reveal) -> Result<()> {
    let device = resolve::device(&deployment.engines, &command.device).await?;
    deployment.keys.unlock().await?;
    let vault = deployment.engines.vault(|| deployment.keys.vault())?;
    let actor = operator::name();
    let look = Look { engines: &deployment.engines, vault: &*vault, actor: &actor, reason: &command.reason };
    let revealed = match &command.version {
        None => look.candidates(device.id, &deployment.config.policies.default_policy().rotation).await?,
        Some(version) => {
            let version = version.parse::<VersionId>().map_err(|error| usage("--version", error))?;
            look.older(device.id, version).await?
        }
    };
    match deployment.output {
        Output::Json => print_json(device.id, &revealed),
        Output::Text => {
            print_text(&device.title(), &revealed);
            Ok(())
        }
    }
}

fn print_text(title: &str, revealed: &[Revealed]) {
    eprintln!("{title}. Your name, the time and the reason are recorded.");
    if revealed.len() > 1 {
        eprintln!("Try the first; if it fails, the next: the device has not confirmed which one it has.");
    }
    for one in revealed {
        let standing = match one.standing {
            Some(Standing::Confirmed { at }) => format!("confirmed {}", output::when(at)),
            Some(Standing::Pending { at }) => format!("pending since {}", output::when(at)),
            Some(Standing::InDoubt) => "in doubt".to_owned(),
            None => "older".to_owned(),
        };
        let former = if one.former_key { ", of a key that the directory does not list" } else { "" };
        say!("{}\t{}\t{standing}{former}", one.account, one.password.expose());
    }
}

#[derive(Serialize)]
struct Row<'a> {
    device_id: DeviceId,
    version: VersionId,
    account: &'a str,
    #[serde(flatten)]
    standing: Option<Standing>,
    former_key: bool,
    password: &'a str,
}

fn print_json(device_id: DeviceId, revealed: &[Revealed]) -> Result<()> {
    let row = |one: &Revealed| {
        let Revealed { version, account, standing, former_key, password, lane: _ } = one;
        let (version, standing, former_key) = (*version, *standing, *former_key);
        serde_json::to_value(Row {
            device_id,
            version,
            account,
            standing,
            former_key,
            password: password.expose(),
        })
    };
    output::json(&revealed.iter().map(row).collect::<Result<Vec<_>, _>>().or_defect()?)
}
