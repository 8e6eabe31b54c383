//! The pulled plug: whatever is away is waited for, told of, and the work goes on by itself.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyturn_testkit::azure::graph::Fault as GraphFault;
use keyturn_testkit::azure::key_vault::Fault;
use keyturn_testkit::azure::logs::Fault as LogsFault;
use tokio::time::Instant;

use super::hops::Hops;
use super::site::{DEFAULT, SHORT, Site};
use crate::processes::{Device, ROLES, Role};

/// For how many seconds a plug stays pulled; without it, until the roles told of it. With it, the waits are those of a
/// deployment that says nothing of them.
const SECONDS: &str = "KEYTURN_PULLED_SECONDS";

const DEVICES: usize = 3;

/// How soon after the end of an outage all is as ever: no message waits longer than `workers.max_delay` for its turn.
const DRAINED_WITHIN: Duration = Duration::from_secs(100);

struct Plugged {
    site: Site,
    health: [(&'static str, SocketAddr); 4],
    pulled_for: Option<Duration>,
    _roles: Vec<Role>,
}

impl Plugged {
    async fn new(hops: Box<dyn Hops>) -> Self {
        let pulled_for = std::env::var_os(SECONDS).map(|given| {
            let seconds = given.to_str().and_then(|given| given.parse().ok());
            Duration::from_secs(seconds.unwrap_or_else(|| panic!("{SECONDS}: expected a number")))
        });
        let site = Site::new(hops, DEVICES, if pulled_for.is_some() { DEFAULT } else { SHORT }).await;
        let health = ["ingress", "validator", "rotator", "notifier"]
            .map(|name| (name, crate::processes::free_address()));
        let roles =
            health.map(|(name, address)| Role::answering(name, &site.deployment, &address.to_string()));
        let plugged = Self { site, health, pulled_for, _roles: roles.into() };
        plugged.all_rotate(plugged.site.devices.iter()).await;
        plugged
    }

    /// Agents as their services run them: again and again until they have rotated.
    fn agents<'a>(devices: impl Iterator<Item = &'a Device>) -> tokio::task::JoinSet<()> {
        let mut agents = tokio::task::JoinSet::new();
        for device in devices {
            let agent = device.agent();
            agents.spawn(async move {
                while !agent.once().await.is_ok_and(|outcome| outcome.is_success()) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
        }
        agents
    }

    async fn all_rotate<'a>(&self, devices: impl Iterator<Item = &'a Device>) {
        Self::agents(devices).join_all().await;
        for device in &self.site.devices {
            device.invariant_settled(&self.site.deployment);
        }
    }

    fn asks(&self, role: &str, path: &str) -> String {
        let (_, address) = self.health.iter().find(|(name, _)| *name == role).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// How many messages of a queue were put off.
    fn retried(&self, role: &str, queue: &str) -> f64 {
        let text = self.asks(role, "/metrics");
        let labels = [format!("queue=\"{queue}\""), "outcome=\"retried\"".to_owned()];
        let fits = |line: &&str| {
            line.starts_with("keyturn_messages_settled_total{")
                && labels.iter().all(|label| line.contains(label))
        };
        let value = text.lines().find(fits).and_then(|line| line.rsplit(' ').next());
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Whether a role says that an engine is away, since when and why, and in what standing that leaves it.
    fn away(&self, role: &str, engine: &str, why: &str, ready: bool) -> bool {
        let told = self.asks(role, "/readyz");
        let status = if ready { "200 OK" } else { "503 Service Unavailable" };
        let line = told.lines().find(|line| line.starts_with(engine)).unwrap_or_default();
        let (gauge, text) =
            (format!("keyturn_engine_up{{engine=\"{engine}\"}} 0\n"), self.asks(role, "/metrics"));
        told.contains(status) && line.contains("away since 20") && line.contains(why) && text.contains(&gauge)
    }

    /// Everybody lives, and those who do not need what is away are ready.
    fn the_rest_is_well(&self, unready: &[&str]) {
        for (role, _) in self.health {
            assert!(self.asks(role, "/healthz").contains("200 OK"), "{role} lives");
            let told = self.asks(role, "/readyz");
            assert_eq!(told.contains("200 OK"), !unready.contains(&role), "{role}: {told}");
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < DRAINED_WITHIN, "never: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Devices ask while something is away; it is told of all the while; it comes back, and they are served without
    /// further ado.
    async fn pulled(
        &self,
        away: impl FnOnce(&Site),
        told: impl Fn(&Self) -> bool,
        unready: &[&str],
        back: impl FnOnce(&Site),
        what: &str,
    ) {
        let site = &self.site;
        site.order_rotations(what);
        let before = site.versions();
        away(site);
        let pulled = Instant::now();
        let agents = Self::agents(site.devices.iter());
        self.until(what, &told).await;
        loop {
            self.the_rest_is_well(unready);
            assert_eq!(site.versions(), before, "no version without {what}");
            if self.pulled_for.is_none_or(|time| pulled.elapsed() >= time) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(told(self), "{what} is told of all the while");
        }
        let (was_away, resumed) = (pulled.elapsed(), Instant::now());
        back(site);
        let all = tokio::time::timeout(DRAINED_WITHIN, agents.join_all()).await;
        assert!(all.is_ok(), "not drained {DRAINED_WITHIN:?} after {what}");
        let drained = resumed.elapsed();
        for device in &site.devices {
            device.invariant_settled(&site.deployment);
        }
        assert_eq!(site.versions(), before + site.devices.len(), "one version each, {what} or not");
        self.until("ready again", |this| {
            this.health.iter().all(|(role, _)| this.asks(role, "/readyz").contains("200 OK"))
        })
        .await;
        println!("{what} was away for {was_away:.1?}; all had their passwords {drained:.1?} later");
        site.all_are_copied().await;
        site.nothing_died();
    }
}

pub(super) async fn key_vault(hops: Box<dyn Hops>) {
    let plugged = Plugged::new(hops).await;
    let put_off = plugged.retried("rotator", "findings");
    plugged
        .pulled(
            |site| site.vault.always(Some(Fault::Unavailable)),
            |this| {
                this.retried("rotator", "findings") >= put_off + 2.0
                    && this.away("rotator", "vault", "", false)
            },
            &["rotator"],
            |site| site.vault.always(None),
            "Key Vault",
        )
        .await;
}

pub(super) async fn graph(hops: Box<dyn Hops>) {
    let plugged = Plugged::new(hops).await;
    let put_off = plugged.retried("validator", "requests");
    plugged
        .pulled(
            |site| site.graph.always(Some(GraphFault::Status(503, None))),
            |this| {
                this.retried("validator", "requests") >= put_off + 2.0
                    && this.away("validator", "directory", "Graph", false)
            },
            &["validator"],
            |site| site.graph.always(None),
            "Graph",
        )
        .await;
}

pub(super) async fn queues(hops: Box<dyn Hops>) {
    let plugged = Plugged::new(hops).await;
    plugged
        .pulled(
            |site| site.hops.pause(),
            |this| {
                this.away("validator", "queue_requests", "no answer within", false)
                    && this.away("rotator", "queue_findings", "no answer within", false)
                    && this.away("notifier", "queue_outcomes", "no answer within", false)
                    && this.away("ingress", "queue_requests", "no answer within", true)
            },
            &["validator", "rotator", "notifier"],
            |site| site.hops.resume(),
            "the queues' service",
        )
        .await;
}

pub(super) async fn postgresql(hops: Box<dyn Hops>) {
    let plugged = Plugged::new(hops).await;
    plugged
        .pulled(
            |site| site.database.cluster().crash(),
            |this| ROLES.iter().all(|role| this.away(role, "state", "", false)),
            &ROLES,
            |site| site.database.cluster().start(),
            "PostgreSQL",
        )
        .await;
}

/// Devices rotate while log shipping is away, and all that happened is shipped afterwards.
pub(super) async fn azure_monitor(hops: Box<dyn Hops>) {
    let plugged = Plugged::new(hops).await;
    let site = &plugged.site;
    let pulled = Instant::now();
    site.logs.always(Some(LogsFault::Unavailable));
    plugged.until("logs away", |this| this.away("notifier", "logs", "", true)).await;
    loop {
        site.order_rotations("without logs");
        plugged.all_rotate(site.devices.iter()).await;
        plugged.the_rest_is_well(&[]);
        if plugged.pulled_for.is_none_or(|time| pulled.elapsed() >= time) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(plugged.away("notifier", "logs", "", true), "it is told of all the while");
    }
    let (was_away, resumed) = (pulled.elapsed(), Instant::now());
    let shipped = || -> HashSet<String> {
        let rows = site.logs.rows("Custom-CloudLAPSAudit_CL");
        rows.iter().map(|row| row["RowId"].to_string()).collect()
    };
    let (before, audit) =
        (shipped().len(), site.deployment.ok(&["audit", "export", "--since", "2026-01-01T00:00:00Z"]));
    let rows = audit.lines().count();
    assert!(before < rows, "{before} of {rows} rows were shipped while nobody took them");
    site.logs.always(None);
    plugged.until("every row of the audit is shipped", |_| shipped().len() >= rows).await;
    println!(
        "Azure Monitor was away for {was_away:.1?}; {} rows were shipped within {:.1?}",
        rows - before,
        resumed.elapsed()
    );
    plugged
        .until("logs back", |this| this.asks("notifier", "/readyz").contains("logs (can be waited for): up"))
        .await;
}

/// `doctor` looks at the engines there are.
pub(super) async fn doctor(hops: Box<dyn Hops>) {
    let site = Site::new(hops, 0, SHORT).await;
    let doctor = || String::from_utf8(site.deployment.keyturn(&["doctor", "--write"]).stdout).unwrap();
    let line = |told: &str, state: &str, line: &str| {
        assert!(told.lines().any(|told| told.starts_with(state) && told.contains(line)), "{line}: {told}");
        assert!(!told.contains("write-ahead log"), "there is no file to look at: {told}");
    };
    site.vault.always(Some(Fault::Unavailable));
    line(&doctor(), "failed  vault", "status 503");
    site.vault.always(None);
    let told = doctor();
    line(&told, "ok      vault", "Key Vault answers");
    line(&told, "ok      audit writable", "a row could be written");
    line(&told, "ok      vault readable", &site.vault.server.url());
    line(&told, "ok      vault writable", &site.vault.server.url());
    for taken in ["PostgreSQL: 15", "Key Vault http", "Graph: v1.0, and it takes that"] {
        line(&told, "ok      api version", taken);
    }
    for who in ["PostgreSQL".to_owned(), site.vault.server.url(), site.graph.server.url()] {
        line(&told, "ok      service clock", &format!("{who}: its clock and this machine's are 0 s apart"));
    }
    for said in site.hops.doctored() {
        line(&told, said, "");
    }
    // What was tried is not there any more.
    line(&doctor(), "ok      queue", "findings: 0 wait, 0 dead");
}
