//! A device and a server under a hostile network, with the production decisions on both sides.
//!
//! The device's journal and the server's ledger are the real ones; everything around them is as bad as the
//! protocol allows: messages never disappear and may be handled at any time and any number of times, handlers
//! overlap and die between any two steps, the agent crashes between any two steps, the operating system refuses
//! passwords or sets them and says it did not, the journal is lost, the disk is rolled back, the server's store is
//! restored from an older copy, with the vault's versions put back from its recovery log. After every step:
//!
//! - the account's password is in the vault (retrievable), and
//! - it is among the candidates that a reveal shows, unless the disk was rolled back and the server, as its
//!   store remembers, has not heard of the device since (shown).
//!
//! The protocol's explicit-state model checks the same properties exhaustively in small bounds; this checks the
//! code, in large ones.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyturn_domain::ids::{DeviceId, InstallId, KeyHash, LaneId, RequestId, VersionId};
use keyturn_domain::journal::Journal;
use keyturn_domain::lane::{
    About, Heard, HeardKind, Hints, Lane, LaneKey, Order, Reply, Reported, RotationPolicy, decide, minted,
};
use keyturn_domain::time::UnixMillis;
use proptest::prelude::*;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// The agent asks, or goes on with what it is doing, in the given way.
    Agent(How),
    AgentDies,
    /// A handler takes one of all messages ever sent.
    Take(usize),
    /// A handler goes on.
    Handle(usize),
    HandlerDies(usize),
    Force,
    JournalIsLost,
    SnapshotDisk,
    RollDiskBack,
    /// A copy of the server's store is made.
    BackUp,
    /// The copy is put in place of the store; what only the vault lost comes back from its log.
    Restore,
    Pass(u32),
}

/// How the operating system takes a password.
#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    Refusing,
    RefusingButSetting,
}

#[derive(Clone)]
struct Message {
    rid: RequestId,
    order: Order,
    journal: Journal,
    is_request: bool,
    /// How often the disk had been rolled back when it was sent.
    epoch: u32,
}

#[derive(Clone, Copy)]
enum Phase {
    Commit,
    Publish,
}

struct Handler {
    message: Message,
    phase: Phase,
    lane: Option<Lane>,
    revision: u64,
    found: BTreeSet<VersionId>,
    version: Option<VersionId>,
}

/// Where the agent is in its run. All of it is memory, gone with a crash.
#[derive(Clone, Copy)]
enum Stage {
    Idle,
    Waiting(RequestId),
    Journaled(VersionId),
    Set(VersionId),
    Closed,
}

/// What the server's store holds beside the vault. The results and what the handlers hold are lost with it.
#[derive(Clone)]
struct Store {
    issued: BTreeSet<VersionId>,
    lane: Option<Lane>,
    revision: u64,
    done: BTreeSet<RequestId>,
    results: BTreeMap<RequestId, VersionId>,
    /// The lane's restore that was found when it was last stored.
    generation: u32,
    /// How often the disk had been rolled back when the device was last heard of.
    heard: u32,
}

struct World {
    now: u64,
    drawn: u64,
    policy: RotationPolicy,
    key: LaneKey,
    /// The account: which version it has, and when it was set.
    account: Option<VersionId>,
    set_at: Option<u64>,
    disk: Journal,
    stage: Stage,
    snapshot: Option<(Option<VersionId>, Option<u64>, Journal)>,
    epoch: u32,
    messages: Vec<Message>,
    handlers: Vec<Handler>,
    vault: BTreeSet<VersionId>,
    store: Store,
    backup: Option<Store>,
    /// How often the store was restored, and when last: what is kept outside of it.
    restores: u32,
    restored: Option<UnixMillis>,
}

impl World {
    fn new() -> Self {
        let key = LaneKey {
            device: DeviceId::from_bytes([1; 16]),
            account: "uid-1000".parse().unwrap(),
            install: InstallId([2; 32]),
            key: KeyHash([3; 32]),
        };
        // Limits that only slow things down would keep the interesting states out of reach.
        let policy =
            RotationPolicy { versions_per_window: 1000, refusals_to_hold: 1000, ..RotationPolicy::default() };
        Self {
            now: 1_000_000,
            drawn: 0,
            policy,
            key,
            account: None,
            set_at: None,
            disk: Journal::default(),
            stage: Stage::Idle,
            snapshot: None,
            epoch: 0,
            messages: Vec::new(),
            handlers: Vec::new(),
            vault: BTreeSet::new(),
            store: Store {
                issued: BTreeSet::new(),
                lane: None,
                revision: 0,
                done: BTreeSet::new(),
                results: BTreeMap::new(),
                generation: 0,
                heard: 0,
            },
            backup: None,
            restores: 0,
            restored: None,
        }
    }

    /// The lane as an engine loads it.
    fn lane(&self) -> Option<Lane> {
        let mut lane = self.store.lane.clone()?;
        if let Some(at) = self.restored.filter(|_| self.store.generation != self.restores) {
            lane.restore(at);
        }
        Some(lane)
    }

