//! The plug is pulled at every step, and the next run finds its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use keyturn_agent::accounts::file::{Faults, FileAccounts};
use keyturn_agent::accounts::{self, Accounts, Found, Verdict};
use keyturn_agent::lock::Lock;
use keyturn_agent::observer::{Observer, Stage};
use keyturn_agent::{Agent, Deps};
use keyturn_domain::label::Label;
use keyturn_domain::password::Password;
use tokio::sync::oneshot;

use crate::server::Server;

/// Where the plug is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Requested,
    Answered,
    Journaled,
    BeforeSet,
    AfterSet,
    Set,
    AfterVerify,
    Proved,
    Refused,
    Reported,
    Recorded,
}

const POINTS: [Point; 11] = [
    Point::Requested,
    Point::Answered,
    Point::Journaled,
    Point::BeforeSet,
    Point::AfterSet,
    Point::Set,
    Point::AfterVerify,
    Point::Proved,
    Point::Refused,
    Point::Reported,
    Point::Recorded,
];

/// Panics the first time a point is passed.
struct Plug {
    point: Point,
    pulled: AtomicBool,
}

impl Plug {
    fn pass(&self, point: Point) {
        assert!(point != self.point || self.pulled.swap(true, Ordering::SeqCst), "the plug is pulled");
    }
}

impl Observer for Plug {
    fn reached(&self, stage: Stage) {
        self.pass(match stage {
            Stage::Requested(_) => Point::Requested,
            Stage::Answered(_) => Point::Answered,
            Stage::Journaled(_) => Point::Journaled,
            Stage::Set(_) => Point::Set,
            Stage::Proved(_) => Point::Proved,
            Stage::Refused(_) => Point::Refused,
            Stage::Reported(_) => Point::Reported,
            Stage::Recorded(_) => Point::Recorded,
        });
    }
}

/// An account whose machine may stop within a call.
struct Fragile {
    inner: Arc<FileAccounts>,
    plug: Arc<Plug>,
}

impl Accounts for Fragile {
    fn name(&self) -> Label {
        self.inner.name()
    }

    fn find(&self) -> Result<Option<Found>, accounts::Error> {
        self.inner.find()
    }

    fn create(&self) -> Result<Found, accounts::Error> {
        self.inner.create()
    }

    fn set(&self, password: &Password) -> Result<(), accounts::Error> {
        self.plug.pass(Point::BeforeSet);
        let answer = self.inner.set(password);
        self.plug.pass(Point::AfterSet);
        answer
    }

    fn verify(&self, password: &Password) -> Result<Verdict, accounts::Error> {
        let verdict = self.inner.verify(password);
        self.plug.pass(Point::AfterVerify);
        verdict
    }
}

fn fragile(server: &Server, point: Point, faults: Faults) -> Agent {
    let plug = Arc::new(Plug { point, pulled: AtomicBool::new(false) });
    let account = Fragile { inner: server.account(faults), plug: plug.clone() };
    Agent::new(server.settings(), Deps::system(Arc::new(account)).observed(plug)).unwrap()
}

/// Runs until nothing is left to do.
async fn settle(server: &Server) {
    let agent = server.agent();
    for _ in 0..3 {
        agent.once().await.unwrap();
        server.check();
    }
    server.check_settled();
}

async fn crash_at_every_point(warmed_up: bool, faults: Faults) {
    for point in POINTS {
        let server = Server::start().await;
        if warmed_up {
            server.agent().once().await.unwrap();
            server.world().force();
        }
        let agent = fragile(&server, point, faults);
        let run = tokio::spawn(async move { agent.once().await }).await;
        let passes = match point {
            Point::Refused => faults.refuse_next > 0,
            Point::Proved => faults.refuse_next == 0,
            _ => true,
        };
        assert_eq!(run.is_err(), passes, "{point:?}");
        server.check();
        settle(&server).await;
    }
}

#[tokio::test]
async fn a_first_rotation_survives_a_crash_at_any_point() {
    crash_at_every_point(false, Faults::default()).await;
}

#[tokio::test]
async fn a_later_rotation_survives_a_crash_at_any_point() {
    crash_at_every_point(true, Faults::default()).await;
}

#[tokio::test]
async fn a_refusal_survives_a_crash_at_any_point() {
    crash_at_every_point(true, Faults { refuse_next: 1, ..Faults::default() }).await;
}

#[tokio::test]
async fn an_error_that_set_the_password_survives_a_crash_at_any_point() {
    crash_at_every_point(true, Faults { error_but_set_next: 1, ..Faults::default() }).await;
}

#[tokio::test]
async fn a_run_that_is_dropped_while_it_sets_comes_to_rest_before_the_next_one_starts() {
    let server = Server::start().await;
    let (journaled, first) = oneshot::channel();
    let (release, released) = mpsc::channel();
    let pause = Pause(Mutex::new(Some((journaled, released))));
    let deps = Deps::system(server.account(Faults::default())).observed(Arc::new(pause));
    let agent = Agent::new(server.settings(), deps).unwrap();
    let run = tokio::spawn(async move { agent.once().await });
    first.await.unwrap();
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    let error = server.agent().once().await.unwrap_err();
    assert_eq!(error.code(), "locked", "the account is still being changed");
    release.send(()).unwrap();
    while Lock::take(&server.folder().join("state")).is_err() {
        tokio::task::yield_now().await;
    }
    server.check();
    assert!(server.real().is_some() && server.journal().cur == server.real());
    settle(&server).await;
}

/// Says when the first version has been journaled, and goes on when told to.
struct Pause(Mutex<Option<(oneshot::Sender<()>, mpsc::Receiver<()>)>>);

impl Observer for Pause {
    fn reached(&self, stage: Stage) {
        let first = self.0.lock().unwrap().take_if(|_| matches!(stage, Stage::Journaled(_)));
        if let Some((journaled, released)) = first {
            journaled.send(()).unwrap();
            released.recv().unwrap();
        }
    }
}
