//! What the vault has and the ledger lost: looked for where the ledger was restored from a backup and the device has
//! not said since then what it uses.
//!
//! The vault may be younger than the ledger: it is another store, or its recovery log was put back. A version that
//! the ledger does not know may be in use. One that it knows is a candidate or is superseded, as the ledger says.

use std::collections::BTreeMap;

use keyturn_domain::ids::VersionId;
use keyturn_domain::lane::LaneKey;
use keyturn_pipeline::handler::Failure;
use keyturn_ports::ledger::{Issued, Loaded, Stored, Wanted};

use crate::handler::Inner;
use crate::judge::{Judged, Verdict};
use crate::plan;

/// Whether the ledger may have lost versions of this lane.
fn is_unsure(loaded: &Loaded, lane: &LaneKey) -> bool {
    let known = loaded.lanes.iter().find(|stored| stored.value.key == *lane);
    match known {
        Some(Stored { value, .. }) => value.restored.is_some(),
        None => loaded.restored.is_some(),
    }
}

impl Inner {
    /// The versions that the ledger lost of the lane that a message speaks for. Asks nobody, and finds none, unless
    /// the ledger was restored.
    pub(crate) async fn lost(&self, judged: &Judged, loaded: &Loaded) -> Result<Vec<Issued>, Failure> {
        if !matches!(judged.verdict, Verdict::Decide(_)) || !is_unsure(loaded, &judged.lane) {
            return Ok(Vec::new());
        }
        let (device, lane) = (judged.lane.device, judged.lane.id());
        let entries = self.ports.vault.history(device).await.map_err(|error| Failure::from(&error))?;
        let there: BTreeMap<VersionId, String> = entries
            .into_iter()
            .filter(|entry| entry.lane == lane)
            .map(|entry| (entry.version, entry.vault_ref))
            .collect();
        let asked = Wanted { versions: there.keys().copied().collect(), ..plan::wanted(judged) };
        let known = self.ports.ledger.load(vec![asked]).await.map_err(|error| Failure::from(&error))?;
        let known = |version: &VersionId| known.iter().any(|loaded| loaded.issued.contains(version));
        let lost = there.into_iter().filter(|(version, _)| !known(version));
        Ok(lost.map(|(version, vault_ref)| Issued { version, vault_ref }).collect())
    }
}