    /// What the vault has of the lane and the ledger does not know, if the ledger may have lost some.
    fn found(&self) -> BTreeSet<VersionId> {
        let lost = self.lane().map_or(self.restored.is_some(), |lane| lane.restored.is_some());
        self.vault.difference(&self.store.issued).copied().filter(|_| lost).collect()
    }

    fn lane_id(&self) -> LaneId {
        self.key.id()
    }

    fn apply(&mut self, op: Op) {
        self.now += 1;
        match op {
            Op::Agent(how) => self.agent(how),
            Op::AgentDies => self.stage = Stage::Idle,
            Op::Take(at) => self.take(at),
            Op::Handle(at) => self.handle(at),
            Op::HandlerDies(at) => {
                if !self.handlers.is_empty() {
                    self.handlers.swap_remove(at % self.handlers.len());
                }
            }
            Op::Force => {
                if let Some(lane) = &mut self.store.lane {
                    lane.forced.get_or_insert(UnixMillis(self.now));
                    self.store.revision += 1;
                }
            }
            Op::JournalIsLost => {
                self.disk = Journal::default();
                self.stage = Stage::Idle;
            }
            Op::SnapshotDisk => self.snapshot = Some((self.account, self.set_at, self.disk.clone())),
            Op::RollDiskBack => {
                if let Some((account, set_at, disk)) = self.snapshot.clone() {
                    (self.account, self.set_at, self.disk) = (account, set_at, disk);
                    self.stage = Stage::Idle;
                    self.epoch += 1;
                }
            }
            Op::BackUp => self.backup = Some(self.store.clone()),
            Op::Restore => {
                if let Some(store) = self.backup.clone() {
                    self.store = store;
                    self.restores += 1;
                    self.restored = Some(UnixMillis(self.now));
                    // Whoever was at work on the store was stopped for it.
                    self.handlers.clear();
                }
            }
            Op::Pass(seconds) => self.now += u64::from(seconds) * 1000,
        }
    }

    fn agent(&mut self, how: How) {
        match self.stage {
            Stage::Idle => {
                self.disk.at_start(self.lane_id(), self.set_at);
                let rid = self.send(true);
                self.stage = Stage::Waiting(rid);
            }
            Stage::Waiting(rid) => {
                if let Some(version) = self.store.results.get(&rid).copied() {
                    self.disk.setting(version);
                    self.stage = Stage::Journaled(version);
                }
            }
            Stage::Journaled(version) => {
                if !matches!(how, How::Refusing) {
                    self.account = Some(version);
                    self.set_at = Some(self.now);
                }
                self.stage = Stage::Set(version);
            }
            Stage::Set(version) => {
                if self.account == Some(version) {
                    self.disk.proved(version, self.set_at);
                } else {
                    self.disk.refused(version, self.set_at);
                }
                self.stage = Stage::Closed;
            }
            Stage::Closed => {
                self.send(false);
                self.stage = Stage::Idle;
            }
        }
    }

    fn send(&mut self, is_request: bool) -> RequestId {
        let nonce = UnixMillis(self.now);
        self.now += 1;
        let mut rid = [0; 32];
        rid[..8].copy_from_slice(&u64::try_from(self.messages.len()).unwrap().to_be_bytes());
        let (rid, order) = (RequestId(rid), Order { received: UnixMillis(self.now), nonce });
        self.messages.push(Message { rid, order, journal: self.disk.clone(), is_request, epoch: self.epoch });
        rid
    }

    fn take(&mut self, at: usize) {
        if self.messages.is_empty() || self.handlers.len() >= 3 {
            return;
        }
        let message = self.messages[at % self.messages.len()].clone();
        if self.store.done.contains(&message.rid) {
            return;
        }
        let heard = self.heard(&message);
        let lanes: Vec<Lane> = self.lane().into_iter().collect();
        let decision = decide(&lanes, self.restored, &heard, &self.policy, UnixMillis(self.now));
        let mut handler = Handler {
            message,
            phase: Phase::Commit,
            lane: decision.lane,
            revision: self.store.revision,
            found: heard.state.found.clone(),
            version: None,
        };
        match (decision.reply, handler.lane.as_mut()) {
            (Reply::Mint(reason), Some(lane)) => {
                self.drawn += 1;
                let mut version = [0; 16];
                version[..8].copy_from_slice(&self.drawn.to_be_bytes());
                let version = VersionId(version);
                self.vault.insert(version);
                minted(lane, version, reason, &self.policy, UnixMillis(self.now));
                handler.version = Some(version);
            }
            (Reply::Reseal(version), _) => handler.version = Some(version),
            _ => {}
        }
        self.handlers.push(handler);
    }

    fn heard(&self, message: &Message) -> Heard {
        let known = message.journal.known(64);
        let set = |list: &[VersionId]| list.iter().copied().collect::<BTreeSet<_>>();
        let named: BTreeSet<VersionId> =
            known.cur.iter().chain(&known.in_doubt).chain(&known.refused).copied().collect();
        Heard {
            key: self.key.clone(),
            kind: if message.is_request {
                HeardKind::Request { wait: Duration::from_hours(1) }
            } else {
                HeardKind::Report
            },
            order: message.order,
            state: Reported {
                cur: known.cur,
                in_doubt: set(&known.in_doubt),
                refused: set(&known.refused),
                account_missing: false,
                issued: named.intersection(&self.store.issued).copied().collect(),
                found: self.found(),
            },
            hints: Hints::default(),
            about: About::default(),
            groups: None,
            directory_answered: UnixMillis(self.now),
        }
    }

