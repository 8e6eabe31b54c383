//! One rotation is one trace through four processes, hop after hop; what is done again is linked. A request dies, is
//! replayed twice, and comes to its end in the same trace, and so does the report on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use keyturn_domain::ids::RequestId;
use keyturn_schemas::envelope::TraceParent;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
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

    /// The one dead letter, as soon as there is one.
    async fn letter(&self) -> Value {
        loop {
            let letters = self.deployment.ok(&["--output", "json", "dead-letters", "list", "--each"]);
            let letters: Vec<Value> = serde_json::from_str(&letters).unwrap();
            if let Some(letter) = letters.into_iter().next() {
                return letter;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
    let one = child(spans, parent, name, service, kind);
    assert!(one.links.is_empty(), "{name} is a child, and not linked as well");
    one
}

/// The same of a step that answers a device, whose own trace it is linked to.
fn step_linked<'a>(spans: &'a [Collected], parent: &[u8], name: &str, service: &str) -> &'a Span {
    let one = child(spans, parent, name, service, SpanKind::Server);
    assert!(!one.links.is_empty(), "{name} knows the device's trace");
    one
}

fn child<'a>(spans: &'a [Collected], parent: &[u8], name: &str, service: &str, kind: SpanKind) -> &'a Span {
    let found: Vec<&Collected> =
        named(spans, name).into_iter().filter(|one| one.span.parent_span_id == parent).collect();
    let [one] = found.as_slice() else { panic!("{name} after {parent:?}: {found:#?} of {spans:#?}") };
    assert_eq!((one.service.as_str(), one.span.kind), (service, kind as i32), "{name}");
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
    let letter = world.letter().await;
    let request: RequestId = letter["request_id"].as_str().unwrap().parse().unwrap();
    let dead = [("send requests", 1), ("send findings", 1), ("process requests", 1), ("process findings", 3)];
    let spans = world.trace(request, are_there(&dead)).await;
    let id = letter["id"].to_string();
    let shown = world.deployment.ok(&["dead-letters", "show", &id]);
    let trace = hex(&TraceParent::of(request).trace());
    assert!(shown.contains(&format!("trace    {trace}")) && letter["trace_id"] == *trace, "{shown}");

    // The first delivery of each hop is a child of the hop before it; the repeated ones are linked to it.
    let post = step_linked(&spans, &[], "POST message", "keyturn-ingress");
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

    // Replayed by its number before anything is mended, it dies again; mended, it is replayed by what it is, and the
    // trace goes on to the device's poll.
    world.deployment.ok(&["dead-letters", "replay", &id, "--reason", "is it mended?"]);
    let again = world.letter().await["id"].to_string();
    fs::create_dir(world.deployment.path("later")).unwrap();
    let query = ["dead-letters", "replay", "--where", "queue:findings", "--reason", "the folder is there"];
    world.deployment.ok(&query);
    assert!(rotating.await.unwrap().is_success());
    let ended = [
        ("replay requests", 2),
        ("process requests", 3),
        ("send findings", 3),
        ("process findings", 7),
        ("send outcomes", 1),
        ("process outcomes", 1),
        ("GET /v1/requests/{ticket}", 1),
    ];
    let spans = world.trace(request, are_there(&ended)).await;
    let died = is_linked_to_its_replay(&spans, &id, &findings.span_id);
    let onward = is_linked_to_its_replay(&spans, &again, &died);
    from_findings_to_the_end(&spans, &onward);
    let poll = step_linked(&spans, &post.span_id, "GET /v1/requests/{ticket}", "keyturn-ingress");
    let device = only_link(&poll.links).trace_id.clone();
    assert_eq!(only_link(&post.links).trace_id, device, "the device has one trace of its own");
    assert_ne!(device, post.trace_id, "and it is not ours");

    the_report_is_in_the_same_trace(&world, post).await;
    world.roles.iter_mut().for_each(Role::end);
    nothing_tells_more_than_it_may(&world);
}

