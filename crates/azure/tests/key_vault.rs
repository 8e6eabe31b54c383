//! The vault's suite against a fake Key Vault that Microsoft's own SDK was run against, and what only Key Vault does.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use keyturn_azure::key_vault::{KeyVault, Settings};
use keyturn_azure::pace::{Limit, Pace, Shared};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::password::Password;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::vault::{
    ConfirmedCopy, Copies as _, Entry, Inventory as _, NewVersion, Resettling as _, Sought, Tags, Vault as _,
    VaultReader as _,
};
use keyturn_ports::{Error, Kind};
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance;
use keyturn_testkit::conformance::{Subject, sample};

use self::tokens::Tokens;

mod tokens;

struct Fresh {
    fake: FakeKeyVault,
    vault: KeyVault,
    clock: ManualClock,
}

/// A pace for tests of other things.
struct AtOnce;

#[async_trait]
impl Pace for AtOnce {
    async fn turn(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

fn settings(fakes: &[&FakeKeyVault]) -> Settings {
    Settings {
        urls: fakes.iter().map(|fake| fake.server.url().parse().unwrap()).collect(),
        read_urls: Vec::new(),
        danger_unverified_challenge: true,
        attempts: Attempts {
            most: 3,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(2),
        },
        parallel: 8,
    }
}

fn open(fakes: &[&FakeKeyVault], settings: &Settings) -> KeyVault {
    paced(fakes, settings, Arc::new(AtOnce))
}

fn paced(fakes: &[&FakeKeyVault], settings: &Settings, pace: Arc<dyn Pace>) -> KeyVault {
    let ca = fakes.iter().map(|fake| fake.server.ca.clone()).collect::<String>();
    let reach = Reach { timeout: Duration::from_millis(500), ca: Some(ca.into_bytes()), proxy: None };
    let credential: Arc<dyn TokenCredential> = Arc::new(Tokens);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    KeyVault::open(settings, &reach, &credential, pace, &entropy).unwrap()
}

impl Subject for Fresh {
    type Engine = KeyVault;

    async fn fresh() -> Self {
        let clock = ManualClock::default();
        let fake = FakeKeyVault::start(Arc::new(clock.clone())).await;
        let vault = open(&[&fake], &settings(&[&fake]));
        Self { fake, vault, clock }
    }

    fn engine(&self) -> &KeyVault {
        &self.vault
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

conformance!(vault, Fresh);

/// Version `n` of device `of`, made for message `n`.
fn minted(of: u8, n: u8) -> NewVersion {
    NewVersion {
        request: sample::request(n),
        version: sample::version(n),
        lane: sample::lane_key(of, 1).id(),
        password: Password::new(format!("canary-{n}")),
        tags: Tags {
            user_name: "Administrator".to_owned(),
            device: sample::device(of),
            device_name: "LAB-1".to_owned(),
            serial_number: "S".repeat(300),
        },
    }
}

async fn put(vault: &KeyVault, version: NewVersion) -> Result<Entry, Error> {
    vault.put(vec![version]).await.remove(0)
}

async fn find(vault: &KeyVault, of: u8, n: u8) -> Option<Entry> {
    let sought = Sought { device: sample::device(of), request: sample::request(n) };
    vault.find(vec![sought]).await.remove(0).unwrap()
}

fn name(of: u8) -> String {
    format!("lap-{}-next", sample::device(of))
}

#[tokio::test]
async fn a_version_lies_where_people_with_plain_tools_look() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    let entry = put(&vault, minted(1, 1)).await.unwrap();
    assert_eq!(fake.names(), [name(1)]);
    let (id, value, tags) = fake.versions(&name(1)).remove(0);
    assert_eq!(entry.vault_ref, format!("{}/secrets/{}/{id}", fake.server.url(), name(1)));
    let value: serde_json::Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["password"], "canary-1");
    assert_eq!(tags["rid"], sample::request(1).to_string());
    assert_eq!((&*tags["UserName"], &*tags["DeviceName"]), ("Administrator", "LAB-1"));
    assert_eq!(tags["AzureADDeviceID"], sample::device(1).to_string());
    assert_eq!(tags["SerialNumber"].len(), 256, "cut to what a tag holds");
    assert_eq!(tags.len(), 7);
}

/// Whatever becomes of a write, there is one version after it, and it is the one that is told of.
#[tokio::test]
async fn an_unknown_outcome_writes_once() {
    for fault in [
        Fault::DoneInSilence,
        Fault::Silence,
        Fault::DoneThen500,
        Fault::DoneThenHtml,
        Fault::DoneThenCut,
        Fault::Unavailable,
        Fault::Throttled(None),
        Fault::Throttled(Some(1)),
    ] {
        let Fresh { fake, vault, .. } = Fresh::fresh().await;
        fake.faults(Call::Set, [fault.clone()]);
        let entry = put(&vault, minted(1, 1)).await.unwrap();
        assert!(fake.all_happened(), "{fault:?}");
        assert_eq!(fake.versions(&name(1)).len(), 1, "{fault:?}");
        assert_eq!(find(&vault, 1, 1).await, Some(entry.clone()), "{fault:?}");
        let read = vault.read(entry.lane, entry.version, &entry.vault_ref).await.unwrap().unwrap();
        assert_eq!(read.expose(), "canary-1");
    }
}

/// A rotator that dies after the write was made and before it heard of it: the next one finds the version.
#[tokio::test]
async fn a_death_after_the_put_leaves_a_version_that_is_found() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    fake.faults(Call::Set, [Fault::DoneInSilence]);
    let dying = tokio::spawn({
        let vault = vault.clone();
        async move { put(&vault, minted(1, 1)).await }
    });
    while fake.versions(&name(1)).is_empty() {
        tokio::task::yield_now().await;
    }
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    let next = open(&[&fake], &settings(&[&fake]));
    let found = find(&next, 1, 1).await.unwrap();
    assert_eq!(found.version, sample::version(1));
    assert_eq!(put(&next, minted(1, 1)).await.unwrap(), found);
    assert_eq!(fake.versions(&name(1)).len(), 1);
}

/// Two rotators with the same message at once: each may have written, and both are told the same one afterwards.
#[tokio::test]
async fn two_rotators_agree_on_the_first_version() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    let other = open(&[&fake], &settings(&[&fake]));
    let mut twin = minted(1, 2);
    twin.request = sample::request(1);
    let (one, two) = tokio::join!(put(&vault, minted(1, 1)), put(&other, twin));
    let both = [one.unwrap(), two.unwrap()];
    let found = find(&vault, 1, 1).await;
    assert_eq!(found, find(&other, 1, 1).await);
    assert!(both.contains(&found.unwrap()));
    assert_eq!(fake.versions(&name(1)).len(), 2);
}

