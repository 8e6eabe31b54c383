//! What the device says about itself: labels for people, never keys, and the SMBIOS UUID. Everything here may be
//! missing, wrong or forged, and the server treats it so.

use std::fs;
use std::path::Path;

use keyturn_domain::label::{self, Label};
use keyturn_schemas::claims::Labels;

/// Models that CloudLAPS takes for virtual machines (its client script's list).
const VIRTUAL: [&str; 7] = [
    "Virtual Machine",
    "VMware Virtual Platform",
    "VirtualBox",
    "HVM domU",
    "KVM",
    "VMWare7,1",
    "Google Compute Engine",
];

/// Serial numbers that boards come with before anybody sets one.
const NO_SERIAL: [&str; 4] = ["System Serial Number", "To be filled by O.E.M.", "Not Specified", "0"];

/// The labels of this machine. The serial number falls back to the host's name, as CloudLAPS does.
pub fn labels() -> Labels {
    let host = label(&line("/proc/sys/kernel/hostname"));
    let serial = label(&line("/sys/class/dmi/id/product_serial"));
    let real = !serial.as_str().is_empty() && !NO_SERIAL.contains(&serial.as_str());
    Labels {
        serial: if real { serial } else { host.clone() },
        host,
        os: label(&os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default())),
        vm: VIRTUAL.contains(&line("/sys/class/dmi/id/product_name").as_str()),
    }
}

/// The SMBIOS UUID, which only root may read.
pub fn machine() -> Option<String> {
    Some(line("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty())
}

fn line(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or(std::env::consts::OS).trim_matches('"').to_owned()
}

/// The longest beginning of `text` that is a label, once what does not print is left out.
fn label(text: &str) -> Label {
    let plain: String =
        text.chars().filter(|c| Label::parse(c.encode_utf8(&mut [0; 4])).is_ok() || *c == ' ').collect();
    let short: String = plain.trim().chars().take(label::MAX).collect();
    Label::parse(short.trim()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_machine_says_becomes_a_label() {
        assert_eq!(label(" LAB\u{202e}-07\0 ").as_str(), "LAB-07");
        assert_eq!(label(&"x".repeat(500)).as_str().len(), label::MAX);
        assert_eq!(label(&format!("{} tail", "x".repeat(63))).as_str(), "x".repeat(63));
        assert_eq!(label("").as_str(), "");
    }

    #[test]
    fn the_name_of_the_system_comes_from_its_release_file() {
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_name(""), "linux");
    }
}
