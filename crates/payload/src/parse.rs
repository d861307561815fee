//! Text to objects, as kubectl reads it: YAML documents or JSON values, lists taken apart, scalars of YAML 1.1.

use serde_json::{Map, Value};

use crate::object::{Manifest, Place};

/// The most objects in one payload: their inventory must fit into the MultiCluster's status.
pub const MAX_OBJECTS: usize = flagship_k8s_api::MultiClusterStatus::MAX_INVENTORY;
/// Nodes of one document: a payload of 1 MiB has at most about half as many scalars as bytes.
const MAX_NODES: usize = 500_000;
/// Anchors and aliases of one document: people use a handful, alias bombs need many.
const MAX_ALIASES: usize = 1_000;
/// What all aliases of one document may expand to.
const MAX_ALIAS_EVENTS: usize = 50_000;
/// The longest message of the YAML reader that is passed on.
const MAX_MESSAGE_CHARS: usize = 300;

/// A part of a payload before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// Where it comes from, as in `spec.payload`.
    pub origin: String,
    /// Its text.
    pub text: String,
}

/// Why a payload was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not YAML or JSON.
    #[error("{origin}, document {document}, line {line}, column {column}: {message}")]
    Syntax {
        /// Which source.
        origin: String,
        /// Which document in it, from 1.
        document: usize,
        /// Line in the source, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A document that is no object.
    #[error(
        "{place}: expected a Kubernetes object (a mapping with apiVersion, kind and metadata), found {found}"
    )]
    NotAnObject {
        /// Where.
        place: Place,
        /// What stands there.
        found: &'static str,
    },
    /// A field that every object needs.
    #[error("{place}: {object} has no {field}: {expected}")]
    Field {
        /// Where.
        place: Place,
        /// What is known of the object.
        object: String,
        /// Which field.
        field: &'static str,
        /// What is expected.
        expected: &'static str,
    },
    /// generateName instead of a name.
    #[error(
        "{place}: {kind} uses metadata.generateName: every apply would make another object; give it a metadata.name"
    )]
    GenerateName {
        /// Where.
        place: Place,
        /// The object's kind.
        kind: String,
    },
    /// No object at all.
    #[error(
        "the payload is empty: put at least one Kubernetes object into spec.payload, or name a Secret or ConfigMap key in spec.payloadFrom"
    )]
    Empty,
    /// More objects than a status can list.
    #[error(
        "the payload has more than {MAX_OBJECTS} objects: split it over several MultiClusters, or wrap it in a chart or operator"
    )]
    TooMany,
}

/// Reads all objects of all sources, in order.
pub fn parse(sources: &[SourceText]) -> Result<Vec<Manifest>, ParseError> {
    let mut manifests = Vec::new();
    for source in sources {
        for (place, value) in documents(source)? {
            collect(place, value, None, &mut manifests)?;
        }
    }
    match manifests.is_empty() {
        true => Err(ParseError::Empty),
        false => Ok(manifests),
    }
}

fn documents(source: &SourceText) -> Result<Vec<(Place, Value)>, ParseError> {
    // kubectl's rule: what begins with a brace is tried as JSON first; flow YAML begins so, too.
    if source.text.trim_start().starts_with('{')
        && let Some(values) = json_documents(source)
    {
        return Ok(values);
    }
    yaml_documents(source)
}

fn json_documents(source: &SourceText) -> Option<Vec<(Place, Value)>> {
    let mut stream = serde_json::Deserializer::from_str(&source.text).into_iter::<Value>();
    let mut found = Vec::new();
    loop {
        let begin = stream.byte_offset();
        let Some(value) = stream.next() else { return Some(found) };
        let blank = source.text[begin..].len() - source.text[begin..].trim_start().len();
        let line = 1 + source.text[..begin + blank].matches('\n').count();
        let place = Place { origin: source.origin.clone(), document: found.len() + 1, line, item: None };
        found.push((place, integral(value.ok()?)));
    }
}

fn yaml_documents(source: &SourceText) -> Result<Vec<(Place, Value)>, ParseError> {
    let mut found = Vec::new();
    for (at, (line, text)) in split(&source.text).into_iter().enumerate() {
        let place = Place { origin: source.origin.clone(), document: at + 1, line, item: None };
        if text.lines().all(|line| is_blank(line) || line == "---") {
            continue;
        }
        let value: Value = serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            // A reader that stopped at the end of the text gives no place: then it is the last line.
            let (row, column) = error.location().map_or((text.lines().count(), 1), |location| {
                let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                (number(location.line()), number(location.column()))
            });
            let line = line.saturating_add(row).saturating_sub(1);
            let message = first_line(&error.without_snippet().to_string());
            ParseError::Syntax { origin: source.origin.clone(), document: at + 1, line, column, message }
        })?;
        if !value.is_null() {
            found.push((place, integral(value)));
        }
    }
    Ok(found)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The documents with the line each begins on. A marker line belongs to the document it opens, which may begin on it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut begin_line, mut offset) = (0, 1, 0);
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        let head_is_blank = text[begin..offset].lines().all(is_blank);
        if marker && !head_is_blank {
            parts.push((begin_line, &text[begin..offset]));
        }
        if marker {
            (begin, begin_line) = (offset, at + 1);
        }
        offset += line.len();
    }
    parts.push((begin_line, &text[begin..]));
    parts
}

