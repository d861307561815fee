use serde_json::json;

use super::*;

fn source(text: &str) -> SourceText {
    SourceText { origin: "spec.payload".into(), text: text.into() }
}

fn read(text: &str) -> Result<Vec<Manifest>, ParseError> {
    parse(&[source(text)])
}

fn error(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

/// What kubectl 1.3x sends for each of these scalars.
#[test]
fn scalars_read_as_kubectl_reads_them() {
    let table = [
        ("0644", json!(420)),
        ("0o644", json!(420)),
        ("0x1F", json!(31)),
        ("089", json!(89)),
        ("1_000", json!(1000)),
        ("1e3", json!(1000)),
        ("1.0", json!(1)),
        ("1.5", json!(1.5)),
        ("-7", json!(-7)),
        ("yes", json!(true)),
        ("on", json!(true)),
        ("y", json!(true)),
        ("True", json!(true)),
        ("no", json!(false)),
        ("off", json!(false)),
        ("n", json!(false)),
        ("~", json!(null)),
        ("null", json!(null)),
        ("", json!(null)),
        ("'0644'", json!("0644")),
        ("\"yes\"", json!("yes")),
        ("1.2.3", json!("1.2.3")),
        ("100m", json!("100m")),
        ("9223372036854775807", json!(9_223_372_036_854_775_807_i64)),
        ("2001-01-01", json!("2001-01-01")),
        ("nginx:latest", json!("nginx:latest")),
    ];
    for (text, expected) in table {
        let yaml = format!("apiVersion: v1\nkind: X\nmetadata: {{name: a}}\nv: {text}\n");
        let read = read(&yaml).unwrap();
        assert_eq!(read[0].body["v"], expected, "{text}");
    }
}

#[test]
fn documents_lists_and_json() {
    let yaml = "\
# a comment first
---
apiVersion: v1
kind: ConfigMap
metadata: {name: one, namespace: other, uid: x, creationTimestamp: null}
---
# nothing but a comment
---
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: two}, status: {replicas: 1}}
- apiVersion: v1
  kind: ConfigMapList
  items:
  - metadata: {name: three}
---
--- {apiVersion: v1, kind: ConfigMap, metadata: {name: four}}
";
    let all = read(yaml).unwrap();
    let names: Vec<_> = all.iter().map(|m| (m.api_version(), m.kind.as_str(), m.name.as_str())).collect();
    let expected = [
        ("v1".to_owned(), "ConfigMap", "one"),
        ("apps/v1".to_owned(), "Deployment", "two"),
        ("v1".to_owned(), "ConfigMap", "three"),
        ("v1".to_owned(), "ConfigMap", "four"),
    ];
    assert_eq!(names, expected);
    assert_eq!(all[0].namespace.as_deref(), Some("other"));
    assert_eq!(all[0].body["metadata"], json!({"name": "one", "namespace": "other"}));
    assert!(!all[1].body.contains_key("status"));
    assert_eq!((all[0].place.line, all[1].place.item), (2, Some(1)));

    let stream = "{\"apiVersion\":\"v1\",\"kind\":\"A\",\"metadata\":{\"name\":\"x\"},\"n\":1e3}\n\n{\"apiVersion\":\"v1\",\"kind\":\"B\",\"metadata\":{\"name\":\"y\"}}";
    let all = read(stream).unwrap();
    assert_eq!((all[0].body["n"].clone(), all[1].place.line), (json!(1000), 3));
    assert_eq!(read("{apiVersion: v1, kind: A, metadata: {name: x}}").unwrap().len(), 1, "flow YAML");
}

#[test]
fn anchors_merge_keys_and_a_marker_within_a_text() {
    let yaml = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
base: &base {x: 1}
more:
  <<: *base
  y: 2
data:
  script: |
    ---
    echo
";
    let all = read(yaml).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].body["more"], json!({"x": 1, "y": 2}));
    assert_eq!(all[0].body["data"]["script"], "---\necho\n");
}

#[test]
fn syntax_errors_name_document_line_and_column() {
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\nkind: ConfigMap\ndata:\n  a: b: c\n";
    match read(yaml).unwrap_err() {
        ParseError::Syntax { document, line, column, message, .. } => {
            assert_eq!((document, line), (2, 7), "{message}");
            assert!(column > 1 && !message.is_empty() && !message.contains("line"), "{column} {message}");
        }
        other => panic!("{other}"),
    }
    let tabs = error("apiVersion: v1\nkind: A\nmetadata:\n\tname: x\n");
    assert!(tabs.contains("document 1, line 4, column 2"), "{tabs}");
    let twice = error("apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: a}\n");
    assert!(twice.contains("line 3"), "{twice}");
    let open = error("apiVersion: v1\nkind: \"A\nmetadata: {name: a}\n");
    assert!(open.starts_with("spec.payload, document 1, line"), "{open}");
}

#[test]
fn what_is_missing_is_named() {
    assert!(error("").contains("the payload is empty"));
    assert!(error("---\n# nothing\n---\n").contains("the payload is empty"));
    assert!(error("kind: A\nmetadata: {name: a}").contains("A \"a\" has no apiVersion"));
    assert!(error("apiVersion: v1\nmetadata: {name: a}").contains("object \"a\" has no kind"));
    assert!(error("apiVersion: v1\nkind: A").contains("the A has no metadata.name"));
    assert!(error("apiVersion: v1\nkind: A\nmetadata: {name: 12}").contains("quote a number"));
    assert!(error("apiVersion: v1\nkind: Job\nmetadata: {generateName: a-}").contains("generateName"));
    assert!(error("just text").contains("found a text"));
    assert!(error("- a\n- b").contains("found a list"));
    assert!(error("apiVersion: v1\nkind: A\nmetadata: {name: a, labels: [x]}").contains("metadata.labels"));
    assert!(error("apiVersion: v1\nkind: List\nitems:\n- a").contains("item 1 of its list"));
}

#[test]
fn bombs_are_refused() {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        yaml.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(matches!(read(&yaml), Err(ParseError::Syntax { .. })));
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(matches!(read(&deep), Err(ParseError::Syntax { .. })));
    let many = "---\n{apiVersion: v1, kind: A, metadata: {name: a}}\n".repeat(MAX_OBJECTS + 1);
    assert_eq!(read(&many), Err(ParseError::TooMany));
}