#[tokio::test]
async fn refusals_are_told_apart_and_say_what_to_do() {
    for (fault, kind, word) in [
        (Fault::Forbidden(Some("ForbiddenByRbac")), Kind::Denied, "docs/AZURE.md"),
        (Fault::Forbidden(Some("ForbiddenByFirewall")), Kind::Denied, "firewall"),
        (Fault::Forbidden(None), Kind::Unavailable, "fails over"),
        (Fault::Throttled(Some(60)), Kind::Unavailable, "vault.creations"),
    ] {
        let Fresh { fake, vault, .. } = Fresh::fresh().await;
        fake.faults(Call::Set, [fault]);
        let error = put(&vault, minted(1, 1)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        assert_eq!(fake.count(Call::Set), 1, "no second attempt: {error}");
    }
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    put(&vault, minted(1, 1)).await.unwrap();
    fake.delete(&name(1));
    let error = put(&vault, minted(1, 2)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("recover it"), "{error}");
}

/// One device's trouble is not another's.
#[tokio::test]
async fn a_put_that_fails_does_not_fail_the_others() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    put(&vault, minted(1, 1)).await.unwrap();
    fake.delete(&name(1));
    let put = vault.put(vec![minted(1, 2), minted(2, 3)]).await;
    assert!(put[0].is_err());
    assert_eq!(put[1].as_ref().unwrap().version, sample::version(3));
}