fn options() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_nodes: MAX_NODES,
        max_events: 2 * MAX_NODES,
        max_aliases: MAX_ALIASES,
        max_anchors: MAX_ALIASES,
        max_documents: 2,
    };
    let mut alias_limits = serde_saphyr::options::AliasLimits::default();
    alias_limits.max_total_replayed_events = MAX_ALIAS_EVENTS;
    serde_saphyr::options! {
        budget: budget,
        alias_limits: alias_limits,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// One line without the place, which the error carries by itself.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    line.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Floats without a fraction become integers, as they do on kubectl's way through JSON: `1e3` is 1000.
fn integral(value: Value) -> Value {
    /// Beyond 2^53 a float does not name one integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64() {
            #[allow(clippy::cast_possible_truncation, reason = "without fraction and below 2^53")]
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(integral).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, integral(value))).collect(),
        other => other,
    }
}

/// Takes lists apart; `list` is the list an item stands in.
fn collect(
    place: Place,
    value: Value,
    list: Option<(&str, &str)>,
    manifests: &mut Vec<Manifest>,
) -> Result<(), ParseError> {
    let Value::Object(mut body) = value else {
        return Err(ParseError::NotAnObject { place, found: what(&value) });
    };
    // The items of a typed list, such as a ConfigMapList, need not repeat what they are.
    if let Some((api_version, list_kind)) = list
        && let Some(kind) = list_kind.strip_suffix("List").filter(|kind| !kind.is_empty())
    {
        body.entry("apiVersion").or_insert_with(|| api_version.into());
        body.entry("kind").or_insert_with(|| kind.into());
    }
    let kind = text(&body, "kind").unwrap_or_default();
    let api_version = text(&body, "apiVersion").unwrap_or_default();
    if kind.ends_with("List") && body.get("items").is_some_and(Value::is_array) {
        let Some(Value::Array(items)) = body.remove("items") else { return Ok(()) };
        for (at, item) in items.into_iter().enumerate() {
            let place = Place { item: Some(at + 1), ..place.clone() };
            collect(place, item, Some((&api_version, &kind)), manifests)?;
        }
        return Ok(());
    }
    if manifests.len() >= MAX_OBJECTS {
        return Err(ParseError::TooMany);
    }
    manifests.push(manifest(place, body, &api_version, kind)?);
    Ok(())
}

fn manifest(
    place: Place,
    mut body: Map<String, Value>,
    api_version: &str,
    kind: String,
) -> Result<Manifest, ParseError> {
    let metadata = body.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let name = text(&metadata, "name").unwrap_or_default();
    let named = |kind: &str| match (kind, name.as_str()) {
        ("", "") => "the object".to_owned(),
        ("", name) => format!("object {name:?}"),
        (kind, "") => format!("the {kind}"),
        (kind, name) => format!("{kind} {name:?}"),
    };
    let field =
        |field, expected| ParseError::Field { place: place.clone(), object: named(&kind), field, expected };
    if api_version.is_empty() {
        return Err(field("apiVersion", "write it as a text, for example `apiVersion: apps/v1`"));
    }
    if kind.is_empty() {
        return Err(field("kind", "write it as a text, for example `kind: Deployment`"));
    }
    if name.is_empty() && metadata.contains_key("generateName") {
        return Err(ParseError::GenerateName { place, kind });
    }
    if name.is_empty() {
        return Err(field("metadata.name", "write it as a text (quote a number)"));
    }
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => None,
        Some(Value::String(namespace)) => Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        Some(_) => return Err(field("usable metadata.namespace", "write it as a text (quote a number)")),
    };
    for map in ["labels", "annotations"] {
        if metadata.get(map).is_some_and(|value| !value.is_null() && !value.is_object()) {
            return Err(field("usable metadata.labels or metadata.annotations", "write a mapping of texts"));
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (group, version) = (group.to_owned(), version.to_owned());
    strip_server_fields(&mut body);
    Ok(Manifest { group, version, kind, namespace, name, body, place })
}

/// What only a server may set and what exported objects carry along: applying it would be refused.
fn strip_server_fields(body: &mut Map<String, Value>) {
    body.remove("status");
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let fields =
            ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];
        fields.into_iter().for_each(|field| {
            metadata.remove(field);
        });
    }
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
