use keyturn_domain::ids::RequestId;

use super::*;
use crate::dead_letters::{Attempt, DeadLetterId};
use crate::queue::NewMessage;

const NOW: UnixMillis = UnixMillis(10_000_000);

fn letter() -> DeadLetter {
    let device = DeviceId::parse_any_case("3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11").unwrap();
    DeadLetter {
        id: DeadLetterId(17),
        queue: QueueName::Findings,
        message: NewMessage { request: RequestId([1; 32]), device, body: String::new() },
        reason: DeadReason::Exhausted,
        attempts: vec![
            Attempt { at: UnixMillis(1), error: "first".to_owned() },
            Attempt { at: UnixMillis(2), error: "The vault said \"no\", again".to_owned() },
        ],
        deliveries: 5,
        enqueued: UnixMillis(0),
        died: NOW.minus(Duration::from_mins(10)),
    }
}

fn matches(filter: &str) -> bool {
    let facts = Facts {
        now: NOW,
        labels: vec!["LAB-07".to_owned(), "5CG Ä1".to_owned()],
        groups: vec!["kiosks".to_owned()],
    };
    filter.parse::<Filter>().unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&letter(), &facts)
}

#[test]
fn every_key_holds_and_fails() {
    for (holds, fails) in [
        ("reason:exhausted", "reason:untrusted"),
        ("queue:findings", "queue:requests"),
        ("queue:requests,findings", "queue:requests,alarms"),
        ("device:3F6A1C2E-0b1d-4c55-9a77-5d1f0c9b2e11", "device:3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e12"),
        ("label:lab-07", "label:lab-0"),
        ("label:LAB-*", "label:*-08"),
        ("label:*ab*0*", "label:*07*0*"),
        (r#"label:"5cg ä1""#, r#"label:"5cg""#),
        ("group:kiosks", "group:default"),
        ("age:>9m", "age:>10m"),
        ("age:>=10m", "age:<10m"),
        ("age:<=10m", "age:<600s"),
        ("attempts:5", "attempts:4"),
        ("attempts:>4", "attempts:>5"),
        ("attempts:<=5", "attempts:<5"),
        ("error:VAULT", "error:first"),
        (r#"error:"said \"no\", again""#, r#"error:"said \\""#),
        ("id:17", "id:18"),
        ("id:3-17", "id:18-19"),
        ("", "-id:1-99"),
        ("  reason:exhausted   age:>1m ", "reason:exhausted age:>1d"),
        ("-reason:untrusted", "-reason:untrusted,exhausted"),
    ] {
        assert!(matches(holds), "{holds}");
        assert!(!matches(fails), "{fails}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let long = "a".repeat(LONGEST + 1);
    let many = format!("id:1{}", ",1".repeat(MOST_VALUES));
    for (text, at, problem) in [
        ("exhausted", 1, "expected key:value"),
        ("reason:exhausted raeson:x", 18, "no such key; the keys are reason"),
        ("reason:exhuasted", 8, "the reasons are undecodable"),
        ("queue:requests,nowhere", 16, "the queues are requests"),
        ("device:LAB-07", 8, "for a name, label:"),
        ("age:10m", 5, "like >10m"),
        ("age:>10", 5, "like >10m"),
        ("age:>+1m", 5, "like >10m"),
        ("attempts:many", 10, "expected a number"),
        ("attempts:-1", 10, "expected a number"),
        ("attempts:99999999999", 10, "expected a number"),
        ("id:40-17", 4, "a range"),
        ("id:+1", 4, "a range"),
        ("reason:", 8, "a value is missing"),
        ("reason:exhausted,", 18, "a value is missing"),
        (r#"label:"""#, 7, "a value is missing"),
        (r#"label:"LAB"#, 7, "does not end"),
        (r#"label:a"b"#, 8, "a whole value"),
        (r#"label:"a"b"#, 10, "a blank or a comma"),
        (r#"label:"\n""#, 8, "stands before"),
        ("--id:1", 2, "expected key:value"),
        (&long, LONGEST + 1, "longer than"),
        (&many, 4 + 2 * MOST_VALUES, "more than 64 values"),
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        assert!(error.at == at && error.problem.contains(problem), "{text:.40}: {error}");
    }
}

#[test]
fn a_name_stands_for_a_device_only_where_it_was_said_whose_it_is() {
    let told = r#"-device:"LAB 07",LAB-08"#.parse::<Filter>().unwrap_err();
    assert_eq!((told.at, told.device.as_deref()), (9, Some("LAB 07")));
    let device = letter().message.device;
    let mut names = BTreeMap::from([("LAB 07".to_owned(), device)]);
    let told = Filter::naming(r#"-device:"LAB 07",LAB-08"#, &names).unwrap_err();
    assert_eq!(told.device.as_deref(), Some("LAB-08"));
    let named = Filter::naming(r#"device:"LAB 07""#, &names).unwrap();
    assert!(named.matches(&letter(), &Facts::default()) && !named.needs_names());
    names.insert("LAB 07".to_owned(), DeviceId::from_bytes([9; 16]));
    assert!(!Filter::naming(r#"device:"LAB 07""#, &names).unwrap().matches(&letter(), &Facts::default()));
    assert_eq!(Filter::naming("raeson:LAB-07", &names).unwrap_err().device, None);
}

#[test]
fn names_are_asked_for_only_if_they_matter() {
    for (text, needs) in [("reason:exhausted", false), ("label:x", true), ("-group:x", true), ("", false)] {
        assert_eq!(text.parse::<Filter>().unwrap().needs_names(), needs, "{text}");
    }
    assert_eq!("".parse::<Filter>().unwrap().to_string(), "all");
    assert_eq!(" id:1  age:>1d ".parse::<Filter>().unwrap().to_string(), "id:1  age:>1d");
}
