//! A device's two names in a fake Key Vault, written by the adapter, for Microsoft's own client to read:
//! `second_name CA_FILE` writes what the vault's certificate chains to into that file, prints its address and what the
//! copy should be as one line of JSON, and serves until its standard input ends.

#![expect(clippy::print_stdout, reason = "what it says is for the client")]

use std::io::{Error, Read as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use keyturn_azure::key_vault::{KeyVault, Settings};
use keyturn_azure::pace::Pace;
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_ports::vault::{ConfirmedCopy, Copies as _, NewVersion, Tags, Vault as _};
use keyturn_testkit::azure::identity;
use keyturn_testkit::azure::key_vault::FakeKeyVault;

/// What the device confirmed.
const PASSWORD: &str = "correct horse <&\"' 42";

/// Tokens for whatever is asked for.
#[derive(Debug)]
struct Tokens;

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let audience = scopes.first().map_or("", |scope| scope.trim_end_matches("/.default"));
        let expires = OffsetDateTime::now_utc() + Duration::from_hours(1);
        Ok(AccessToken::new(identity::token(audience), expires))
    }
}

/// Nobody else writes.
struct AtOnce;

#[async_trait]
impl Pace for AtOnce {
    async fn turn(&self, _: &str) -> Result<(), keyturn_ports::Error> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ca = std::env::args_os().nth(1).ok_or_else(|| Error::other("usage: second_name CA_FILE"))?;
    let fake = FakeKeyVault::start(Arc::new(SystemClock)).await;
    std::fs::write(ca, &fake.server.ca)?;
    let vault = open(&fake)?;
    let (device, lane) = (DeviceId::from_bytes([0xab; 16]), LaneId([7; 16]));
    let tags = || Tags {
        user_name: "localadmin".to_owned(),
        device,
        device_name: "LAB-1".to_owned(),
        serial_number: "5CG-ä".to_owned(),
    };
    // The latest version is not the confirmed one, as while a device has yet to set it.
    for (n, password) in [(1, PASSWORD), (2, "the next one")] {
        let (request, version) = (RequestId([n; 32]), VersionId([n; 16]));
        let password = Password::new(password.to_owned());
        let put = vault.put(vec![NewVersion { request, version, lane, password, tags: tags() }]).await;
        put.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    let (version, password) = (VersionId([1; 16]), Password::new(PASSWORD.to_owned()));
    vault.copy(ConfirmedCopy { version, lane, password, tags: tags() }).await?;
    let told = serde_json::json!({
        "url": fake.server.url(), "device": device, "version": version, "lane": lane, "password": PASSWORD,
    });
    println!("{told}");
    // The vault is served by other threads meanwhile.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn open(fake: &FakeKeyVault) -> Result<KeyVault, Box<dyn std::error::Error>> {
    let settings = Settings {
        urls: vec![fake.server.url().parse()?],
        read_urls: Vec::new(),
        danger_unverified_challenge: true,
        attempts: Attempts {
            most: 1,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(1),
        },
        parallel: 1,
    };
    let ca = Some(fake.server.ca.clone().into_bytes());
    let reach = Reach { timeout: Duration::from_secs(5), ca, proxy: None };
    let (credential, entropy): (Arc<dyn TokenCredential>, Arc<dyn Entropy>) =
        (Arc::new(Tokens), Arc::new(SystemEntropy));
    Ok(KeyVault::open(&settings, &reach, &credential, Arc::new(AtOnce), &entropy)?)
}
