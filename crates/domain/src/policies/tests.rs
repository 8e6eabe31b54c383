use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::label::Label;
use crate::password::Complexity;

fn policy(length: u32, hours: u64) -> Policy {
    let passwords = PasswordPolicy::windows_laps(Complexity::Full, length, 6, None).unwrap();
    let rotation =
        RotationPolicy { update_frequency: Duration::from_hours(hours), ..RotationPolicy::default() };
    Policy { passwords, rotation }
}

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 16])
}

fn about(host: &str, os: &str) -> About {
    let label = |text| Label::parse(text).unwrap();
    About { host: label(host), os: label(os), ..About::default() }
}

fn who(id: u8, about: &About) -> Who<'_> {
    Who { device: device(id), groups: const { &BTreeSet::new() }, about }
}

fn by_ids(ids: &[u8]) -> Members {
    Members { devices: Some(ids.iter().copied().map(device).collect()), ..Members::default() }
}

fn by_host(pattern: &str) -> Members {
    Members { hosts: Some(vec![pattern.parse().unwrap()]), ..Members::default() }
}

fn group(name: &str, members: Members, policy: Policy) -> Group {
    Group { name: name.to_owned(), members, policy }
}

#[test]
fn the_first_group_wins_and_every_criterion_counts() {
    let (default, one, two, three) = (policy(16, 72), policy(12, 72), policy(18, 24), policy(20, 24));
    let both = Members { systems: Some(vec!["*linux*".parse().unwrap()]), ..by_host("srv-*") };
    let groups = vec![
        group("one", by_ids(&[1]), one.clone()),
        group("two", both, two.clone()),
        group("three", by_host("*"), three.clone()),
        group("nobody", Members::default(), one.clone()),
    ];
    let policies = Policies::new(default.clone(), groups[..2].to_vec()).unwrap();
    assert_eq!(policies.choose(who(1, &about("srv-1", "Debian Linux"))), &one);
    assert_eq!(policies.choose(who(2, &about("SRV-1", "Debian Linux"))), &two);
    assert_eq!(policies.choose(who(2, &about("srv-1", "Windows"))), &default);
    assert_eq!(policies.choose(who(2, &about("pc-1", "Debian Linux"))), &default);
    let policies = Policies::new(default.clone(), groups).unwrap();
    assert_eq!(policies.choose(who(2, &about("srv-1", "Debian Linux"))), &two);
    assert_eq!(policies.choose(who(2, &about("", ""))), &three);
    let policies = Policies::new(default.clone(), vec![group("nobody", Members::default(), one)]).unwrap();
    assert_eq!(policies.choose(who(1, &about("x", "y"))), &default);
}

#[test]
fn a_claim_must_not_lead_to_a_weaker_policy() {
    let default = policy(16, 72);
    let refused = |groups: Vec<Group>| Policies::new(default.clone(), groups).unwrap_err();
    let shorter = refused(vec![group("kiosks", by_host("kiosk-*"), policy(15, 72))]);
    assert_eq!(shorter.len(), 1);
    let text = shorter[0].to_string();
    for part in ["host, os", "the default", "bits", "devices_file"] {
        assert!(text.contains(part), "{text}");
    }
    let rarer = refused(vec![group("kiosks", by_host("kiosk-*"), policy(16, 73))]);
    assert!(rarer[0].to_string().contains("update_frequency of 73h"), "{}", rarer[0]);
    // By ids alone a group may be weaker, unless a claim leads past a stronger one.
    Policies::new(default.clone(), vec![group("kiosks", by_ids(&[1]), policy(12, 100))]).unwrap();
    let (strong, claimed) =
        (group("vips", by_ids(&[1]), policy(20, 72)), group("all", by_host("*"), policy(16, 72)));
    let past = refused(vec![claimed.clone(), strong.clone()]);
    assert!(past[0].to_string().contains("move it below"), "{}", past[0]);
    Policies::new(default.clone(), vec![strong, claimed]).unwrap();
}

#[test]
fn groups_of_the_directory_are_asked_for_and_count_like_ids() {
    let directory = |number: u8| GroupId::from_bytes([number; 16]);
    let in_groups = |numbers: &[u8]| Members {
        groups: Some(numbers.iter().copied().map(directory).collect()),
        ..Members::default()
    };
    let (default, weak, strong) = (policy(16, 72), policy(12, 100), policy(20, 24));
    let groups = vec![
        group("kiosks", in_groups(&[1, 2]), weak.clone()),
        group("admins", Members { groups: in_groups(&[3]).groups, ..by_ids(&[7]) }, strong.clone()),
    ];
    let policies = Policies::new(default.clone(), groups.clone()).unwrap();
    assert_eq!(policies.directory_groups(), [1, 2, 3].map(directory).into());
    let about = about("srv-1", "Windows");
    let chosen = |id: u8, member: &[u8]| {
        let member = member.iter().copied().map(directory).collect();
        policies.choose(Who { groups: &member, ..who(id, &about) }).clone()
    };
    assert_eq!(chosen(1, &[9, 2]), weak);
    assert_eq!(chosen(1, &[9]), default);
    assert_eq!(chosen(1, &[]), default);
    // The group and the id, both.
    assert_eq!(chosen(1, &[3]), default);
    assert_eq!(chosen(7, &[3]), strong);
    assert_eq!(chosen(7, &[3, 1]), weak);
    // A claim must not lead past what the directory says.
    let claimed = group("all", by_host("*"), policy(16, 72));
    let refused = Policies::new(default, [vec![claimed], groups].concat()).unwrap_err();
    assert!(refused[0].to_string().contains("move it below"), "{}", refused[0]);
}

fn any_group() -> impl Strategy<Value = Group> {
    let members = prop_oneof![
        proptest::collection::vec(0_u8..4, 1..3).prop_map(|ids| by_ids(&ids)),
        prop_oneof![Just("a*"), Just("*b"), Just("*")].prop_map(by_host),
        (0_u8..4).prop_map(|id| Members { devices: by_ids(&[id]).devices, ..by_host("a*") }),
    ];
    (members, 14_u32..20, 60_u64..80)
        .prop_map(|(members, length, hours)| group("g", members, policy(length, hours)))
}

proptest! {
    /// Whatever a device says, it comes under nothing weaker than it would with nothing but its id.
    #[test]
    fn invariant_no_claim_is_rewarded(
        groups in proptest::collection::vec(any_group(), 0..5), id in 0_u8..4, host in "[ab]{0,3}",
    ) {
        let proven: Vec<Group> = groups.iter().filter(|one| !one.members.is_claimed()).cloned().collect();
        if let Ok(policies) = Policies::new(policy(16, 72), groups) {
            let chosen = policies.choose(who(id, &about(&host, "")));
            let silent = Policies::new(policy(16, 72), proven).unwrap();
            let silent = silent.choose(who(id, &about("", "")));
            prop_assert!(chosen.passwords.entropy_bits() >= silent.passwords.entropy_bits());
            prop_assert!(chosen.rotation.update_frequency <= silent.rotation.update_frequency);
        }
    }
}
