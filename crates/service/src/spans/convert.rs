//! Our spans as those of the SDK, which the exporter takes.

use std::time::{Duration, SystemTime};

use keyturn_pipeline::spans::{Kind, Span};
use keyturn_schemas::envelope::TraceParent;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// A span of the SDK.
pub(super) fn span(span: Span) -> SpanData {
    let Span { name, kind, context, parent, links, began, took, attributes, failed } = span;
    let start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(began.0);
    let mut linked = SpanLinks::default();
    linked.links = links.into_iter().map(|link| Link::with_context(place(link))).collect();
    SpanData {
        span_context: place(context),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span())),
        parent_span_is_remote: parent.is_some(),
        span_kind: match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        },
        name: name.into(),
        start_time,
        end_time: start_time + took,
        attributes: attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: linked,
        status: failed.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("keyturn").build(),
    }
}

fn place(context: TraceParent) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from_bytes(context.trace()), SpanId::from_bytes(context.span()));
    SpanContext::new(trace, span, flags, false, TraceState::NONE)
}
