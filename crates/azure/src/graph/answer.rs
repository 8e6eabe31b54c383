//! What Graph answers, read.

use keyturn_domain::ids::GroupId;
use keyturn_ports::directory::DeviceRecord;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Page {
    value: Vec<Value>,
}

/// The records in an answer, all or none: one that cannot be read is not passed over, since it might be the second of a
/// device.
pub(super) fn records(body: &[u8]) -> Result<Vec<DeviceRecord>, &'static str> {
    let page: Page = serde_json::from_slice(body).map_err(|_| "the answer is no list, or is cut short")?;
    page.value.into_iter().map(record).collect()
}

/// The ids in an answer about groups, all or none.
pub(super) fn groups(body: &[u8]) -> Result<Vec<GroupId>, &'static str> {
    #[derive(Deserialize)]
    struct Ids {
        value: Vec<String>,
    }
    let ids: Ids =
        serde_json::from_slice(body).map_err(|_| "the answer is no list of groups, or is cut short")?;
    let ids = ids.value.iter().map(|text| GroupId::parse_any_case(text)).collect::<Result<_, _>>();
    ids.map_err(|_| "a group in the answer cannot be read")
}

fn record(mut value: Value) -> Result<DeviceRecord, &'static str> {
    // A GUID may come in capitals; ours has one form.
    if let Some(id) = value.get_mut("deviceId")
        && let Some(text) = id.as_str()
    {
        *id = Value::String(text.to_ascii_lowercase());
    }
    serde_json::from_value(value).map_err(|_| "a device in the answer cannot be read")
}

#[cfg(test)]
mod tests {
    use super::{groups, records};

    #[test]
    fn groups_are_read_whole_or_not() {
        // As in learn.microsoft.com/graph/api/directoryobject-checkmembergroups, shortened.
        let body = br#"{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#Collection(Edm.String)",
            "value":["FEE2C45B-915A-4A64-B130-F4EB9E75525E"]}"#;
        assert_eq!(groups(body).unwrap()[0].to_string(), "fee2c45b-915a-4a64-b130-f4eb9e75525e");
        assert!(groups(br#"{"value":[]}"#).unwrap().is_empty());
        for wrong in [&b"{}"[..], br#"{"value":["x"]}"#, br#"{"value":[null]}"#, &body[..140]] {
            assert!(groups(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_is_read_whole_or_not() {
        // As in learn.microsoft.com/graph/api/device-list, shortened.
        let body = br#"{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#devices","value":[{
            "deviceId":"3F6A1C2E-0B1D-4C55-9A77-5D1F0C9B2E11","displayName":"LAB-1","accountEnabled":true,
            "trustType":"AzureAd","operatingSystem":"Windows","id":"0b53cc85-eb81-4a3c-9a24-8ed3c3bcf6ba",
            "alternativeSecurityIds":[{"type":2,"identityProvider":null,"key":"WAA1ADAAOQA="}]}]}"#;
        let read = records(body).unwrap();
        assert_eq!(read[0].device_id.to_string(), "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11");
        assert_eq!((read[0].account_enabled, read[0].alternative_security_ids.len()), (Some(true), 1));
        assert!(records(br#"{"value":[]}"#).unwrap().is_empty());
        for wrong in [
            &b"<html>"[..],
            b"",
            b"{}",
            br#"{"value":{}}"#,
            br#"{"value":[{"deviceId":"x"}]}"#,
            &body[..200],
            br#"{"value":[{}]}"#,
        ] {
            assert!(records(wrong).is_err(), "{wrong:?}");
        }
    }
}
