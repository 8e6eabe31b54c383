//! JSON Schemas, one file for each kind of document.

use std::collections::BTreeMap;

use keyturn_schemas::schema::documents;
use serde_json::{Map, Value, json};

use crate::golden;

#[test]
fn the_schemas_on_disk_are_those_of_the_types() {
    let documents = documents();
    let files = documents.iter().map(|document| (document.name, document.schema.clone()));
    golden::compare_folder(&golden::folder("json"), ".schema.json", files);
}

#[test]
fn every_schema_is_valid_itself() {
    for document in documents() {
        assert!(jsonschema::meta::is_valid(&document.schema), "{}", document.name);
    }
}

/// These kinds of documents and all that they refer to, as `components.schemas` of an interface description.
pub(crate) fn components(names: &[&str]) -> Value {
    let known: BTreeMap<_, _> =
        documents().into_iter().map(|document| (document.name, document.schema)).collect();
    let mut components = Map::new();
    for name in names {
        let mut schema = rebase(known[name].clone());
        let members = schema.as_object_mut().unwrap();
        let inner = members.remove("$defs").unwrap_or_else(|| json!({}));
        members.retain(|member, _| !member.starts_with('$'));
        let title = members["title"].as_str().unwrap().to_owned();
        for (name, schema) in inner.as_object().unwrap().clone().into_iter().chain([(title, schema)]) {
            let same = components.get(&name).is_none_or(|known| *known == schema);
            assert!(same, "{name} means two things");
            components.insert(name, schema);
        }
    }
    Value::Object(components)
}

/// References into a document's own definitions become references to shared components.
fn rebase(schema: Value) -> Value {
    match schema {
        Value::String(text) => Value::String(text.replace("#/$defs/", "#/components/schemas/")),
        Value::Array(items) => items.into_iter().map(rebase).collect(),
        Value::Object(members) => members.into_iter().map(|(name, member)| (name, rebase(member))).collect(),
        other => other,
    }
}
