//! What a flood of strangers costs the devices that are known: the slowest hundredth of their requests while they
//! are alone, and while strangers with good signatures hammer from another address, in one run. The ratio is the
//! figure; times depend on the machine.
//!
//! What strangers are let in with at first, their burst, is used up before the second measurement begins: it is work
//! that was let in, and that is another matter.
//!
//! All of it on one runtime and loopback: strangers at 127.0.0.2, devices at 127.0.0.1. Strangers have a few keys
//! and many messages, because an RSA key takes long to make and a message does not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark may panic"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyturn_domain::admission::{AdmissionPolicy, Rate};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_ingress::Limits;
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::nonce::Nonce;
use keyturn_service::http::{self, Bounds};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

/// Known devices, and how many messages each sends alone, and as many beset.
const DEVICES: u8 = 8;
const MESSAGES: usize = 400;

/// The two are measured in turns, so that whatever else the machine does meets both alike.
const TURNS: usize = 10;

/// Strangers' connections, keys, and messages of each key.
const CONNECTIONS: usize = 64;
const KEYS: u8 = 4;
const OF_EACH: usize = 250;

/// Between two messages of known devices: they are busy, not a flood.
const PACE: Duration = Duration::from_millis(25);

const KNOWN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STRANGE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

#[tokio::main]
async fn main() {
    // `cargo test --benches` runs this too; the figure comes from `cargo bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // The defaults, but for the few keys that stand for a fleet.
    let admission = AdmissionPolicy { key: Rate::new(1000, 10_000), ..AdmissionPolicy::default() };
    let mut system = System::with_limits(Faults::none(), Limits::default(), admission);
    let mut devices: Vec<FakeDevice> = (1..=DEVICES).map(|n| FakeDevice::new(n, deployment())).collect();
    for device in &mut devices {
        system.register(device).await;
        assert!(system.rotate(device).await);
    }
    system.clock.advance(Duration::from_mins(2));
    let [alone, beset] = [messages(&system, &mut devices).await, messages(&system, &mut devices).await];
    let strange = Arc::new(strangers(&system).await);

    let (address, stop) = serve(&system).await;
    tokio::spawn(tick(system.clock.clone()));
    let flood = Flood::start(address, &strange);
    while flood.count().1 == 0 {
        tokio::time::sleep(PACE).await;
    }
    let before = flood.count();
    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        flood.calm.store(true, Ordering::Relaxed);
        // What was under way is answered, and what was held back as well.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        quiet.extend(measure(address, part(&alone, turn)).await);
        flood.calm.store(false, Ordering::Relaxed);
        loud.extend(measure(address, part(&beset, turn)).await);
    }
    let after = flood.count();
    stop.cancel();
    quiet.sort_unstable();
    loud.sort_unstable();
    println!("known alone:   {}", told(&quiet));
    println!("known, beset:  {}", told(&loud));
    println!(
        "strangers:     {} taken, {} refused meanwhile; {} taken before",
        after.0 - before.0,
        after.1 - before.1,
        before.0
    );
    for percent in [50, 95, 99] {
        let ratio = at(&loud, percent).as_secs_f64() / at(&quiet, percent).as_secs_f64();
        println!("p{percent} ratio:     {ratio:.2}");
    }
}

/// Strangers that send on and on.
struct Flood {
    calm: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Flood {
    fn start(address: SocketAddr, messages: &Arc<Vec<String>>) -> Self {
        let flood = Self { calm: Arc::default(), taken: Arc::default(), refused: Arc::default() };
        for n in 0..CONNECTIONS {
            let messages = Arc::clone(messages);
            let (calm, taken, refused) =
                (Arc::clone(&flood.calm), Arc::clone(&flood.taken), Arc::clone(&flood.refused));
            tokio::spawn(async move {
                let mut stream = connect(STRANGE, address).await;
                for message in messages.iter().cycle().skip(n * messages.len() / CONNECTIONS) {
                    while calm.load(Ordering::Relaxed) {
                        tokio::time::sleep(PACE).await;
                    }
                    let counter = if exchange(&mut stream, message).await == 202 { &taken } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        flood
    }

    /// How many were taken and refused so far.
    fn count(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

/// What each device sends in one turn.
fn part(messages: &[Vec<String>], turn: usize) -> Vec<Vec<String>> {
    let size = MESSAGES / TURNS;
    messages.iter().map(|own| own[turn * size..(turn + 1) * size].to_vec()).collect()
}

/// Lets the pipeline's clock go with the real one.
async fn tick(clock: ManualClock) {
    let mut last = SystemClock.monotonic();
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let passed = Duration::from_millis(
            u64::try_from((SystemClock.monotonic().saturating_sub(last)).as_millis()).unwrap(),
        );
        clock.advance(passed);
        last += passed;
    }
}

async fn serve(system: &System) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let address = SocketAddr::new(KNOWN, listener.local_addr().unwrap().port());
    let stop = CancellationToken::new();
    tokio::spawn(http::serve(listener, None, system.router(), Bounds::default(), stop.clone()));
    (address, stop)
}

async fn messages(system: &System, devices: &mut [FakeDevice]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for device in devices {
        let mut own = Vec::new();
        for _ in 0..MESSAGES {
            own.push(request(&device.request(nonce(system).await)));
        }
        all.push(own);
    }
    all
}

/// Messages whose signatures hold, by keys that no lane has.
async fn strangers(system: &System) -> Vec<String> {
    let mut all = Vec::new();
    for key in 0..KEYS {
        let mut device = FakeDevice::new(100 + key, deployment());
        let like = SignedMessage::parse(device.request(system.nonce().await)).unwrap().claims().clone();
        for _ in 0..OF_EACH {
            let mut claims = like.clone();
            if let Claims::Request(request) = &mut claims {
                request.common.nonce = nonce(system).await;
            }
            all.push(request(&device.sign(&claims)));
        }
    }
    all
}

/// A nonce, and the time in which another may be asked for.
async fn nonce(system: &System) -> Nonce {
    let nonce = system.nonce().await;
    system.clock.advance(Duration::from_millis(5));
    nonce
}

fn request(message: &str) -> String {
    let head = "POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{message}", message.len())
}

/// How long each message took, of devices that send at the same time.
async fn measure(address: SocketAddr, messages: Vec<Vec<String>>) -> Vec<Duration> {
    let sending = messages.into_iter().map(|own| {
        tokio::spawn(async move {
            let mut stream = connect(KNOWN, address).await;
            let mut took = Vec::new();
            for message in own {
                let before = SystemClock.monotonic();
                assert_eq!(exchange(&mut stream, &message).await, 202, "a known device is let in");
                took.push(SystemClock.monotonic().saturating_sub(before));
                tokio::time::sleep(PACE).await;
            }
            took
        })
    });
    let mut all = Vec::new();
    for sent in sending.collect::<Vec<_>>() {
        all.extend(sent.await.unwrap());
    }
    all.sort_unstable();
    all
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and reads its answer, whose status is returned.
async fn exchange(stream: &mut TcpStream, request: &str) -> u16 {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the connection stays open");
        let text = std::str::from_utf8(&bytes).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return head[9..12].parse().unwrap();
        }
    }
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn told(sorted: &[Duration]) -> String {
    format!("p50 {:?}, p99 {:?}, of {}", at(sorted, 50), at(sorted, 99), sorted.len())
}
