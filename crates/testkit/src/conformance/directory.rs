//! The contracts of [`Directory`] and [`DirectoryAdmin`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::directory::{AlternativeSecurityId, DeviceRecord, Directory, DirectoryAdmin, Listed};

use super::{Subject, sample};

fn record(n: u8) -> DeviceRecord {
    DeviceRecord {
        device_id: sample::device(n),
        display_name: Some(format!("Lab-{n}")),
        account_enabled: Some(true),
        trust_type: Some("AzureAd".to_owned()),
        alternative_security_ids: vec![AlternativeSecurityId { kind: 2, key: "WAA1ADAAOQA=".to_owned() }],
        operating_system: None,
        groups: None,
    }
}

async fn find(directory: &impl Directory, device: DeviceId) -> Vec<DeviceRecord> {
    directory.look_up(vec![device]).await.remove(0).unwrap().records
}

/// Known or not, every device gets its answer, in the order asked, with the time of the answer.
pub async fn answers_come_in_order_and_say_when(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    engine.put(vec![record(1), record(2)]).await.unwrap();
    clock.advance(Duration::from_secs(5));
    let answers = engine.look_up([2, 9, 1].map(sample::device).to_vec()).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.answered == clock.now()));
    let records: Vec<_> = answers.into_iter().map(|answer| answer.records).collect();
    assert_eq!(records, [vec![record(2)], vec![], vec![record(1)]]);
}

/// The groups of a device are kept, in whatever form an export has them.
pub async fn groups_are_part_of_a_record(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let engine = subject.engine();
    let export = serde_json::json!({
        "deviceId": sample::device(1).to_string(),
        "transitiveMemberOf": [
            {"@odata.type": "#microsoft.graph.group", "id": "FEE2C45B-915A-4A64-B130-F4EB9E75525E", "displayName": "Kiosks"},
            {"@odata.type": "#microsoft.graph.administrativeUnit", "id": null},
            7,
        ],
    });
    let read: DeviceRecord = serde_json::from_value(export).unwrap();
    engine.put(vec![read, record(2)]).await.unwrap();
    let told = find(engine, sample::device(1)).await.remove(0);
    let groups: Vec<_> = told.group_ids().map(|id| id.to_string()).collect();
    assert_eq!(groups, ["fee2c45b-915a-4a64-b130-f4eb9e75525e"]);
    assert!(engine.enable(sample::device(1), false).await.unwrap());
    assert_eq!(
        find(engine, sample::device(1)).await.remove(0).groups,
        told.groups,
        "enabling changes nothing else"
    );
    assert_eq!(find(engine, sample::device(2)).await.remove(0).groups, None);
}

/// A change of a group undoes no other change of a device that is made at the same time.
pub async fn who_is_in_a_group_changes_alone(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let (engine, group) = (subject.engine(), GroupId::from_bytes([7; 16]));
    let devices = [1, 2, 3].map(sample::device);
    for round in 0..10 {
        engine.put(vec![record(1), record(2), record(3)]).await.unwrap();
        let [first, second, third] = devices;
        let members = vec![(first, true), (second, true), (third, false), (sample::device(9), true)];
        let (regrouped, disabled) =
            tokio::join!(engine.regroup(group, members), engine.enable(second, false));
        regrouped.unwrap();
        assert!(disabled.unwrap());
        let mut seen = Vec::new();
        for device in devices {
            let told = find(engine, device).await.remove(0);
            seen.push((told.account_enabled, told.group_ids().any(|id| id == group)));
        }
        assert_eq!(seen, [(Some(true), true), (Some(false), true), (Some(true), false)], "round {round}");
        engine.regroup(group, vec![(first, false)]).await.unwrap();
        assert_eq!(find(engine, first).await.remove(0).group_ids().count(), 0);
        assert!(find(engine, sample::device(9)).await.is_empty());
    }
}

/// A device has one record, the last one put.
pub async fn putting_replaces(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let engine = subject.engine();
    let renamed = DeviceRecord { display_name: Some("Desk-1".to_owned()), ..record(1) };
    engine.put(vec![record(1)]).await.unwrap();
    engine.put(vec![renamed.clone()]).await.unwrap();
    assert_eq!(find(engine, sample::device(1)).await, [renamed]);
    assert!(engine.named("Lab-1").await.unwrap().is_empty());
}

/// Enabling and disabling leave the rest of the record as it is.
pub async fn enabling_changes_one_property(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let engine = subject.engine();
    engine.put(vec![record(1)]).await.unwrap();
    assert!(engine.enable(sample::device(1), false).await.unwrap());
    let disabled = DeviceRecord { account_enabled: Some(false), ..record(1) };
    assert_eq!(find(engine, sample::device(1)).await, [disabled]);
    assert!(engine.enable(sample::device(1), true).await.unwrap());
    assert_eq!(find(engine, sample::device(1)).await, [record(1)]);
    assert!(!engine.enable(sample::device(2), true).await.unwrap());
}

/// Pages are in order and do not overlap.
pub async fn pages_follow_each_other(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let engine = subject.engine();
    engine.put([3, 1, 2].map(record).to_vec()).await.unwrap();
    let read = |page: Vec<Listed>| page.into_iter().map(|listed| listed.record.unwrap()).collect::<Vec<_>>();
    assert_eq!(read(engine.page(None, 2).await.unwrap()), [record(1), record(2)]);
    assert_eq!(read(engine.page(Some(sample::device(2)), 2).await.unwrap()), [record(3)]);
    assert!(engine.page(Some(sample::device(3)), 2).await.unwrap().is_empty());
}

/// Names are found whatever their case; devices may share one.
pub async fn names_are_found_in_any_case(subject: &impl Subject<Engine: DirectoryAdmin>) {
    let engine = subject.engine();
    let twin = DeviceRecord { display_name: Some("LAB-1".to_owned()), ..record(3) };
    let nameless = DeviceRecord { display_name: None, ..record(4) };
    engine.put(vec![record(1), record(2), twin, nameless]).await.unwrap();
    assert_eq!(engine.named("lab-1").await.unwrap(), [1, 3].map(sample::device));
    assert!(engine.named("lab").await.unwrap().is_empty());
    assert!(engine.named("").await.unwrap().is_empty());
}
