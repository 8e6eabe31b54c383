use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::spans::Kind;
use keyturn_schemas::envelope::TraceParent;
use tokio::net::TcpListener;

use super::*;

fn span(number: u8) -> Span {
    Span {
        name: "test".to_owned(),
        kind: Kind::Consumer,
        context: TraceParent::of(RequestId([number; 32])).sampled(true),
        parent: None,
        links: Vec::new(),
        began: UnixMillis(1),
        took: Duration::ZERO,
        attributes: Vec::new(),
        failed: None,
    }
}

fn export(endpoint: &str) -> TraceExport {
    TraceExport {
        endpoint: endpoint.parse().unwrap(),
        headers_file: None,
        ca: None,
        one_in: 4,
        queue: 8,
        batch: 4,
        every: Duration::from_millis(10),
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn one_trace_in_so_many_is_kept() {
    let (sender, _waiting) = mpsc::channel(1);
    let sink = Bounded { sender, one_in: 4 };
    let kept = (0..=u8::MAX).filter(|n| sink.samples(TraceParent::of(RequestId([*n; 32])).trace())).count();
    assert!((40..90).contains(&kept), "a quarter of 256: {kept}");
}

/// A collector that takes connections and answers nothing: who hands spans over never waits, what finds no room is
/// dropped, and the end of the process is not held up for longer than one export may take.
#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let export = export(&format!("http://{}/v1/traces", silent.local_addr().unwrap()));
    let (sender, waiting) = mpsc::channel(export.queue);
    let sink = Bounded { sender, one_in: 1 };
    let otlp = exporter(&export).unwrap();
    let (stop, patience) = (CancellationToken::new(), export.timeout);
    let task = tokio::spawn(Exporter { otlp, export, waiting, away: false }.run(stop.clone()));
    for number in 0..200 {
        sink.take(span(number));
    }
    assert_eq!(sink.sender.capacity(), 0, "the queue is full, and nobody waited");
    tokio::time::timeout(Duration::from_secs(30), Exporting(Some(Running { stop, task, patience })).finish())
        .await
        .unwrap();
}

#[test]
fn headers_are_lines_and_a_bad_one_is_not_told() {
    let good = headers("authorization: Bearer a:b\n\nX-Tenant: one\n").unwrap();
    assert_eq!(good["authorization"], "Bearer a:b");
    assert_eq!(good["x-tenant"], "one");
    for bad in ["x: y\nhunter2", "x: y\nhunter2 : \u{1}", "x: y\nhun ter2: x"] {
        let said = headers(bad).unwrap_err().to_string();
        assert!(said.contains("line 2") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_span_keeps_its_place_and_its_links() {
    let died = TraceParent::of(RequestId([9; 32]));
    let one = Span { links: vec![died], parent: Some(died), failed: Some("why".to_owned()), ..span(1) };
    let converted = convert::span(one.clone());
    assert_eq!(converted.span_context.trace_id().to_bytes(), one.context.trace());
    assert_eq!(converted.span_context.span_id().to_bytes(), one.context.span());
    assert_eq!(converted.parent_span_id.to_bytes(), died.span());
    assert_eq!(converted.links.links[0].span_context.span_id().to_bytes(), died.span());
    assert_eq!(converted.status, opentelemetry::trace::Status::error("why"));
}
