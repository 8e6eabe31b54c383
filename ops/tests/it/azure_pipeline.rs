//! The whole pipeline on what it has in Azure: hops on a real Azurite or a fake Service Bus, the state on a real PostgreSQL,
//! and fakes of Key Vault, Graph, Azure Monitor and the managed identity's endpoint, all the roles as processes.

mod hops;
mod plug;
mod site;

use std::time::Duration;

use keyturn_testkit::azure::key_vault::{Call, Fault};

use self::hops::Hops;
use self::site::{SHORT, Site};
use crate::processes::{Role, run};

/// More than the vault takes in a second.
const DEVICES: usize = 32;

/// Two workers of each stage; one of each is killed while they work, and stays away; and the vault takes 30 writes in any
/// second and throttles now and then on top.
async fn workers_killed_at_a_throttled_vault_lose_nothing(hops: Box<dyn Hops>) {
    let site = Site::new(hops, DEVICES, SHORT).await;
    site.vault.limit_sets(30, Duration::from_secs(1));
    let throttled = [Some(1), None, Some(1), None, Some(2)].map(Fault::Throttled);
    site.vault.faults(Call::Set, throttled);
    let _ingress = Role::start("ingress", &site.deployment);
    let stages = ["validator", "rotator", "notifier"];
    let mut victims = stages.map(|name| Some(Role::start(name, &site.deployment)));
    let _others = stages.map(|name| Role::start(name, &site.deployment));
    for round in 1..=3 {
        let mut agents = tokio::task::JoinSet::new();
        for device in &site.devices {
            agents.spawn(run(device.agent()));
        }
        // The rotator first, as soon as it has stored something; SIGKILL is how a role that is dropped ends.
        while site.versions() < (round - 1) * site.devices.len() + 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop([1, 0, 2].get(round - 1).and_then(|victim| victims[*victim].take()));
        while let Some(ended) = agents.join_next().await {
            ended.unwrap();
        }
        for device in &site.devices {
            device.invariant_settled(&site.deployment);
        }
        site.order_rotations("next round");
        assert_eq!(site.versions(), round * site.devices.len(), "one version for each device and round");
    }
    assert!(site.vault.all_happened(), "the vault throttled");
    assert_eq!(site.vault.refused_sets(), 0, "and was never asked for more than it takes");
    assert!(victims.iter().all(Option::is_none), "one of each stage was killed");
    site.all_are_copied().await;
    site.nothing_died();
}

/// The tests on one engine of the hops, under names by which `./test` finds them.
macro_rules! pipeline {
    ($engine:ident, $hops:path) => {
        mod $engine {
            #[tokio::test(flavor = "multi_thread")]
            async fn workers_killed_at_a_throttled_vault_lose_nothing() {
                super::workers_killed_at_a_throttled_vault_lose_nothing($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn key_vault_is_waited_for() {
                super::plug::key_vault($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn graph_is_waited_for() {
                super::plug::graph($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn queues_are_waited_for() {
                super::plug::queues($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn postgresql_is_waited_for() {
                super::plug::postgresql($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn azure_monitor_is_missed_by_nobody() {
                super::plug::azure_monitor($hops().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn doctor_looks_at_what_is_there() {
                super::plug::doctor($hops().await).await;
            }
        }
    };
}

#[cfg(feature = "azurite")]
pipeline!(on_azure_storage, super::hops::azure_storage);
#[cfg(feature = "service-bus")]
pipeline!(on_service_bus, super::hops::service_bus);
