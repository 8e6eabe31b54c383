use super::*;

#[test]
fn device_ids_have_one_text_form() {
    let text = "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11";
    assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
    for bad in [
        "",
        "3F6A1C2E-0B1D-4C55-9A77-5D1F0C9B2E11",
        "{3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11}",
        "3f6a1c2e0b1d4c559a775d1f0c9b2e11",
        "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e1",
        "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e1g",
        "3f6a1c2e00b1d-4c55-9a77-5d1f0c9b2e11",
        "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e1é",
        "x' or startswith(displayName,'0000000",
    ] {
        assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
    }
    assert_eq!(DeviceId::parse_any_case(&text.to_uppercase()).unwrap(), text.parse().unwrap());
}

#[test]
fn byte_ids_refuse_padding_and_loose_bits() {
    let id = VersionId([7; 16]);
    let text = id.to_string();
    assert_eq!(text.parse::<VersionId>().unwrap(), id);
    assert!(format!("{text}==").parse::<VersionId>().is_err());
    // The last character of 16 bytes carries two bits; the four below them must be zero.
    let loose = format!("{}x", &text[..21]);
    assert!(loose.parse::<VersionId>().is_err());
}

#[test]
fn thumbprints_are_exactly_forty_digits() {
    assert!(Thumbprint::from_hex("1BBF43F156D6544D87BD98580273C75F0344DA56").is_some());
    assert!(Thumbprint::from_hex("1bbf43f156d6544d87bd98580273c75f0344da56").is_some());
    assert!(Thumbprint::from_hex("1BBF43F156D6544D87BD98580273C75F0344DA5").is_none());
    assert!(Thumbprint::from_hex("+1BF43F156D6544D87BD98580273C75F0344DA56").is_none());
}

#[test]
fn account_ids_are_plain() {
    assert!("S-1-5-21-1-2-3-500".parse::<AccountId>().is_ok());
    for bad in ["", "a b", "a\"b", "a/b", "uid:1000", "ä"] {
        assert!(bad.parse::<AccountId>().is_err(), "{bad}");
    }
}
