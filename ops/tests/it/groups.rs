//! Groups of the embedded directory.

use std::fs;

use serde_json::{Value, json};

use crate::deployment::{Deployment, register, text};

const KIOSKS: &str = "fee2c45b-915a-4a64-b130-f4eb9e75525e";

fn members(deployment: &Deployment) -> u64 {
    let groups: Value = serde_json::from_str(&deployment.ok(&["--output", "json", "group", "list"])).unwrap();
    assert_eq!(groups[KIOSKS]["policies"], json!(["kiosks"]));
    groups[KIOSKS]["devices"].as_u64().unwrap()
}

#[test]
fn a_group_has_the_devices_of_its_list_and_keeps_them_through_an_import() {
    let deployment = Deployment::init();
    let config = fs::read_to_string(deployment.config()).unwrap();
    let policy =
        format!("[[policy]]\nname = \"kiosks\"\ngroups = [\"{}\"]\nlength = 14\n", KIOSKS.to_uppercase());
    fs::write(deployment.config(), config + &policy).unwrap();
    for name in ["HALL-1", "HALL-2", "DESK-1"] {
        deployment.add(&register(), name);
    }
    assert_eq!(members(&deployment), 0);
    let list = deployment.path("kiosks.txt");
    let set = |text: &str| {
        fs::write(&list, text).unwrap();
        deployment.keyturn(&["group", "set", &KIOSKS.to_uppercase(), list.to_str().unwrap()])
    };
    let done = set("# the hall\nHALL-1\n\nHALL-2 # by the door\n");
    assert!(
        done.status.success() && text(&done.stderr).contains("2 joined, 0 left"),
        "{}",
        text(&done.stderr)
    );
    assert_eq!(members(&deployment), 2);

    // Whoever is listed must be there; otherwise nothing is done.
    for unknown in ["HALL-1\nHALL-9\n", "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11\n"] {
        let refused = set(unknown);
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(3) && said.contains("nothing was changed"), "{said}");
        assert_eq!(members(&deployment), 2);
    }

    // An export without groups leaves them as they are; one with groups is believed.
    let export = deployment.ok(&["--output", "json", "device", "list"]);
    let devices: Vec<Value> = serde_json::from_str(&export).unwrap();
    let import = |groups: Option<Value>| {
        let record = |device: &Value| {
            let mut record = json!({ "deviceId": device["device_id"], "displayName": device["name"] });
            if let Some(groups) = &groups {
                record["transitiveMemberOf"] = groups.clone();
            }
            record
        };
        let file = deployment.path("export.json");
        fs::write(&file, json!({ "value": devices.iter().map(record).collect::<Vec<_>>() }).to_string())
            .unwrap();
        deployment.ok(&["device", "import", file.to_str().unwrap()]);
        members(&deployment)
    };
    assert_eq!(import(None), 2);
    assert_eq!(import(Some(json!([{ "id": KIOSKS }]))), 3);
    assert_eq!(import(Some(json!([]))), 0);

    assert!(set("DESK-1\n").status.success() && set("").status.success());
    assert_eq!(members(&deployment), 0);
    assert!(deployment.ok(&["audit", "list"]).contains("0 devices joined, 1 left"));
    let wrong = deployment.keyturn(&["group", "set", "kiosks", list.to_str().unwrap()]);
    assert!(
        wrong.status.code() == Some(2) && text(&wrong.stderr).contains("GUID"),
        "{}",
        text(&wrong.stderr)
    );
}
