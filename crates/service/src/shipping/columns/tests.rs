use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, NewRow};

use super::*;

fn named() -> Named {
    Named { computer: "LAB-01".to_owned(), serial: "S1".to_owned() }
}

fn row(detail: &str) -> Row {
    let row = NewRow {
        at: UnixMillis(1000),
        actor: "ada (uid 1000)".to_owned(),
        action: Action::SecretGet,
        device: Some(DeviceId::from_bytes([1; 16])),
        reason: "ticket 7".to_owned(),
        detail: detail.to_owned(),
    };
    Row { seq: 3, row, hash: "ab".repeat(32) }
}

fn happened(message: &str) -> Event {
    let what = Happening::Client { result: "Failed".to_owned(), message: message.to_owned() };
    Event { at: UnixMillis(2000), device: DeviceId::from_bytes([1; 16]), request: RequestId([2; 32]), what }
}

/// The template's tables and streams have the columns that are sent, all of them and no others, in both places.
#[test]
fn the_template_declares_exactly_what_is_sent() {
    let template: Value = serde_json::from_str(include_str!("../../../../../infra/azure/logs.json")).unwrap();
    let resources = template["resources"].as_array().unwrap();
    let of_kind = |kind: &str| resources.iter().filter(|one| one["type"] == kind).collect::<Vec<_>>();
    let rules = of_kind("Microsoft.Insights/dataCollectionRules");
    let tables = of_kind("Microsoft.OperationalInsights/workspaces/tables");
    assert_eq!((rules.len(), tables.len()), (1, 2));
    let declared = |columns: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let columns = columns.as_array().unwrap().iter();
        columns.map(|one| (text(&one["name"]), text(&one["type"]).to_lowercase())).collect()
    };
    let rule = &rules[0]["properties"];
    assert_eq!(rule["streamDeclarations"].as_object().unwrap().len(), 2);
    for (table, columns) in [("CloudLAPSAudit_CL", &AUDIT[..]), ("CloudLAPSClient_CL", &EVENTS[..])] {
        let ours: Vec<_> = columns.iter().map(|one| (one.name.to_owned(), one.kind.to_owned())).collect();
        let stream = format!("Custom-{table}");
        assert_eq!(declared(&rule["streamDeclarations"][&stream]["columns"]), ours, "{stream}");
        let schema = tables.iter().map(|one| &one["properties"]["schema"]);
        let schema = schema.clone().find(|schema| schema["name"] == table).unwrap();
        assert_eq!(declared(&schema["columns"]), ours, "{table}");
        let flow = rule["dataFlows"].as_array().unwrap().iter();
        let flow = flow.clone().find(|flow| flow["outputStream"] == stream.as_str()).unwrap();
        assert_eq!((&flow["streams"], &flow["transformKql"]), (&json!([stream]), &json!("source")));
    }
}

/// Names that Log Analytics takes, each once.
#[test]
fn names_of_columns_are_allowed() {
    for columns in [&AUDIT[..], &EVENTS[..]] {
        let mut names: Vec<&str> = columns.iter().map(|one| one.name).collect();
        for name in &names {
            let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            assert!(letters && name.len() <= 45 && name.as_bytes()[0].is_ascii_alphabetic(), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), columns.len());
    }
}

#[test]
fn what_cloudlaps_asks_for_is_there_under_its_names() {
    let shipped: Value = serde_json::from_str(&audit(&row(""), &named()).shipped()).unwrap();
    assert_eq!(shipped["Action_s"], "SecretGet");
    assert_eq!(shipped["AzureADDeviceId_g"], "01010101-0101-0101-0101-010101010101");
    assert_eq!((&shipped["ComputerName_s"], &shipped["Result_s"]), (&json!("LAB-01"), &json!("Success")));
    assert_eq!(shipped["RowId"], format!("a3-{}", "ab".repeat(16)));
    assert_eq!(shipped.as_object().unwrap().len(), AUDIT.len());
    let exported = audit(&row(""), &named()).exported();
    assert_eq!((&exported["Action"], &exported["Id"]), (&json!("SecretGet"), &json!("3")));
    assert_eq!(exported.get("TimeGenerated"), None);
    let shipped: Value = serde_json::from_str(&event(9, &happened("no"), &named()).shipped()).unwrap();
    assert_eq!((&shipped["PasswordRotationResult_s"], &shipped["Message"]), (&json!("Failed"), &json!("no")));
    assert_eq!((&shipped["Message_s"], &shipped["Event"]["message"]), (&json!("no"), &json!("no")));
}

/// The id is of the row's content and not of what its device is called today; another row of the same place has another.
#[test]
fn a_row_id_is_of_the_row() {
    let id = |event: Cells<12>| event.exported()["RowId"].clone();
    let renamed = Named { computer: "LAB-02".to_owned(), ..named() };
    assert_eq!(id(event(9, &happened("no"), &named())), id(event(9, &happened("no"), &renamed)));
    assert_ne!(id(event(9, &happened("no"), &named())), id(event(9, &happened("yes"), &named())));
    assert_ne!(id(event(9, &happened("no"), &named())), id(event(8, &happened("no"), &named())));
}

#[test]
fn a_text_is_never_too_long_for_its_column() {
    let shipped = audit(&row(&"ü".repeat(100_000)), &named()).shipped();
    let shipped: Value = serde_json::from_str(&shipped).unwrap();
    let detail = shipped["Detail"].as_str().unwrap();
    assert!(detail.len() < 1 << 16 && detail.ends_with("ü…"), "{}", detail.len());
}
