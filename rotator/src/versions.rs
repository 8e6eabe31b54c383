//! The vault work of a batch: find or make the versions that answers carry, and seal them.
//!
//! The leased message is the stored intent. A version made for it earlier, by a worker that died before it could
//! say so, is found by the message's id and used; only if there is none is one made.

use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::lane::Lane;
use keyturn_domain::password::Password;
use keyturn_domain::policies::Policies;
use keyturn_pipeline::aside::aside;
use keyturn_pipeline::handler::Failure;
use keyturn_ports::ledger::{Issued, LedgerReader};
use keyturn_ports::vault::{Entry, NewVersion, Sought, Tags, Vault};
use keyturn_ports::{Error, Kind};
use keyturn_schemas::claims::EphemeralKey;
use keyturn_schemas::seal::{self, Binding, Sealed};

/// A version that an answer needs.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) rid: RequestId,
    pub(crate) lane: Lane,
    pub(crate) epk: EphemeralKey,
    /// The outstanding version to send again; none to make one.
    pub(crate) outstanding: Option<VersionId>,
}

/// A version ready to be sent.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) version: VersionId,
    pub(crate) sealed: Sealed,
    pub(crate) epk: EphemeralKey,
    /// Where the vault has it, if it was made for this message.
    pub(crate) issued: Option<Issued>,
}

/// A version in hand, between the vault and the seal.
struct Held {
    version: VersionId,
    password: Password,
    /// Already in the vault under this reference.
    stored: Option<String>,
}

/// The vault's side of the rotator.
pub(crate) struct Versions<'a> {
    pub(crate) vault: &'a dyn Vault,
    pub(crate) ledger: &'a dyn LedgerReader,
    pub(crate) policies: &'a Policies,
    pub(crate) entropy: &'a dyn Entropy,
}

