//! The queues between stages as AsyncAPI 3.0.

use serde_json::{Map, Value, json};

use crate::schemas::components;
use crate::{golden, openapi};

/// A queue, who writes and reads it, and the component that describes its messages.
const QUEUES: [(&str, &str, &str, &str, &str); 4] = [
    (
        "requests",
        "ingress",
        "validator",
        "StampedEnvelope",
        "Messages of devices with the stamp of their receipt.",
    ),
    (
        "findings",
        "validator",
        "rotator",
        "FoundEnvelope",
        "Messages, trusted and rejected, with what was found out about their sender.",
    ),
    (
        "outcomes",
        "rotator",
        "notifier",
        "OutcomeEnvelope",
        "Signed results to publish, and the one unsigned refusal.",
    ),
    ("alarms", "rotator", "notifier", "AlarmRaisedEnvelope", "Alarms on their way to webhooks."),
];

#[test]
fn the_queues_on_disk_are_these() {
    golden::compare(&golden::folder("asyncapi.json"), &queues());
}

fn queues() -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for (queue, writer, reader, component, summary) in QUEUES {
        channels.insert(queue.to_owned(), json!({
            "address": queue,
            "description": format!("{summary} At-least-once, in no particular order. What cannot be handled goes to the \
                dead letters of {queue}."),
            "messages": {component: {"$ref": format!("#/components/messages/{component}")}},
        }));
        let message = json!([{"$ref": format!("#/channels/{queue}/messages/{component}")}]);
        let channel = json!({"$ref": format!("#/channels/{queue}")});
        operations.insert(
            format!("{writer}Sends{}", title(queue)),
            json!({"action": "send", "channel": channel, "messages": message}),
        );
        operations.insert(
            format!("{reader}Receives{}", title(queue)),
            json!({"action": "receive", "channel": channel, "messages": message}),
        );
        messages.insert(
            component.to_owned(),
            json!({
                "name": component,
                "summary": summary,
                "contentType": "application/cloudevents+json",
                "payload": {"$ref": format!("#/components/schemas/{component}")},
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Keyturn queues",
            "version": "1.0.0",
            "description": "CloudEvents 1.0 in JSON. A consumer verifies what it needs for itself; id, subject, time and \
                traceparent are for people and are trusted by nobody.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": components(&["request-envelope", "finding-envelope", "outcome-envelope", "alarm-envelope"]),
        },
    })
}

fn title(queue: &str) -> String {
    let (first, rest) = queue.split_at(1);
    first.to_uppercase() + rest
}

#[test]
fn every_reference_leads_somewhere() {
    let queues = queues();
    let mut references = Vec::new();
    openapi::collect(&queues, &mut references);
    for reference in references {
        assert!(queues.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}
