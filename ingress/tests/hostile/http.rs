//! I-01 to I-24: HTTP, over real sockets.

use keyturn_service::http::Bounds;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::{Faults, Mode};
use keyturn_testkit::system::{System, deployment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::edge::{Edge, post, read, with_headers};

const JOSE: &str = "Content-Type: application/jose";

async fn message(edge: &Edge) -> String {
    FakeDevice::new(1, deployment()).request(edge.system.nonce().await)
}

/// What is refused by its shape: one request, one answer, nothing enqueued.
#[tokio::test]
async fn i_01_to_i_24_what_is_wrong_with_the_request_is_answered_and_nothing_is_enqueued() {
    let edge = Edge::open().await;
    let good = message(&edge).await;
    let large = "A".repeat(16 * 1024 + 1);
    let chunks = format!("400\r\n{}\r\n", "A".repeat(1024)).repeat(40);
    let chunked = format!(
        "POST /v1/requests HTTP/1.1\r\nHost: x\r\n{JOSE}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    let head = "POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\n";
    let both = format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let announced = format!("{head}Content-Length: 16385\r\n\r\n");
    let awaiting = format!("{head}Content-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let typed = |kind: &str| with_headers("/v1/requests", &[kind], &good);
    for (id, bytes, status, code) in [
        ("I-01", get("/v1/requests"), 405, "KT-0104"),
        ("I-02", with_headers("/v1/requests", &[], &good), 415, "KT-0102"),
        ("I-03", typed("Content-Type: text/plain"), 415, "KT-0102"),
        ("I-03", typed("Content-Type: application/json"), 415, "KT-0102"),
        ("I-04", typed("Content-Type: application/jose; charset=utf-16"), 415, "KT-0102"),
        ("I-05", post("/v1/requests", ""), 400, "KT-0101"),
        ("I-06", post("/v1/requests", &large), 413, "KT-0103"),
        ("I-06", announced, 413, "KT-0103"),
        ("I-07", chunked, 413, "KT-0103"),
        ("I-11", with_headers("/v1/requests", &[JOSE, "Content-Encoding: gzip"], "\x1f"), 415, "KT-0102"),
        ("I-12", both, 400, "KT-0101"),
        ("I-14", get("/v1/requests/../admin"), 404, "KT-0105"),
        ("I-14", get("//v1//requests"), 404, "KT-0105"),
        ("I-14", get("/v1/requests/%2e%2e"), 404, "KT-0110"),
        ("I-14", get("/v1/requests/%ff"), 404, "KT-0110"),
        ("I-14", get("/v1/requests/..%2fadmin"), 404, "KT-0110"),
        ("I-14", get("/V1/NONCE"), 404, "KT-0105"),
        ("I-16", get("http://other.example/v1/nowhere"), 404, "KT-0105"),
        ("I-16", "CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404, "KT-0105"),
        ("I-18", awaiting, 413, "KT-0103"),
        ("I-24", post("/v1/requests", &format!("\u{feff}{good}")), 400, "KT-0101"),
        ("I-24", post("/v1/requests", &format!(" {good}")), 400, "KT-0101"),
        ("I-24", post("/v1/requests", &format!("{good}\n")), 400, "KT-0101"),
    ] {
        edge.send(bytes).await.is(id, status, code);
    }
    assert_eq!(edge.depth().await, 0);
    edge.send(post("/v1/requests", &good)).await.is("the next good request", 202, "ticket");
}

/// What the HTTP library answers itself has a status and closes; no second request is read from what follows.
#[tokio::test]
async fn i_10_i_12_i_13_i_15_i_19_broken_heads_close_the_connection() {
    let edge = Edge::open().await;
    let many = "X-Same: y\r\n".repeat(200);
    let smuggled = "GET /v1/nonce HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = "POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\n";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (id, bytes, status) in [
        ("I-10", format!("GET /v1/nonce HTTP/1.1\r\nHost: x\r\n{many}\r\n"), Some(431)),
        (
            "I-10",
            format!("GET /v1/nonce HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(65_536)),
            Some(431),
        ),
        (
            "I-12",
            format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            Some(400),
        ),
        (
            "I-12",
            format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"),
            Some(400),
        ),
        ("I-12", format!("{head}Transfer-Encoding: gzip, chunked, x\r\n\r\n0\r\n\r\n{smuggled}"), Some(400)),
        ("I-13", format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\naaaaaa{smuggled}"), Some(400)),
        ("I-13", format!("{head}Content-Length: +5\r\n\r\naaaaa{smuggled}"), Some(400)),
        ("I-15", format!("GET /v1/nonce?{} HTTP/1.1\r\nHost: x\r\n\r\n", "q".repeat(8192)), Some(431)),
        ("I-19", format!("{preface}{smuggled}"), None),
    ] {
        let mut stream = edge.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let reply = read(&mut stream).await;
        let answered = reply.as_ref().map(|reply| reply.status);
        assert!(
            answered == status || (status.is_none() && answered.is_none_or(|it| it >= 400)),
            "{id}: {reply:?}"
        );
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{id}: {}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(edge.depth().await, 0);
}

#[tokio::test]
async fn i_01_t_07_other_methods_are_told_which_there_is() {
    let edge = Edge::open().await;
    let ticket = format!("/v1/requests/01{}", "A".repeat(64));
    for (path, allowed) in [
        ("/v1/nonce", "GET"),
        (ticket.as_str(), "GET"),
        ("/v1/requests", "POST"),
        ("/v1/reports", "POST"),
        ("/v1/events", "POST"),
    ] {
        for method in ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let mut stream = edge.connect().await;
            stream
                .write_all(
                    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
                )
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 405"), "{method} {path}: {text}");
            assert!(
                text.to_lowercase().contains(&format!("\r\nallow: {}\r\n", allowed.to_lowercase())),
                "{text}"
            );
        }
    }
}

/// Neither a foreign Host nor an absolute target nor a query changes what is answered, and none is repeated.
#[tokio::test]
async fn i_15_i_16_host_and_query_are_ignored() {
    let edge = Edge::open().await;
    for (id, target, host) in [
        ("I-15", format!("/v1/requests?{}", "q".repeat(6000)), "x"),
        ("I-16", "/v1/requests".to_owned(), "evil.example"),
        ("I-16", "http://evil.example/v1/requests".to_owned(), "x"),
    ] {
        let message = message(&edge).await;
        let request = post(&target, &message).replace("Host: x", &format!("Host: {host}"));
        let reply = edge.send(request).await;
        reply.is(id, 202, "ticket");
        assert!(reply.header("location").unwrap().starts_with("/v1/requests/"), "{id}: {reply:?}");
        assert!(!reply.head.contains("evil") && !reply.body.contains("evil"), "{id}: {reply:?}");
    }
}

/// A hundred clients that stop in the middle of a body hold nobody up, and are told that they are slow.
#[tokio::test]
async fn i_08_slow_bodies_hold_nobody_up() {
    let edge = Edge::impatient().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = edge.connect().await;
        let head = format!("POST /v1/requests HTTP/1.1\r\nHost: x\r\n{JOSE}\r\nContent-Length: 100\r\n\r\nA");
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let good = message(&edge).await;
    edge.send(post("/v1/requests", &good)).await.is("I-08", 202, "ticket");
    for mut stream in slow {
        read(&mut stream).await.unwrap().is("I-08", 408, "KT-0112");
    }
    assert_eq!(edge.depth().await, 1);
}

#[tokio::test]
async fn i_09_slow_heads_are_cut_off() {
    let edge = Edge::impatient().await;
    for part in ["", "G", "GET /v1/nonce HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = edge.connect().await;
        stream.write_all(part.as_bytes()).await.unwrap();
        let reply = read(&mut stream).await;
        assert!(reply.as_ref().is_none_or(|reply| reply.status == 408), "I-09 {part:?}: {reply:?}");
    }
}

#[tokio::test]
async fn i_20_the_same_message_twenty_times_at_once_is_one() {
    let edge = Edge::open().await;
    let request = post("/v1/requests", &message(&edge).await);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(edge.connect().await);
    }
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut tickets = Vec::new();
    for mut stream in streams {
        let reply = read(&mut stream).await.unwrap();
        reply.is("I-20", 202, "ticket");
        tickets.push(reply.body);
    }
    tickets.dedup();
    assert_eq!((tickets.len(), edge.depth().await), (1, 1));
}

/// 503 with a time to come back at that differs from client to client, and never 202.
#[tokio::test]
async fn i_22_an_engine_that_is_away_is_never_a_202() {
    let mut waits = Vec::new();
    for call in [1, 2] {
        for mode in [Mode::FailBefore, Mode::FailAfter] {
            let system = System::new(Faults::at(call, mode));
            let message = FakeDevice::new(1, deployment()).request(system.nonce().await);
            let reply = system.send("/v1/requests", &message).await;
            assert_eq!(reply.status.as_u16(), 503, "I-22 {call} {mode:?}: {}", reply.body);
            let wait: u64 = reply.retry_after.unwrap();
            assert!((10..=30).contains(&wait), "I-22: {wait}");
            waits.push(wait);
        }
    }
    assert_eq!(waits.len(), 4);
}

/// A client that hangs up once its last byte is out: the message is in, once, and the same bytes get its ticket.
#[tokio::test]
async fn i_23_hanging_up_after_the_last_byte_is_once_or_not_at_all() {
    let edge = Edge::open().await;
    let request = post("/v1/requests", &message(&edge).await);
    let mut stream = edge.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    drop(stream);
    edge.send(&request).await.is("I-23", 202, "ticket");
    assert_eq!(edge.close().await, 1);
}

/// Not in the table of ids: one client may hold so many connections and no more.
#[tokio::test]
async fn one_client_holds_only_so_many_connections() {
    let bounds = Bounds { connections_per_address: 2, ..Bounds::default() };
    let edge = Edge::with(keyturn_domain::admission::AdmissionPolicy::default(), bounds).await;
    let ask = "GET /v1/nonce HTTP/1.1\r\nHost: x\r\n\r\n";
    let (mut one, mut two, mut three) = (edge.connect().await, edge.connect().await, edge.connect().await);
    for held in [&mut one, &mut two] {
        held.write_all(ask.as_bytes()).await.unwrap();
        assert_eq!(read(held).await.unwrap().status, 200);
    }
    let _reset = three.write_all(ask.as_bytes()).await;
    assert!(read(&mut three).await.is_none(), "the third is closed unheard");
}
