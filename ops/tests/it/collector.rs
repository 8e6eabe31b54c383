//! A collector of OTLP over HTTP for tests: real HTTP, the official message types, and no tolerance. What a real one
//! would refuse makes the test fail.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A span, and the service that exported it.
#[derive(Clone, Debug)]
pub(crate) struct Collected {
    pub(crate) service: String,
    pub(crate) span: Span,
}

/// Takes spans until it is dropped with its process.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    spans: Vec<Collected>,
    wrong: Vec<String>,
}

impl Collector {
    /// Listens. Every export has to carry this header.
    pub(crate) fn start(header: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let kept = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream.unwrap(), header, &kept));
            }
        });
        Self { endpoint, taken }
    }

    /// All spans so far. Panics if anything was wrong with any.
    pub(crate) fn spans(&self) -> Vec<Collected> {
        let taken = self.taken.lock().unwrap();
        assert!(taken.wrong.is_empty(), "{:?}", taken.wrong);
        taken.spans.clone()
    }
}

/// Answers requests of one connection until it is closed.
fn serve(stream: TcpStream, header: &str, taken: &Mutex<Taken>) {
    let mut answering = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut head: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_lowercase()),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let mut taken = taken.lock().unwrap();
        match check(&head, header, &body) {
            Ok(spans) => taken.spans.extend(spans),
            Err(problem) => taken.wrong.push(problem),
        }
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        write!(
            answering,
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        )
        .unwrap();
        answering.write_all(&answer).unwrap();
    }
}

fn check(head: &[String], header: &str, body: &[u8]) -> Result<Vec<Collected>, String> {
    for wanted in ["post /v1/traces http/1.1", "content-type: application/x-protobuf", header] {
        if !head.iter().any(|line| line == wanted) {
            return Err(format!("{wanted} is missing: {head:?}"));
        }
    }
    let export = ExportTraceServiceRequest::decode(body).map_err(|error| error.to_string())?;
    let (mut collected, mut ids) = (Vec::new(), BTreeSet::new());
    for resource in export.resource_spans {
        let attributes = resource.resource.ok_or("no resource")?.attributes;
        let service = attribute(&attributes, "service.name").ok_or("no service.name")?;
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let sound = span.trace_id.len() == 16
                && span.span_id.len() == 8
                && span.trace_id.iter().chain(&span.span_id).any(|byte| *byte != 0)
                && (span.parent_span_id.is_empty() || span.parent_span_id.len() == 8)
                && span.start_time_unix_nano <= span.end_time_unix_nano
                && !span.name.is_empty()
                && ids.insert(span.span_id.clone());
            if !sound {
                return Err(format!("{span:?}"));
            }
            collected.push(Collected { service: service.clone(), span });
        }
    }
    if collected.is_empty() { Err("an export of nothing".to_owned()) } else { Ok(collected) }
}

/// The text of an attribute.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
