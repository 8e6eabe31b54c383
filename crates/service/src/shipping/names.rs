//! What devices are called: by the directory, or else by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::About;
use keyturn_ports::Error;
use keyturn_ports::directory::Directory;
use keyturn_ports::ledger::LedgerReader;
use tracing::debug;

/// How a device is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Its name in the directory, or else what it says; empty if neither is known.
    pub computer: String,
    /// The serial number that it says it has; empty if it said none.
    pub serial: String,
}

/// The names of devices, each looked up once. They are good for a page of rows, and not for ever.
pub struct Names {
    directory: Option<Arc<dyn Directory>>,
    ledger: Arc<dyn LedgerReader>,
    known: BTreeMap<DeviceId, Named>,
}

impl Names {
    /// No names yet.
    pub fn new(directory: Arc<dyn Directory>, ledger: Arc<dyn LedgerReader>) -> Self {
        Self { directory: Some(directory), ledger, known: BTreeMap::new() }
    }

    /// How a device is called. A directory that does not answer is not asked again: rows leave without it.
    pub async fn of(&mut self, device: Option<DeviceId>) -> Result<Named, Error> {
        let Some(device) = device else { return Ok(Named::default()) };
        if let Some(known) = self.known.get(&device) {
            return Ok(known.clone());
        }
        let listed = self.listed(device).await;
        let lanes = self.ledger.lanes(device).await?;
        let label = |of: fn(&About) -> String| lanes.last().map(|lane| of(&lane.about));
        let named = Named {
            computer: listed.or_else(|| label(|about| about.host.to_string())).unwrap_or_default(),
            serial: label(|about| about.serial.to_string()).unwrap_or_default(),
        };
        self.known.insert(device, named.clone());
        Ok(named)
    }

    async fn listed(&mut self, device: DeviceId) -> Option<String> {
        match self.directory.as_ref()?.look_up(vec![device]).await.pop()? {
            Ok(answer) => answer.records.into_iter().next()?.display_name,
            Err(error) => {
                debug!(%error, "devices are called what they say they are");
                self.directory = None;
                None
            }
        }
    }
}
