use proptest::prelude::*;

use super::*;

const LANE: LaneId = LaneId([7; 16]);

fn version(number: u8) -> VersionId {
    VersionId([number; 16])
}

/// A journal that has confirmed version 1, set at second 1.
fn confirmed() -> Journal {
    let mut journal = Journal::default();
    journal.at_start(LANE, None);
    journal.setting(version(1));
    journal.proved(version(1), Some(1));
    journal
}

#[test]
fn a_proof_settles_every_doubt() {
    let mut journal = confirmed();
    journal.setting(version(2));
    journal.refused(version(2), Some(1));
    journal.setting(version(3));
    assert_eq!(journal.known(64).in_doubt, [version(2), version(3)]);
    journal.proved(version(3), Some(2));
    let settled = Journal {
        lane: Some(LANE),
        cur: Some(version(3)),
        prev: Some(version(1)),
        password_set: Some(2),
        ..Journal::default()
    };
    assert_eq!(journal, settled);
}

#[test]
fn a_refused_version_stays_in_doubt_beside_the_current_one() {
    let mut journal = confirmed();
    journal.setting(version(2));
    journal.refused(version(2), Some(1));
    let known = journal.known(64);
    assert_eq!(
        (known.cur, known.in_doubt, known.refused),
        (Some(version(1)), vec![version(2)], vec![version(2)])
    );
}

#[test]
fn a_refusal_that_touched_the_password_puts_the_current_version_in_doubt() {
    let mut journal = confirmed();
    journal.setting(version(2));
    journal.refused(version(2), Some(9));
    let known = journal.known(64);
    assert_eq!((known.cur, known.in_doubt), (None, vec![version(2), version(1)]));
}

#[test]
fn another_time_of_setting_means_the_device_does_not_know() {
    let mut journal = confirmed();
    journal.setting(version(2));
    journal.proved(version(2), Some(2));
    assert!(!journal.at_start(LANE, Some(2)), "nothing changed, nothing to write");
    assert!(journal.at_start(LANE, Some(3)));
    assert_eq!((journal.cur, journal.prev), (None, None));
    assert_eq!(journal.in_doubt, [version(1), version(2)]);
    assert!(!journal.at_start(LANE, Some(3)), "said once");
}

#[test]
fn another_lane_confirms_nothing() {
    let mut journal = confirmed();
    assert!(journal.at_start(LaneId([8; 16]), Some(1)));
    assert_eq!((journal.cur, journal.in_doubt), (None, vec![version(1)]));
}

#[test]
fn proving_the_current_version_again_keeps_its_predecessor() {
    let mut journal = confirmed();
    journal.setting(version(2));
    journal.proved(version(2), Some(2));
    journal.setting(version(2));
    journal.proved(version(2), Some(3));
    assert_eq!((journal.cur, journal.prev), (Some(version(2)), Some(version(1))));
}

#[test]
fn more_doubts_than_a_message_holds_make_no_claim() {
    let mut journal = confirmed();
    for number in 2..=5 {
        journal.setting(version(number));
        journal.refused(version(number), Some(1));
    }
    assert_eq!(journal.known(4).cur, Some(version(1)));
    let known = journal.known(3);
    assert_eq!(known.cur, None);
    assert_eq!(known.in_doubt, [version(3), version(4), version(5)]);
    assert_eq!(known.refused, [version(3), version(4), version(5)]);
}

