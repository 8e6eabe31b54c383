use std::sync::atomic::AtomicBool;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_pipeline::handler::{Handled, Handler};
use keyturn_pipeline::worker::{Worker, WorkerSettings};

use super::*;

const QUEUE: QueueName = QueueName::Findings;
const PATIENCE: Duration = Duration::from_millis(400);

/// A handler that hangs as soon as it is told to.
struct Hangs(Arc<AtomicBool>);

#[async_trait]
impl Handler for Hangs {
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        if self.0.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        batch.iter().map(|_| Handled::done()).collect()
    }
}

/// What was said until now, each once in its order.
fn said(socket: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    let mut text = [0; 64];
    while let Ok(length) = socket.recv(&mut text) {
        all.push(String::from_utf8_lossy(&text[..length]).trim().to_owned());
    }
    all.dedup();
    all
}

/// The real loop of a real worker on a real queue, and a socket in systemd's place.
#[tokio::test(flavor = "multi_thread")]
async fn pings_stop_when_a_handler_hangs_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options =
        OpenOptions::new(folder.path().join("keyturn.db"), Arc::clone(&clock), Arc::new(SystemEntropy));
    let database = Database::open(options).unwrap();
    let watchdog = Some(Duration::from_millis(60));
    let supervisor = Supervisor::new(Some(path.as_os_str()), watchdog, Arc::clone(&clock));
    let hangs = Arc::new(AtomicBool::new(false));
    let worker = Worker {
        queue: supervisor.marked("findings", Arc::new(database.clone())),
        name: QUEUE,
        handler: Arc::new(Hangs(Arc::clone(&hangs))),
        settings: WorkerSettings { lease: Duration::from_millis(90), ..WorkerSettings::default() },
        clock,
        entropy: Arc::new(SystemEntropy),
    };
    let stop = CancellationToken::new();
    let (working, stopping) = (stop.clone(), stop.clone());
    let work = tokio::spawn(async move { worker.run(working).await });
    supervisor.await_parts(2);
    supervisor.begun();
    assert_eq!(said(&socket), [""; 0], "one part has yet to begin");
    supervisor.begun();
    supervisor.begun();
    assert_eq!(said(&socket), ["READY=1"]);
    let pinging = tokio::spawn(supervisor.ping(PATIENCE, stopping));
    let send = |n: u8| {
        let message = NewMessage {
            request: RequestId([n; 32]),
            device: DeviceId::from_bytes([n; 16]),
            body: "{}".to_owned(),
        };
        let database = database.clone();
        async move { database.send(QUEUE, vec![message]).await.unwrap() }
    };
    // With nothing to do, and with something, for longer than the patience.
    tokio::time::sleep(PATIENCE * 2).await;
    send(1).await;
    assert_eq!(said(&socket), ["WATCHDOG=1"]);
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(said(&socket), ["WATCHDOG=1"]);
    hangs.store(true, Ordering::SeqCst);
    send(2).await;
    // Its lease is renewed all the while; that is no sign of life.
    tokio::time::sleep(PATIENCE * 2).await;
    said(&socket);
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(said(&socket), [""; 0], "a hung worker is left to systemd");
    stop.cancel();
    pinging.await.unwrap();
    assert_eq!(said(&socket), ["STOPPING=1"]);
    work.abort();
}

#[test]
fn nobody_is_told_outside_systemd() {
    let supervisor = Supervisor::new(None, None, Arc::new(SystemClock));
    supervisor.begun();
    let long = "x".repeat(200);
    for path in ["/nonexistent/notify", "@nobody", &long] {
        Supervisor::new(Some(path.as_ref()), None, Arc::new(SystemClock)).begun();
    }
}