/// The replay of this letter is a step of its own, linked to what died; the message is processed in a step that is linked
/// to both and a child of none. Returns what it was sent on in.
fn is_linked_to_its_replay(spans: &[Collected], letter: &str, died: &[u8]) -> Vec<u8> {
    let replays = named(spans, "replay requests");
    let of_letter =
        |one: &&&Collected| attribute(&one.span.attributes, "dead_letter.id").as_deref() == Some(letter);
    let replay = replays.iter().find(of_letter).unwrap_or_else(|| panic!("{letter}: {replays:#?}"));
    assert_eq!((replay.service.as_str(), replay.span.kind), ("keyturn", SpanKind::Producer as i32));
    assert!(replay.span.parent_span_id.is_empty(), "{replay:?}");
    assert_eq!(only_link(&replay.span.links).span_id, died, "linked to the message that died");
    let processed = named(spans, "process requests");
    let linked =
        |one: &&&Collected| one.span.links.first().is_some_and(|link| link.span_id == replay.span.span_id);
    let process = processed.iter().find(linked).unwrap_or_else(|| panic!("{letter}: {processed:#?}"));
    assert!(process.span.parent_span_id.is_empty(), "{process:?}");
    let [_, second] = process.span.links.as_slice() else { panic!("{process:?}") };
    assert_eq!(second.span_id, died);
    step(spans, &process.span.span_id, "send findings", "keyturn-validator", SpanKind::Producer)
        .span_id
        .clone()
}

/// The device's report goes through the same hops without an accident, in the trace of its request. The edge has it as a
/// step without a parent, with links to the device's own trace and to the step that took the request.
async fn the_report_is_in_the_same_trace(world: &World, request: &Span) {
    let ended = [
        ("POST message", 2),
        ("send requests", 2),
        ("process requests", 4),
        ("send findings", 4),
        ("process findings", 8),
        ("send outcomes", 2),
        ("process outcomes", 2),
        ("GET /v1/requests/{ticket}", 2),
    ];
    let first: RequestId = attribute(&request.attributes, "request.id").unwrap().parse().unwrap();
    let mut spans = world.trace(first, are_there(&ended)).await;
    let message = |one: &Collected| {
        let attributes = &one.span.attributes;
        attribute(attributes, "request.id").or_else(|| attribute(attributes, "messaging.message.id")).unwrap()
    };
    spans.retain(|one| message(one) != first.to_string());
    let post = step_linked(&spans, &[], "POST message", "keyturn-ingress");
    let [device, follows] = post.links.as_slice() else { panic!("{post:?}") };
    assert_eq!(device.trace_id, only_link(&request.links).trace_id, "one trace of the device as well");
    assert_eq!((&follows.trace_id, &follows.span_id), (&request.trace_id, &request.span_id));
    let report = attribute(&post.attributes, "request.id").unwrap();
    assert_ne!(report, first.to_string());
    let sent = step(&spans, &post.span_id, "send requests", "keyturn-ingress", SpanKind::Producer);
    let findings = from_request_to_findings(&spans, &sent.span_id);
    from_findings_to_the_end(&spans, &findings.span_id);
    let poll = step_linked(&spans, &post.span_id, "GET /v1/requests/{ticket}", "keyturn-ingress");
    assert_eq!(attribute(&poll.attributes, "request.id").unwrap(), report);
    // Each hop begins no earlier than the one that sent to it.
    let hops = ["POST message", "process requests", "process findings", "process outcomes"];
    let began = hops.map(|name| named(&spans, name)[0].span.start_time_unix_nano);
    assert!(began.is_sorted(), "{began:?}");
    // Nothing of the rotation is anywhere else: every message that was taken is in this one trace.
    for one in named(&world.collector.spans(), "POST message") {
        assert_eq!(one.span.trace_id, request.trace_id);
    }
}

fn only_link(links: &[Link]) -> &Link {
    let [link] = links else { panic!("{links:?}") };
    link
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
        "dead_letter.id",
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