/// Whoever may set secrets may change tags. That finds a version for another message at most; another lane's it never
/// is, because the value says so.
#[tokio::test]
async fn tags_are_not_believed() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    let entry = put(&vault, minted(1, 1)).await.unwrap();
    let other = sample::lane_key(1, 9).id();
    fake.retag(&name(1), "lane", &other.to_string());
    let found = find(&vault, 1, 1).await.unwrap();
    assert_eq!(found.lane, other);
    let error = vault.read(other, entry.version, &found.vault_ref).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(vault.read(entry.lane, entry.version, &entry.vault_ref).await.unwrap().is_some());
    fake.retag(&name(1), "rid", "not a message");
    assert_eq!(find(&vault, 1, 1).await, None);
}

/// A reference to a vault that is not ours is nowhere that a token goes to.
#[tokio::test]
async fn a_reference_to_another_vault_is_refused() {
    let (one, two) = (Fresh::fresh().await, Fresh::fresh().await);
    let entry = put(&one.vault, minted(1, 1)).await.unwrap();
    let error = two.vault.read(entry.lane, entry.version, &entry.vault_ref).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("vault.read_urls"), "{error}");
    let reading = Settings { read_urls: settings(&[&one.fake]).urls, ..settings(&[&two.fake]) };
    let both = open(&[&one.fake, &two.fake], &reading);
    assert!(both.read(entry.lane, entry.version, &entry.vault_ref).await.unwrap().is_some());
    assert_eq!(both.history(sample::device(1)).await.unwrap(), [entry]);
}

/// More versions than a page, on several vaults; each device's are together.
#[tokio::test]
async fn devices_are_spread_over_vaults_and_pages_are_followed() {
    let clock = ManualClock::default();
    let (one, two) =
        (FakeKeyVault::start(Arc::new(clock.clone())).await, FakeKeyVault::start(Arc::new(clock)).await);
    let vault = open(&[&one, &two], &settings(&[&one, &two]));
    for result in vault.put((1..=60).map(|n| minted(n, n)).collect()).await {
        result.unwrap();
    }
    // The ports, and so the names, are random: each vault has some of them all but surely (1 in 2^59 not).
    assert!(!one.names().is_empty() && !two.names().is_empty());
    assert_eq!(one.names().len() + two.names().len(), 60);
    for result in vault.put((61..=120).map(|n| minted(7, n)).collect()).await {
        result.unwrap();
    }
    assert_eq!(vault.history(sample::device(7)).await.unwrap().len(), 61);
    assert!(find(&vault, 7, 120).await.is_some());
}

#[tokio::test]
async fn writes_wait_for_their_turn_and_do_not_wait_for_ever() {
    let Fresh { fake, .. } = Fresh::fresh().await;
    let folder = tempfile::tempdir().unwrap();
    let file =
        OpenOptions::new(folder.path().join("keyturn.db"), Arc::new(SystemClock), Arc::new(SystemEntropy));
    // Room for two: at once, and a second later.
    let slow = Limit {
        calls: 2,
        window: Duration::from_millis(600),
        slack: Duration::from_millis(400),
        lease: 32,
        patience: Duration::from_millis(1500),
    };
    let turns = Arc::new(Database::open(file).unwrap());
    let vault = paced(&[&fake], &settings(&[&fake]), Arc::new(Shared::new(turns, slow)));
    let put = vault.put((1..=4).map(|n| minted(n, n)).collect()).await;
    assert_eq!(put.iter().filter(|result| result.is_ok()).count(), 2);
    let told = put.into_iter().filter_map(Result::err).map(|error| error.kind()).collect::<Vec<_>>();
    assert_eq!(told, [Kind::Unavailable, Kind::Unavailable]);
    assert_eq!(fake.count(Call::Set), 2);
}

