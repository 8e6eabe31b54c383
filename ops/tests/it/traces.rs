//! One message is one trace through four processes, hop after hop; what is done again is linked. A message dies, is
//! replayed, and comes to its end in the same trace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use keyturn_domain::ids::RequestId;
use keyturn_schemas::envelope::TraceParent;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;

use crate::collector::{Collected, Collector, attribute};
use crate::deployment::Deployment;
use crate::processes::{Device, ROLES, Role, build, free_address, install};

const HEADER: &str = "x-tenant: canary-of-the-headers-file";

/// Four roles that export to a collector. The recovery log is in a folder that is not there yet.
struct World {
    deployment: Deployment,
    collector: Collector,
    device: Device,
    roles: Vec<Role>,
}

impl World {
    fn start() -> Self {
        build();
        let (deployment, collector) = (Deployment::init(), Collector::start(HEADER));
        let address = free_address();
        deployment.ok(&["vault", "recovery-key", deployment.path("recovery.key").to_str().unwrap()]);
        let headers = deployment.path("headers");
        fs::write(&headers, format!("{HEADER}\n")).unwrap();
        fs::set_permissions(&headers, fs::Permissions::from_mode(0o600)).unwrap();
        deployment.configure(&format!(
            "[ingress]\nlisten = \"{address}\"\n\
             [workers]\nfirst_delay = \"20ms\"\nmax_delay = \"50ms\"\nmax_deliveries = 3\npatience = \"1ms\"\n\
             [vault]\nrecovery_log = \"../later/recovery.log\"\nrecovery_key = \"../recovery.key.pub\"\n\
             [traces]\nendpoint = \"{}\"\nheaders_file = \"{}\"\nevery = \"50ms\"\n",
            collector.endpoint,
            headers.display(),
        ));
        let device = install(&deployment, 0, address);
        let roles = ROLES.iter().map(|name| Role::answering(name, &deployment, "off")).collect();
        Self { deployment, collector, device, roles }
    }

    /// The spans of a trace, once `enough` of them are there.
    async fn trace(&self, request: RequestId, enough: impl Fn(&[Collected]) -> bool) -> Vec<Collected> {
        let trace = TraceParent::of(request).trace();
        for _ in 0..200 {
            let mut spans = self.collector.spans();
            spans.retain(|one| one.span.trace_id == trace);
            if enough(&spans) {
                return spans;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:#?}", self.collector.spans());
    }
}

/// Whether there are so many spans of each of these names: every role exports for itself, and when it likes.
fn are_there(wanted: &[(&str, usize)]) -> impl Fn(&[Collected]) -> bool {
    move |spans| wanted.iter().all(|(name, count)| named(spans, name).len() >= *count)
}

fn named<'a>(spans: &'a [Collected], name: &str) -> Vec<&'a Collected> {
    spans.iter().filter(|one| one.span.name == name).collect()
}

/// The one span of this name that is a child of `parent`, from the service that has to do it, as the kind it has to be.
fn step<'a>(spans: &'a [Collected], parent: &[u8], name: &str, service: &str, kind: SpanKind) -> &'a Span {
    let found: Vec<&Collected> =
        named(spans, name).into_iter().filter(|one| one.span.parent_span_id == parent).collect();
    let [one] = found.as_slice() else { panic!("{name} after {parent:?}: {found:#?} of {spans:#?}") };
    assert_eq!((one.service.as_str(), one.span.kind), (service, kind as i32), "{name}");
    assert!(one.span.links.is_empty(), "{name} is a child, and not linked as well");
    &one.span
}

/// From the edge to where a request is validated, sent on, decided on, and answered.
fn from_request_to_findings<'a>(spans: &'a [Collected], parent: &[u8]) -> &'a Span {
    let process = step(spans, parent, "process requests", "keyturn-validator", SpanKind::Consumer);
    step(spans, &process.span_id, "send findings", "keyturn-validator", SpanKind::Producer)
}

