//! The JSON that shows a request.

use serde_json::{Map, Value, json};

use super::paths;
use crate::http::message::RequestHead;

/// The request as one line of JSON. Fields stand in the order of arrival; the values of a repeated name are a list
/// at the place of its first one. Bytes that are not UTF-8 are replaced.
pub(super) fn show(service: &str, head: &RequestHead) -> String {
    let target = head.fields.text(head.target);
    let shown = json!({
        "service": service,
        "method": text(head.fields.text(head.method_text)),
        "path": text(paths::path_of(target)),
        "query": text(paths::query_of(target)),
        "headers": fields(head),
    });
    format!("{shown}\n")
}

fn fields(head: &RequestHead) -> Value {
    let mut shown: Map<String, Value> = Map::new();
    for (name, value) in head.fields.iter() {
        let name = text(name);
        let value = Value::String(text(value));
        let known = shown.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        match known.map(|(_, values)| values) {
            None => drop(shown.insert(name, value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(shown)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_are_escaped() {
        let mut head = RequestHead::default();
        head.target = head.fields.keep(b"/a\"b?c=d");
        head.method_text = head.fields.keep(b"GET");
        for (name, value) in [("B", "1"), ("A", "say \"hi\"\\"), ("b", "2"), ("B", "3")] {
            head.fields.append(name.as_bytes(), value.as_bytes()).expect("legal");
        }
        let wanted = r#"{"service":"s","method":"GET","path":"/a\"b","query":"c=d","#;
        let wanted = format!("{wanted}{}\n", r#""headers":{"B":["1","2","3"],"A":"say \"hi\"\\"}}"#);
        assert_eq!(show("s", &head), wanted);
    }
}
