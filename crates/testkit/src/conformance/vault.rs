//! The contracts of [`Vault`] and `VaultReader`.

use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::LaneId;
use keyturn_domain::password::Password;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Tags, Vault, VaultReader as _};

use super::{Subject, sample};

fn lane(n: u8) -> LaneId {
    sample::lane_key(1, n).id()
}

/// Version `n`, made for message `request`.
fn minted(n: u8, request: u8) -> NewVersion {
    NewVersion {
        request: sample::request(request),
        version: sample::version(n),
        lane: lane(1),
        password: Password::new(text(n)),
        tags: Tags {
            user_name: "Administrator".to_owned(),
            device: sample::device(1),
            device_name: "LAB-1".to_owned(),
            serial_number: "SN-1".to_owned(),
        },
    }
}

fn text(n: u8) -> String {
    format!("Pass-w\u{f6}rd {n}")
}

async fn put(vault: &impl Vault, version: NewVersion) -> Entry {
    vault.put(vec![version]).await.remove(0).unwrap()
}

/// The versions stored for these messages.
async fn find(vault: &impl Vault, requests: &[u8]) -> Vec<Option<Entry>> {
    let sought = |n: &u8| Sought { device: sample::device(1), request: sample::request(*n) };
    let found = vault.find(requests.iter().map(sought).collect()).await;
    found.into_iter().map(Result::unwrap).collect()
}

/// What was put is read, under its lane and version and where the vault said it is.
pub async fn a_version_is_read_back(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let entries = vault.put(vec![minted(1, 1), minted(2, 2)]).await;
    for (n, entry) in (1..).zip(entries) {
        let entry = entry.unwrap();
        assert_eq!((entry.version, entry.lane), (sample::version(n), lane(1)));
        assert_eq!(entry.created, subject.clock().now());
        let password = vault.read(lane(1), entry.version, &entry.vault_ref).await.unwrap();
        assert_eq!(password.map(|password| password.expose().to_owned()), Some(text(n)));
    }
}

/// A version cannot be had under another lane, whatever the ledger says.
pub async fn another_lane_is_refused(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let entry = put(vault, minted(1, 1)).await;
    assert!(vault.read(lane(2), entry.version, &entry.vault_ref).await.is_err());
}

/// What the vault does not have is none, not an error.
pub async fn what_is_not_there_is_none(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let entry = put(vault, minted(1, 1)).await;
    assert!(vault.read(lane(1), sample::version(2), &entry.vault_ref).await.unwrap().is_none());
    assert!(vault.read(lane(1), entry.version, "nowhere at all").await.unwrap().is_none());
    assert_eq!(find(vault, &[9]).await, [None]);
    assert!(vault.history(sample::device(9)).await.unwrap().is_empty());
}

/// If a put was repeated with another version, the first one counts.
pub async fn the_first_version_of_a_message_is_found(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let first = put(vault, minted(1, 1)).await;
    put(vault, minted(2, 1)).await;
    let other = put(vault, minted(3, 3)).await;
    assert_eq!(find(vault, &[3, 2, 1]).await, [Some(other), None, Some(first)]);
}

/// The same version put again, after an unknown outcome, is there once.
pub async fn a_repeated_put_stores_once(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let first = put(vault, minted(1, 1)).await;
    assert_eq!(put(vault, minted(1, 1)).await, first);
    assert_eq!(vault.history(sample::device(1)).await.unwrap(), [first]);
}

/// Every version of a device is listed, newest first.
pub async fn history_is_newest_first(subject: &impl Subject<Engine: Vault>) {
    let vault = subject.engine();
    let mut put_so_far = Vec::new();
    for n in 1..=3 {
        put_so_far.insert(0, put(vault, minted(n, n)).await);
        subject.clock().advance(std::time::Duration::from_secs(1));
    }
    assert_eq!(vault.history(sample::device(1)).await.unwrap(), put_so_far);
}