#[tokio::test]
async fn a_strange_host_has_to_be_allowed() {
    let Fresh { fake, .. } = Fresh::fresh().await;
    let strict = Settings { danger_unverified_challenge: false, ..settings(&[&fake]) };
    let reach = Reach { timeout: Duration::from_secs(1), ca: None, proxy: None };
    let credential: Arc<dyn TokenCredential> = Arc::new(Tokens);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let error = KeyVault::open(&strict, &reach, &credential, Arc::new(AtOnce), &entropy).unwrap_err();
    assert!(error.to_string().contains("danger_unverified_challenge"), "{error}");
}

fn copy(of: u8, n: u8) -> ConfirmedCopy {
    let NewVersion { version, lane, password, tags, .. } = minted(of, n);
    ConfirmedCopy { version, lane, password, tags }
}

/// The copy is looked at before it is written, and what an unanswered call came to is told by what is there.
#[tokio::test]
async fn a_copy_is_written_once_whatever_became_of_the_answer() {
    for fault in [
        None,
        Some(Fault::DoneInSilence),
        Some(Fault::DoneThen500),
        Some(Fault::DoneThenCut),
        Some(Fault::Silence),
        Some(Fault::Throttled(Some(0))),
        Some(Fault::Unavailable),
    ] {
        let Fresh { fake, vault, .. } = Fresh::fresh().await;
        fake.faults(Call::Set, fault.clone());
        let name = format!("lap-{}", sample::device(1));
        assert!(vault.copy(copy(1, 1)).await.unwrap(), "{fault:?}");
        assert!(!vault.copy(copy(1, 1)).await.unwrap(), "it is there");
        assert_eq!(fake.versions(&name).len(), 1, "{fault:?}");
        assert!(vault.copy(copy(1, 2)).await.unwrap());
        assert!(vault.copy(copy(1, 1)).await.unwrap(), "what is current counts, not what was there once");
        assert_eq!(fake.current(&name).unwrap()["tags"]["version"], sample::version(1).to_string());
    }
}

/// Both names, what others wrote, what they disabled, and a secret that was deleted.
#[tokio::test]
async fn the_inventory_tells_what_is_there_without_values() {
    let Fresh { fake, vault, .. } = Fresh::fresh().await;
    assert!(vault.inventory(sample::device(1)).await.unwrap().is_empty());
    for n in 1..=30 {
        vault.put(vec![minted(1, n)]).await.remove(0).unwrap();
    }
    vault.copy(copy(1, 30)).await.unwrap();
    let held = vault.inventory(sample::device(1)).await.unwrap();
    let [versions, copies] = &held[..] else { panic!("{held:?}") };
    assert_eq!((versions.versions.len(), copies.versions.len()), (30, 1));
    assert!(versions.is_home && versions.deleted == Some(false));
    assert_eq!(copies.versions[0].version, Some(sample::version(30)));
    let told = format!("{held:?}{}", serde_json::to_string(&held).unwrap());
    for (_, value, _) in fake.versions(&versions.name) {
        assert!(!told.contains(&value) && !told.contains("password"), "{told}");
    }
    fake.retag(&copies.name, "version", "<script>");
    fake.delete(&versions.name);
    let held = vault.inventory(sample::device(1)).await.unwrap();
    assert_eq!((held[0].deleted, held[0].versions.len(), held[1].versions[0].version), (Some(true), 0, None));
    fake.faults(Call::Other, [Fault::Forbidden(Some("ForbiddenByRbac"))]);
    assert_eq!(vault.inventory(sample::device(1)).await.unwrap()[0].deleted, None, "not known");
}

