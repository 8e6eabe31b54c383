//! What the agent says: requests and reports, from the journal and the account.

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{InstallId, LaneId, MessageMark, VersionId};
use keyturn_domain::journal::{Journal, Known};
use keyturn_domain::lane::{Hints, LaneKey};
use keyturn_schemas::claims::{
    Account, Common, EphemeralKey, MAX_LISTED, Report, ReportOp, Request, RequestOp, State, Version1,
};
use keyturn_schemas::message::Claims;
use keyturn_schemas::nonce::Nonce;

use crate::accounts::{Accounts, Found};
use crate::settings::Settings;

/// Who speaks: the same in every message of a run.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub(crate) install: InstallId,
    pub(crate) account: Account,
    pub(crate) hints: Hints,
    /// When the password was last set, in seconds since the epoch.
    pub(crate) password_set: Option<u64>,
    /// Whether the account had to be created in this run.
    pub(crate) account_missing: bool,
}

impl Speaker {
    pub(crate) fn new(
        install: InstallId,
        found: &Found,
        account_missing: bool,
        accounts: &dyn Accounts,
    ) -> Self {
        let account = Account { id: found.id.clone(), name: accounts.name() };
        Self { install, account, hints: accounts.hints(), password_set: found.set_at, account_missing }
    }

    /// The lane it speaks for.
    pub(crate) fn lane(&self, settings: &Settings) -> LaneId {
        let key = LaneKey {
            device: settings.device,
            account: self.account.id.clone(),
            install: self.install,
            key: settings.identity.key_hash(),
        };
        key.id()
    }

    /// A request for a new password.
    pub(crate) fn request(
        &self,
        common: Common,
        journal: &Journal,
        epk: EphemeralKey,
        settings: &Settings,
    ) -> Claims {
        let state = State { account_missing: self.account_missing, ..self.state(journal, common.iat) };
        Claims::Request(Request {
            common,
            op: RequestOp::Rotate,
            epk,
            wait_s: u32::try_from(settings.wait.as_secs()).unwrap_or(u32::MAX),
            state,
            policy: self.hints,
            reason: keyturn_domain::label::Label::default(),
        })
    }

    /// A report of what became of a version.
    pub(crate) fn report(&self, common: Common, journal: &Journal, op: ReportOp) -> Claims {
        let state = self.state(journal, common.iat);
        Claims::Report(Report { common, op, state, policy: self.hints })
    }

    /// What every message says.
    pub(crate) fn common(
        &self,
        settings: &Settings,
        nonce: Nonce,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Common {
        Common {
            v: Version1,
            aud: settings.deployment.clone(),
            jti: MessageMark(entropy.bytes()),
            iat: clock.now().0 / 1000,
            nonce,
            device_id: settings.device,
            labels: settings.labels.clone(),
            account: self.account.clone(),
            install_id: self.install,
        }
    }

    /// The journal as a message tells it.
    fn state(&self, journal: &Journal, now_s: u64) -> State {
        let Known { cur, in_doubt, refused } = journal.known(MAX_LISTED);
        let set = |list: Vec<VersionId>| list.into_iter().collect();
        State {
            cur,
            in_doubt: set(in_doubt),
            refused: set(refused),
            password_age: self.password_set.map(|at| now_s.saturating_sub(at)),
            account_missing: false,
        }
    }
}