    fn handle(&mut self, at: usize) {
        if self.handlers.is_empty() {
            return;
        }
        let mut handler = self.handlers.swap_remove(at % self.handlers.len());
        match handler.phase {
            Phase::Commit => {
                // The lane changed meanwhile, or another copy was quicker: nothing takes effect.
                let stale = handler.revision != self.store.revision;
                if stale || !self.store.done.insert(handler.message.rid) {
                    return;
                }
                if let Some(lane) = handler.lane.take() {
                    self.store.issued.extend(lane.outstanding.map(|dated| dated.version));
                    self.store.issued.append(&mut handler.found);
                    if lane.restored.is_none() {
                        self.store.generation = self.restores;
                    }
                    self.store.lane = Some(lane);
                    self.store.revision += 1;
                    self.store.heard = self.store.heard.max(handler.message.epoch);
                }
                handler.phase = Phase::Publish;
                self.handlers.push(handler);
            }
            Phase::Publish => {
                let outstanding =
                    self.store.lane.as_ref().and_then(|lane| lane.outstanding).map(|dated| dated.version);
                if let Some(version) = handler.version.filter(|version| outstanding == Some(*version)) {
                    self.store.results.entry(handler.message.rid).or_insert(version);
                }
            }
        }
    }

    fn invariant_retrievable(&self) -> Result<(), String> {
        match self.account {
            Some(version) if !self.vault.contains(&version) => Err(format!("{version} is not in the vault")),
            _ => Ok(()),
        }
    }

    fn invariant_shown(&self) -> Result<(), String> {
        let Some(version) = self.account.filter(|_| self.store.heard == self.epoch) else { return Ok(()) };
        let candidates = self.lane().as_ref().map(Lane::candidates).unwrap_or_default();
        let found = self.found();
        if found.contains(&version) || candidates.iter().any(|candidate| candidate.version == version) {
            return Ok(());
        }
        Err(format!("the account has {version}, shown are {candidates:?} and {found:?}"))
    }

    /// When faults stop, a few honest rounds lead to one confirmed password and nothing else.
    fn invariant_live(&mut self) -> Result<(), String> {
        self.handlers.clear();
        self.stage = Stage::Idle;
        for _ in 0..4 {
            self.now += 4 * 24 * 3600 * 1000;
            self.stage = Stage::Idle;
            for _ in 0..5 {
                self.apply(Op::Agent(How::Well));
                let last = self.messages.len() - 1;
                self.take(last);
                while !self.handlers.is_empty() {
                    self.handle(0);
                }
            }
        }
        let lane = self.lane().ok_or("there is no lane")?;
        let confirmed = lane.confirmed.map(|dated| dated.version);
        let settled = confirmed == self.account && lane.outstanding.is_none() && lane.in_doubt.is_empty();
        let settled = settled && lane.restored.is_none() && self.found().is_empty();
        if settled && self.account.is_some() { Ok(()) } else { Err(format!("not settled: {lane:?}")) }
    }
}

/// A history with lost journals or with disks rolled back, not with both: a disk rolled back to a moment at which
/// its journal was lost brings back a password that nobody remembers. It is among the older versions then, which
/// are shown on request; the protocol promises no more.
fn history() -> impl Strategy<Value = Vec<Op>> {
    (any::<bool>(), proptest::collection::vec(op(), 0..160)).prop_map(|(losing, mut ops)| {
        ops.retain(|op| match op {
            Op::JournalIsLost => losing,
            Op::RollDiskBack => !losing,
            _ => true,
        });
        ops
    })
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![8 => Just(How::Well), 1 => Just(How::Refusing), 1 => Just(How::RefusingButSetting)];
    prop_oneof![
        12 => how.prop_map(Op::Agent),
        1 => Just(Op::AgentDies),
        8 => any::<usize>().prop_map(Op::Take),
        12 => any::<usize>().prop_map(Op::Handle),
        1 => any::<usize>().prop_map(Op::HandlerDies),
        2 => Just(Op::Force),
        1 => Just(Op::JournalIsLost),
        1 => Just(Op::SnapshotDisk),
        1 => Just(Op::RollDiskBack),
        1 => Just(Op::BackUp),
        1 => Just(Op::Restore),
        1 => (1_u32..400_000).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_step(ops in history()) {
        let mut world = World::new();
        for (at, op) in ops.iter().enumerate() {
            world.apply(*op);
            let checked = world.invariant_retrievable().and_then(|()| world.invariant_shown());
            prop_assert!(checked.is_ok(), "after step {at}, {op:?}: {checked:?}");
        }
        let settled = world.invariant_live();
        prop_assert!(settled.is_ok(), "{settled:?}");
        prop_assert!(world.invariant_retrievable().is_ok() && world.invariant_shown().is_ok());
    }
}