/// A version is copied as it is, once whatever became of the answer, and its old place is given up last.
#[tokio::test]
async fn a_version_is_brought_home_as_it_is() {
    for fault in [None, Some(Fault::DoneInSilence), Some(Fault::DoneThenCut), Some(Fault::Silence)] {
        let Fresh { fake: old, vault, clock } = Fresh::fresh().await;
        let new = FakeKeyVault::start(Arc::new(clock.clone())).await;
        let device = sample::device(1);
        vault.put(vec![minted(1, 1)]).await.remove(0).unwrap();
        clock.advance(Duration::from_hours(1));
        vault.put(vec![minted(1, 2)]).await.remove(0).unwrap();
        let made: Vec<_> = vault.history(device).await.unwrap().iter().map(|entry| entry.created).collect();

        let both = Settings { read_urls: vec![old.server.url().parse().unwrap()], ..settings(&[&new]) };
        let vault = open(&[&old, &new], &both);
        clock.advance(Duration::from_hours(1));
        let astray = vault.astray(device).await.unwrap();
        assert_eq!(
            astray.iter().map(|one| one.entry.version).collect::<Vec<_>>(),
            [1, 2].map(sample::version)
        );
        assert!(astray.iter().all(|one| one.home.is_none()));
        let first = &astray[0].entry;
        assert_eq!(vault.disable(device, first).await.unwrap_err().kind(), Kind::Corrupt, "not at home yet");

        new.faults(Call::Set, fault.clone());
        let home = vault.bring_home(device, first).await.unwrap();
        assert_eq!(vault.bring_home(device, first).await.unwrap(), home, "{fault:?}");
        let name = new.names().remove(0);
        let (was, is) = (old.versions(&name), new.versions(&name));
        let was = was.iter().find(|(_, _, tags)| tags["version"] == sample::version(1).to_string()).unwrap();
        assert_eq!((is.len(), &is[0].1, &is[0].2), (1, &was.1, &was.2), "{fault:?}");
        assert!(vault.read(first.lane, first.version, &home.vault_ref).await.unwrap().is_some());

        vault.disable(device, first).await.unwrap();
        vault.disable(device, first).await.unwrap_err();
        assert_eq!(vault.astray(device).await.unwrap().len(), 1, "what is disabled is not moved again");
        let after: Vec<_> = vault.history(device).await.unwrap().iter().map(|entry| entry.created).collect();
        assert_eq!(after, made, "each once, and as old as it was");
    }
}

/// Whoever may set secrets may set tags: what is not what they say is not moved, and nothing is disabled for it.
#[tokio::test]
async fn a_version_under_false_tags_stays_where_it_is() {
    let Fresh { fake: old, vault, clock } = Fresh::fresh().await;
    let new = FakeKeyVault::start(Arc::new(clock)).await;
    let device = sample::device(1);
    vault.put(vec![minted(1, 1)]).await.remove(0).unwrap();
    let both = Settings { read_urls: vec![old.server.url().parse().unwrap()], ..settings(&[&new]) };
    let vault = open(&[&old, &new], &both);
    let name = old.names().remove(0);
    old.retag(&name, "version", &sample::version(9).to_string());
    let entry = vault.astray(device).await.unwrap().remove(0).entry;
    assert_eq!(vault.bring_home(device, &entry).await.unwrap_err().kind(), Kind::Corrupt);
    assert!(new.names().is_empty());

    // A value at home that is another's: the same tags do not make it the same version.
    old.retag(&name, "version", &sample::version(1).to_string());
    let entry = vault.astray(device).await.unwrap().remove(0).entry;
    let forged = NewVersion { password: Password::new("another".to_owned()), ..minted(1, 1) };
    vault.put(vec![forged]).await.remove(0).unwrap();
    assert_eq!(vault.bring_home(device, &entry).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(vault.disable(device, &entry).await.unwrap_err().kind(), Kind::Corrupt);
    assert!(old.current(&name).is_some(), "it can be read");
}
