//! A dead letter that is replayed and dies again has another number: either number tells of the other.

use keyturn_ports::queue::{DeadReason, QueueName, Settlement};
use serde_json::Value;

use crate::dead_letters::{alarm, bury_alarms, engines};
use crate::deployment::{Deployment, register};

/// Gives up on what waits in the queue of alarms.
async fn dies_again(deployment: &Deployment) {
    let engines = engines(deployment);
    let lease = std::time::Duration::from_mins(1);
    for leased in engines.queue().lease(QueueName::Alarms, 9, lease).await.unwrap() {
        let dead = Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "502".to_owned() };
        engines.queue().settle(QueueName::Alarms, vec![(leased.receipt, dead)], Vec::new()).await.unwrap();
    }
}

fn show(deployment: &Deployment, number: &str) -> (String, Value) {
    let text = deployment.ok(&["dead-letters", "show", number]);
    let json = deployment.ok(&["--output", "json", "dead-letters", "show", number]);
    (text, serde_json::from_str(&json).unwrap())
}

#[tokio::test]
async fn either_number_tells_of_the_other() {
    let (deployment, device) = (Deployment::init(), register());
    deployment.add(&device, "LAB-07");
    bury_alarms(&deployment, &device, 2).await;
    assert_eq!(show(&deployment, "1").1["first_died_as"], Value::Null);
    deployment.ok(&["dead-letters", "replay", "1", "--reason", "the receiver is back"]);
    let (text, json) = show(&deployment, "1");
    assert!(text.contains("dead letter 1 of alarms is gone: replayed "), "{text}");
    assert!(text.contains("(uid ") && text.contains(": the receiver is back"), "{text}");
    assert!(text.contains("it has not died again"), "{text}");
    assert_eq!((&json["gone"], &json["died_again_as"]), (&true.into(), &Value::Null), "{json}");

    dies_again(&deployment).await;
    let (text, json) = show(&deployment, "1");
    assert!(text.contains("died again as 3: `keyturn dead-letters show 3`"), "{text}");
    assert_eq!((&json["died_again_as"], &json["device_id"]), (&3.into(), &device.id.to_string().into()));
    let (text, json) = show(&deployment, "3");
    assert!(text.contains("first died as 1, for this webhook or another, replayed "), "{text}");
    assert_eq!(
        (&json["first_died_as"], &json["before"][0]["reason"]),
        (&1.into(), &"the receiver is back".into())
    );
    assert!(show(&deployment, "2").1["before"].as_array().unwrap().is_empty(), "another message");

    // A job's rows are read as well; letter 2 goes with it.
    deployment.ok(&["dead-letters", "replay", "--where", "queue:alarms", "--reason", "once more"]);
    dies_again(&deployment).await;
    let (one, two) = (show(&deployment, "1").1, show(&deployment, "3").1);
    assert_eq!(one["died_again_as"], 3, "the next of its numbers, though that is gone too");
    let last = two["died_again_as"].as_u64().unwrap();
    let (text, json) = show(&deployment, &last.to_string());
    assert!(text.contains("first died as 1,") && text.contains(", last as 3, replayed "), "{text}");
    assert_eq!(json["before"].as_array().unwrap().len(), 2);

    let rows: Vec<Value> =
        serde_json::from_str(&deployment.ok(&["--output", "json", "dead-letters", "list", "--each"]))
            .unwrap();
    let first = |id: u64| rows.iter().find(|row| row["id"] == id).unwrap()["first_died_as"].clone();
    assert_eq!((first(last), first(9 - last)), (1.into(), 2.into()), "{rows:?}");
    let device_page = deployment.ok(&["device", "show", "LAB-07"]);
    assert!(device_page.contains(&format!("{last} on alarms, exhausted, died ")), "{device_page}");
    assert!(device_page.contains("first died as 1,"), "{device_page}");
    let json: Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "device", "show", "LAB-07"])).unwrap();
    assert_eq!(json["dead_letters"]["newest"].as_array().unwrap().len(), 2, "{json}");

    let archive = deployment.path("archive").display().to_string();
    let number = last.to_string();
    let discard = ["dead-letters", "discard", &number, "--archive", &archive, "--yes-discard", "alarms"];
    deployment.ok(&[&discard[..], &["--reason", "it is old"]].concat());
    let (text, json) = show(&deployment, &number);
    assert!(text.contains("is gone: discarded ") && !text.contains("died again"), "{text}");
    assert_eq!(json["replayed"], false);
    let unknown = deployment.keyturn(&["dead-letters", "show", "77"]);
    assert_eq!(unknown.status.code(), Some(3));
}

/// The same message's name on another device's alarm is no past of a letter that died before the replay.
#[tokio::test]
async fn a_letter_that_was_dead_already_did_not_die_again() {
    let (deployment, device) = (Deployment::init(), register());
    deployment.add(&device, "LAB-07");
    let message = alarm(&device);
    for _ in 0..2 {
        let dead = (DeadReason::Exhausted, "503 from «desk»");
        crate::dead_letters::bury(&deployment, QueueName::Alarms, message.clone(), dead.0, dead.1).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    deployment.ok(&["dead-letters", "replay", "1", "--reason", "the receiver is back"]);
    assert!(show(&deployment, "1").0.contains("it has not died again"));
    assert!(show(&deployment, "2").1["before"].as_array().unwrap().is_empty());
}