#[test]
fn it_reads_what_a_newer_release_wrote_and_what_an_older_one_left_out() {
    let id = version(1);
    let journal: Journal =
        serde_json::from_str(&format!(r#"{{"v":1,"cur":"{id}","colour":"red"}}"#)).unwrap();
    assert_eq!(journal, Journal { cur: Some(id), ..Journal::default() });
}

/// What can happen to a device. Between any two steps the agent may crash.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A run: this version is set, and this becomes of it.
    Run { version: u8, fate: Fate, crash_after: u8 },
    /// The account's database loses its last change, although the journal was written.
    LoseLastSet,
    /// The whole disk goes back to where it was at the last snapshot.
    Rollback,
    /// The whole disk is copied.
    Snapshot,
    /// Somebody sets a password by hand.
    ByHand,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Set,
    Refused,
    RefusedButSet,
    Unknown,
}

/// A device: what is on its disk, and what its account really has (none: not a password of ours).
#[derive(Clone, Debug, Default)]
struct Device {
    journal: Journal,
    real: Option<VersionId>,
    last_set: Option<u64>,
    before: Option<(Option<VersionId>, Option<u64>)>,
    clock: u64,
}

impl Device {
    fn set(&mut self, real: Option<VersionId>) {
        // An account database that is flushed before the proof can lose its last change only while the version
        // before it is the proved one, and only once.
        self.before =
            Some((self.real, self.last_set)).filter(|(real, _)| real.is_some() && self.journal.cur == *real);
        self.clock += 1;
        self.real = real;
        self.last_set = Some(self.clock);
    }

    fn run(&mut self, version: VersionId, fate: Fate, crash_after: u8) -> Option<()> {
        let mut steps = (0..crash_after).map(|_| ());
        let mut memory = self.journal.clone();
        if memory.at_start(LANE, self.last_set) {
            self.journal = memory.clone();
        }
        self.check();
        steps.next()?;
        memory.setting(version);
        self.journal = memory.clone();
        self.check();
        steps.next()?;
        if matches!(fate, Fate::Set | Fate::RefusedButSet | Fate::Unknown) {
            self.set(Some(version));
        }
        self.check();
        steps.next()?;
        match fate {
            Fate::Set | Fate::RefusedButSet => memory.proved(version, self.last_set),
            Fate::Refused => memory.refused(version, self.last_set),
            Fate::Unknown => return None,
        }
        self.journal = memory;
        self.check();
        Some(())
    }

    fn check(&self) {
        if let Some(real) = self.real {
            assert!(self.journal.allows(real), "{real:?} is neither current nor in doubt: {self:?}");
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        3 => Just(Fate::Set),
        1 => Just(Fate::Refused),
        1 => Just(Fate::RefusedButSet),
        1 => Just(Fate::Unknown),
    ];
    prop_oneof![
        8 => (1_u8..20, fate, 0_u8..5).prop_map(|(version, fate, crash_after)| Step::Run { version, fate, crash_after }),
        1 => Just(Step::LoseLastSet),
        1 => Just(Step::Rollback),
        1 => Just(Step::Snapshot),
        1 => Just(Step::ByHand),
    ]
}

proptest! {
    #[test]
    fn invariant_the_real_password_is_current_or_in_doubt(steps in prop::collection::vec(step(), 0..60)) {
        let mut device = Device::default();
        let mut snapshot = device.clone();
        for step in steps {
            match step {
                Step::Run { version: number, fate, crash_after } => {
                    device.run(version(number), fate, crash_after);
                }
                Step::LoseLastSet => {
                    if let Some((real, last_set)) = device.before.take() {
                        (device.real, device.last_set) = (real, last_set);
                        // The account is what it was before; the journal says so once the agent has started.
                        let mut memory = device.journal.clone();
                        memory.at_start(LANE, device.last_set);
                        device.journal = memory;
                    }
                }
                Step::Rollback => {
                    let clock = device.clock;
                    device = snapshot.clone();
                    device.clock = clock;
                }
                Step::Snapshot => snapshot = device.clone(),
                Step::ByHand => device.set(None),
            }
            device.check();
        }
    }

    #[test]
    fn invariant_what_a_message_says_never_hides_the_current_version(
        refused in prop::collection::vec(0_u8..200, 0..100), limit in 1_usize..70,
    ) {
        let mut journal = confirmed();
        for number in refused {
            journal.setting(version(number));
            journal.refused(version(number), Some(1));
        }
        let known = journal.known(limit);
        prop_assert!(known.in_doubt.len() <= limit && known.refused.len() <= limit);
        let complete = journal.in_doubt.iter().all(|version| known.in_doubt.contains(version));
        prop_assert!(known.cur.is_none() || complete, "a claim to know goes with all the doubts");
    }
}