fn from_findings_to_the_end(spans: &[Collected], parent: &[u8]) {
    let process = step(spans, parent, "process findings", "keyturn-rotator", SpanKind::Consumer);
    assert_eq!(attribute(&process.attributes, "outcome").unwrap(), "done");
    assert!(attribute(&process.attributes, "rotation.id").is_some(), "{process:?}");
    let send = step(spans, &process.span_id, "send outcomes", "keyturn-rotator", SpanKind::Producer);
    step(spans, &send.span_id, "process outcomes", "keyturn-notifier", SpanKind::Consumer);
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_one_trace_and_what_is_done_again_is_linked() {
    let mut world = World::start();
    let agent = world.device.agent();
    let rotating = tokio::spawn(async move { agent.once().await.unwrap() });
    let letter = loop {
        let letters = world.deployment.ok(&["--output", "json", "dead-letters", "list", "--each"]);
        let letters: Vec<Value> = serde_json::from_str(&letters).unwrap();
        if let Some(letter) = letters.into_iter().next() {
            break letter;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let request: RequestId = letter["request_id"].as_str().unwrap().parse().unwrap();
    let dead = [("send requests", 1), ("send findings", 1), ("process requests", 1), ("process findings", 3)];
    let spans = world.trace(request, are_there(&dead)).await;
    let id = letter["id"].to_string();
    let shown = world.deployment.ok(&["dead-letters", "show", &id]);
    let trace = hex(&TraceParent::of(request).trace());
    assert!(shown.contains(&format!("trace    {trace}")) && letter["trace_id"] == *trace, "{shown}");

    // The first delivery of each hop is a child of the hop before it; the repeated ones are linked to it.
    let post = step(&spans, &[], "POST message", "keyturn-ingress", SpanKind::Server);
    let sent = step(&spans, &post.span_id, "send requests", "keyturn-ingress", SpanKind::Producer);
    assert_eq!(sent.span_id, TraceParent::of(request).span());
    let findings = from_request_to_findings(&spans, &sent.span_id);
    let first = step(&spans, &findings.span_id, "process findings", "keyturn-rotator", SpanKind::Consumer);
    assert_eq!(first.status.as_ref().unwrap().code, 2, "{first:?}");
    for repeated in named(&spans, "process findings").iter().filter(|one| one.span.parent_span_id.is_empty())
    {
        let [link] = repeated.span.links.as_slice() else { panic!("{repeated:?}") };
        assert_eq!((&link.trace_id, &link.span_id), (&findings.trace_id, &findings.span_id));
        assert_ne!(attribute(&repeated.span.attributes, "attempt").unwrap(), "1");
    }
    assert!(named(&spans, "send outcomes").is_empty(), "nothing was sent on");

    // It is mended, and replayed: no child of what died, linked to it, and the trace goes on to the device's poll.
    fs::create_dir(world.deployment.path("later")).unwrap();
    world.deployment.ok(&["dead-letters", "replay", &id, "--reason", "the folder is there"]);
    assert!(rotating.await.unwrap().is_success());
    let ended = [
        ("GET /v1/requests/{ticket}", 1),
        ("process requests", 2),
        ("send findings", 2),
        ("process findings", 4),
        ("send outcomes", 1),
        ("process outcomes", 1),
    ];
    let spans = world.trace(request, are_there(&ended)).await;
    let again: Vec<&Collected> = named(&spans, "process requests");
    let [replayed] = again.iter().filter(|one| one.span.parent_span_id.is_empty()).collect::<Vec<_>>()[..]
    else {
        panic!("{again:#?}")
    };
    let [link] = replayed.span.links.as_slice() else { panic!("{replayed:?}") };
    assert_eq!(link.span_id, findings.span_id, "linked to the message that died");
    let onward =
        step(&spans, &replayed.span.span_id, "send findings", "keyturn-validator", SpanKind::Producer);
    from_findings_to_the_end(&spans, &onward.span_id);
    step(&spans, &post.span_id, "GET /v1/requests/{ticket}", "keyturn-ingress", SpanKind::Server);

    the_report_is_a_trace_of_its_own(&world, request).await;
    world.roles.iter_mut().for_each(Role::end);
    nothing_tells_more_than_it_may(&world);
}

/// The device's report goes through the same hops without an accident: six spans, and one for each poll.
async fn the_report_is_a_trace_of_its_own(world: &World, request: RequestId) {
    let mut requests: Vec<RequestId> = Vec::new();
    let all = world.collector.spans();
    for one in named(&all, "POST message") {
        requests.push(attribute(&one.span.attributes, "request.id").unwrap().parse().unwrap());
    }
    requests.retain(|one| *one != request);
    let [report] = requests[..] else { panic!("one request and one report: {requests:?}") };
    let ended = [
        "POST message",
        "send requests",
        "process requests",
        "send findings",
        "process findings",
        "send outcomes",
        "process outcomes",
    ];
    let spans = world.trace(report, are_there(&ended.map(|name| (name, 1)))).await;
    let post = step(&spans, &[], "POST message", "keyturn-ingress", SpanKind::Server);
    let sent = step(&spans, &post.span_id, "send requests", "keyturn-ingress", SpanKind::Producer);
    let findings = from_request_to_findings(&spans, &sent.span_id);
    from_findings_to_the_end(&spans, &findings.span_id);
    // Each hop begins no earlier than the one that sent to it.
    let hops = ["POST message", "process requests", "process findings", "process outcomes"];
    let began = hops.map(|name| named(&spans, name)[0].span.start_time_unix_nano);
    assert!(began.is_sorted(), "{began:?}");
}

/// Leases of batches are traces of their own with links, and no span has anything but what is allowed in logs.
fn nothing_tells_more_than_it_may(world: &World) {
    let spans = world.collector.spans();
    let leases: Vec<&Collected> = spans.iter().filter(|one| one.span.name.starts_with("lease ")).collect();
    assert!(leases.len() >= 6, "{leases:#?}");
    for lease in leases {
        assert!(lease.span.parent_span_id.is_empty() && !lease.span.links.is_empty(), "{lease:?}");
        assert!(lease.span.links.iter().all(|link| link.trace_id != lease.span.trace_id), "{lease:?}");
    }
    let allowed = [
        "messaging.",
        "request.id",
        "device.id",
        "rotation.id",
        "attempt",
        "outcome",
        "http.request.method",
        "http.route",
    ];
    let (_, password) = world.device.shown(&world.deployment).remove(0);
    for Collected { span, .. } in &spans {
        for attribute in &span.attributes {
            assert!(allowed.iter().any(|name| attribute.key.starts_with(name)), "{attribute:?}");
        }
        let text = format!("{span:?}");
        assert!(!text.contains(&password) && !text.contains("eyJ"), "{text}");
    }
}