impl Versions<'_> {
    /// Provides the versions needed, in order. Every version returned is in the vault.
    pub(crate) async fn provide(&self, needs: Vec<Need>) -> Vec<Result<Ready, Failure>> {
        let mut held = Vec::with_capacity(needs.len());
        let found = self.find(&needs).await;
        for (need, found) in needs.iter().zip(found) {
            held.push(match (need.outstanding, found) {
                (_, Err(failure)) => Err(failure),
                (Some(version), Ok(_)) => self.again(need, version).await,
                (None, Ok(Some(entry))) => self.adopt(need, entry).await,
                (None, Ok(None)) => Ok(self.make(need)),
            });
        }
        let sealed = seal_all(&needs, held).await;
        self.store(needs, sealed).await
    }

    /// Versions made earlier for those messages that ask for a new one.
    async fn find(&self, needs: &[Need]) -> Vec<Result<Option<Entry>, Failure>> {
        let sought = |need: &Need| Sought { device: need.lane.key.device, request: need.rid };
        let fresh: Vec<Sought> = needs.iter().filter(|need| need.outstanding.is_none()).map(sought).collect();
        let mut found = if fresh.is_empty() { Vec::new() } else { self.vault.find(fresh).await }.into_iter();
        let mut next = |need: &Need| match need.outstanding {
            Some(_) => Ok(None),
            None => found.next().unwrap_or_else(|| Err(miscounted())).map_err(|error| Failure::from(&error)),
        };
        needs.iter().map(&mut next).collect()
    }

    async fn again(&self, need: &Need, version: VersionId) -> Result<Held, Failure> {
        let missing =
            || Failure::Message(format!("the ledger does not say where the vault keeps version {version}"));
        let vault_ref = self.ledger.vault_ref(version).await.map_err(|error| Failure::from(&error))?;
        self.read(need.lane.key.id(), version, vault_ref.ok_or_else(missing)?).await
    }

    async fn adopt(&self, need: &Need, entry: Entry) -> Result<Held, Failure> {
        self.read(need.lane.key.id(), entry.version, entry.vault_ref).await
    }

    async fn read(&self, lane: LaneId, version: VersionId, vault_ref: String) -> Result<Held, Failure> {
        let missing = || Failure::Message(format!("the vault does not have version {version}"));
        let password =
            self.vault.read(lane, version, &vault_ref).await.map_err(|error| Failure::from(&error))?;
        Ok(Held { version, password: password.ok_or_else(missing)?, stored: Some(vault_ref) })
    }

    fn make(&self, need: &Need) -> Held {
        let passwords = &self.policies.choose(&need.lane).passwords;
        let password = passwords.hinted(need.lane.hints).generate(self.entropy);
        Held { version: VersionId::draw(self.entropy), password, stored: None }
    }

    /// Puts what is not in the vault yet.
    async fn store(
        &self,
        needs: Vec<Need>,
        held: Vec<Result<(Held, Sealed), Failure>>,
    ) -> Vec<Result<Ready, Failure>> {
        let mut puts = Vec::new();
        let mut ready = Vec::with_capacity(held.len());
        for (need, held) in needs.into_iter().zip(held) {
            ready.push(held.map(|(held, sealed)| {
                let Held { version, password, stored } = held;
                let issued = stored.map(|vault_ref| Issued { version, vault_ref });
                if issued.is_none() {
                    puts.push(new_version(&need, version, password));
                }
                let issued = issued.filter(|_| need.outstanding.is_none());
                (Ready { version, sealed, epk: need.epk, issued }, need.outstanding)
            }));
        }
        let stored = if puts.is_empty() { Vec::new() } else { self.vault.put(puts).await };
        for put in &stored {
            let outcome = if put.is_ok() { "stored" } else { "failed" };
            metrics::counter!("keyturn_vault_writes_total", "outcome" => outcome).increment(1);
        }
        let mut stored = stored.into_iter();
        let finish = |ready: Result<(Ready, Option<VersionId>), Failure>| {
            let (mut ready, outstanding) = ready?;
            if ready.issued.is_none() && outstanding.is_none() {
                let entry = stored.next().unwrap_or_else(|| Err(miscounted()));
                let entry = entry.map_err(|error| Failure::from(&error))?;
                ready.issued = Some(Issued { version: entry.version, vault_ref: entry.vault_ref });
            }
            Ok(ready)
        };
        ready.into_iter().map(finish).collect()
    }
}

/// A vault that did not answer for each of those it was asked for.
fn miscounted() -> Error {
    Error::new(Kind::Unavailable, "asking the vault", "it lost count of its answers")
}

fn new_version(need: &Need, version: VersionId, password: Password) -> NewVersion {
    let Lane { key, about, .. } = &need.lane;
    NewVersion {
        request: need.rid,
        version,
        lane: key.id(),
        password,
        tags: Tags {
            user_name: about.account_name.to_string(),
            device: key.device,
            device_name: about.host.to_string(),
            serial_number: about.serial.to_string(),
        },
    }
}

/// Seals each password to the key of its request.
async fn seal_all(needs: &[Need], held: Vec<Result<Held, Failure>>) -> Vec<Result<(Held, Sealed), Failure>> {
    let keys: Vec<(RequestId, LaneId, EphemeralKey)> =
        needs.iter().map(|need| (need.rid, need.lane.key.id(), need.epk)).collect();
    let count = keys.len();
    let seal_one = |((rid, lane, epk), held): ((RequestId, LaneId, EphemeralKey), Result<Held, Failure>)| {
        let held = held?;
        let binding = Binding { rid, lane, version: held.version };
        let sealed = seal::seal(&held.password, &binding, &epk)
            .map_err(|error| Failure::Message(error.to_string()))?;
        Ok((held, sealed))
    };
    let sealing = aside(count, move || keys.into_iter().zip(held).map(seal_one).collect());
    sealing.await.unwrap_or_else(|error| {
        (0..count).map(|_| Err(Failure::Engine(format!("sealing failed: {error}")))).collect()
    })
}
