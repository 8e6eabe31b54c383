//! The audited look at passwords: the audit row is committed first, then the vault is asked.

use std::collections::BTreeSet;

use keyturn_domain::ids::{DeviceId, KeyHash, LaneId, VersionId};
use keyturn_domain::lane::{Lane, RotationPolicy, Standing};
use keyturn_domain::password::Password;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::vault::Vault;
use keyturn_schemas::security_id::{DEVICE_KEY, RegisteredKey};
use keyturn_service::engines::Engines;

use crate::failure::{Code, Context as _, Failure, OrFail as _, Result, no_reason};
use crate::resolve;

/// Who looks, and why.
pub(crate) struct Look<'a> {
    pub(crate) engines: &'a Engines,
    pub(crate) vault: &'a dyn Vault,
    pub(crate) actor: &'a str,
    pub(crate) reason: &'a str,
}

/// A password that may be shown. It goes to the screen and nowhere else.
pub(crate) struct Revealed {
    pub(crate) version: VersionId,
    pub(crate) lane: LaneId,
    pub(crate) account: String,
    /// None for an older version.
    pub(crate) standing: Option<Standing>,
    /// Whether it belongs to a key that the directory does not list for the device (any more).
    pub(crate) former_key: bool,
    pub(crate) password: Password,
}

/// A version to be shown, before the vault is asked.
struct Wanted {
    version: VersionId,
    lane: LaneId,
    account: String,
    standing: Option<Standing>,
    former_key: bool,
    /// Where the vault has it, in the vault's own words; None where the ledger is to say.
    vault_ref: Option<String>,
}

impl Look<'_> {
    /// The passwords a device may have now: of the key that the directory lists first, most likely first.
    pub(crate) async fn candidates(
        &self,
        device: DeviceId,
        policy: &RotationPolicy,
    ) -> Result<Vec<Revealed>> {
        let now = self.engines.clock().now();
        let lanes = self.engines.ledger_reader().lanes(device).await?;
        let listed = listed_keys(self.engines, device).await?;
        let mut open: Vec<&Lane> = lanes.iter().filter(|lane| lane.is_open(&lanes, policy, now)).collect();
        open.sort_by_key(|lane| (!listed.contains(&lane.key.key), std::cmp::Reverse(lane.opened)));
        let mut all: Vec<Wanted> =
            open.iter().flat_map(|lane| wanted(lane, !listed.contains(&lane.key.key))).collect();
        all.extend(self.lost(device, &lanes, &open, &listed).await?);
        self.show(device, all).await
    }

    /// What the vault has and a ledger that was restored from a backup does not know: any of it may be in use, until
    /// the device says what is.
    async fn lost(
        &self,
        device: DeviceId,
        lanes: &[Lane],
        open: &[&Lane],
        listed: &BTreeSet<KeyHash>,
    ) -> Result<Vec<Wanted>> {
        let ledger = self.engines.ledger_reader();
        let mut lost = Vec::new();
        if ledger.restored().await?.is_none() {
            return Ok(lost);
        }
        for entry in self.vault.history(device).await? {
            let known = lanes.iter().find(|lane| lane.key.id() == entry.lane);
            let shown = open.iter().any(|lane| lane.key.id() == entry.lane);
            let unsure = known.is_none_or(|lane| shown && lane.restored.is_some());
            if unsure && ledger.vault_ref(entry.version).await?.is_none() {
                lost.push(Wanted {
                    version: entry.version,
                    lane: entry.lane,
                    account: known.map(|lane| lane.about.account_name.to_string()).unwrap_or_default(),
                    standing: Some(Standing::InDoubt),
                    former_key: known.is_some_and(|lane| !listed.contains(&lane.key.key)),
                    vault_ref: Some(entry.vault_ref),
                });
            }
        }
        Ok(lost)
    }

    /// One older version. Each is a look of its own.
    pub(crate) async fn older(&self, device: DeviceId, version: VersionId) -> Result<Vec<Revealed>> {
        let lanes = self.engines.ledger_reader().lanes(device).await?;
        let entries = self.vault.history(device).await?;
        let entry = entries.into_iter().find(|entry| entry.version == version);
        let unknown =
            || Failure::new(Code::NothingByThatName, format!("{version}: the device has no such version"));
        // The ledger may have been restored from before it knew the version; the vault has its own words for it.
        let keyturn_ports::vault::Entry { lane, vault_ref, .. } = entry.ok_or_else(unknown)?;
        let known = lanes.iter().find(|one| one.key.id() == lane);
        let account = known.map(|lane| lane.about.account_name.to_string()).unwrap_or_default();
        let candidate =
            known.and_then(|lane| lane.candidates().into_iter().find(|one| one.version == version));
        let standing = candidate.map(|candidate| candidate.standing);
        let vault_ref = Some(vault_ref);
        self.show(device, vec![Wanted { version, lane, account, standing, former_key: false, vault_ref }])
            .await
    }

    /// For an export that is in the audit: what a device may have, of every lane that nobody closed. One that the vault
    /// does not have is an error of its own.
    pub(crate) async fn exported(&self, device: DeviceId, lanes: &[Lane]) -> Result<Vec<Result<Revealed>>> {
        let open: Vec<&Lane> = lanes.iter().filter(|lane| lane.closed.is_none()).collect();
        let mut all: Vec<Wanted> = open.iter().flat_map(|lane| wanted(lane, false)).collect();
        all.extend(self.lost(device, lanes, &open, &BTreeSet::new()).await?);
        let mut revealed = Vec::with_capacity(all.len());
        for one in all {
            revealed.push(self.read(one).await);
        }
        Ok(revealed)
    }

    async fn show(&self, device: DeviceId, wanted: Vec<Wanted>) -> Result<Vec<Revealed>> {
        if self.reason.trim().is_empty() {
            return Err(no_reason());
        }
        if wanted.is_empty() {
            let problem =
                format!("{device}: no password is known for this device; see `keyturn device history`");
            return Err(Failure::new(Code::NothingToDo, problem));
        }
        let versions: Vec<String> = wanted.iter().map(|one| one.version.to_string()).collect();
        let row = NewRow {
            at: self.engines.clock().now(),
            actor: self.actor.to_owned(),
            action: Action::SecretGet,
            device: Some(device),
            reason: self.reason.to_owned(),
            detail: format!("versions {}", versions.join(" ")),
        };
        self.engines
            .audit()
            .append(row)
            .await
            .context("the access could not be recorded, so nothing is shown")?;
        let mut revealed = Vec::with_capacity(wanted.len());
        for one in wanted {
            revealed.push(self.read(one).await?);
        }
        Ok(revealed)
    }

    async fn read(&self, wanted: Wanted) -> Result<Revealed> {
        let Wanted { version, lane, account, standing, former_key, vault_ref } = wanted;
        let missing = format!("the vault does not have version {version}; restore it from a backup");
        let vault_ref = match vault_ref {
            Some(vault_ref) => vault_ref,
            None => self
                .engines
                .ledger_reader()
                .vault_ref(version)
                .await?
                .or_fail(Code::VersionMissing, &missing)?,
        };
        let password =
            self.vault.read(lane, version, &vault_ref).await?.or_fail(Code::VersionMissing, &missing)?;
        Ok(Revealed { version, lane, account, standing, former_key, password })
    }
}

fn wanted(lane: &Lane, former_key: bool) -> impl Iterator<Item = Wanted> {
    let (id, account) = (lane.key.id(), lane.about.account_name.to_string());
    lane.candidates().into_iter().map(move |candidate| Wanted {
        version: candidate.version,
        lane: id,
        account: account.clone(),
        standing: Some(candidate.standing),
        former_key,
        vault_ref: None,
    })
}

/// The keys that the directory lists for the device.
async fn listed_keys(engines: &Engines, device: DeviceId) -> Result<BTreeSet<KeyHash>> {
    let record = resolve::record(engines, device).await?;
    let entries = record.into_iter().flat_map(|record| record.alternative_security_ids);
    let keys = entries
        .filter(|entry| entry.kind == DEVICE_KEY)
        .filter_map(|entry| RegisteredKey::decode(&entry.key));
    Ok(keys.map(|key| key.key_hash).collect())
}
