//! `POST /services/{name}/endpoints/{address}/drain`, `…/enable`, `…/maintenance` and `…/weight`.
//!
//! A body is JSON and may be left out: `{"why": "…"}`, and for the weight `{"weight": 3}`, or `null` for the configured
//! one.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::backend::{EndpointOrder, EndpointOutcome};
use super::{Shared, reply};
use crate::control::orders::Change;
use crate::limits::{ENDPOINT_WEIGHT_MAX, ENDPOINT_WHY_CHARS_MAX};
use crate::upstream::health::Administration;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default)]
    why: String,
    /// None: not said.
    #[serde(default, deserialize_with = "said")]
    weight: Option<Value>,
}

/// `null` is said too.
fn said<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(source).map(Some)
}

pub(super) async fn order(
    State(admin): Shared,
    path: Result<Path<(String, String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Ok(Path((service, address, word))) = path else {
        return reply::error(StatusCode::BAD_REQUEST, "Invalid service or address");
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return reply::error(rejection.status(), "Request body refused"),
    };
    let (change, why) = match parse(&word, &body) {
        Ok(Some(said)) => said,
        Ok(None) => return reply::error(StatusCode::NOT_FOUND, "Not found"),
        Err(sentence) => return reply::error(StatusCode::BAD_REQUEST, &sentence),
    };
    match admin.backend.order_endpoint(EndpointOrder { service, address, change, why }).await {
        EndpointOutcome::Done(value) => reply::json(StatusCode::OK, &value),
        EndpointOutcome::NoService => reply::error(StatusCode::NOT_FOUND, "No such service"),
        EndpointOutcome::NoEndpoint => reply::error(StatusCode::NOT_FOUND, "No such endpoint"),
        EndpointOutcome::Replaced => {
            reply::error(StatusCode::SERVICE_UNAVAILABLE, "This process was replaced: ask again on a new connection")
        }
        EndpointOutcome::Full => reply::error(StatusCode::CONFLICT, "Too many endpoints are changed already"),
    }
}

/// None for a word that means nothing.
fn parse(word: &str, body: &[u8]) -> Result<Option<(Change, String)>, String> {
    let administration = match word {
        "drain" => Some(Administration::Draining),
        "enable" => Some(Administration::Enabled),
        "maintenance" => Some(Administration::Maintenance),
        "weight" => None,
        _ => return Ok(None),
    };
    let said = match body.trim_ascii() {
        [] => Said::default(),
        text @ [b'{', ..] => serde_json::from_slice::<Said>(text).map_err(|error| format!("Invalid body: {error}"))?,
        _ => return Err("Invalid body: a JSON object is expected".to_owned()),
    };
    let change = match (administration, said.weight) {
        (Some(administration), None) => Change::Administer(administration),
        (Some(_), Some(_)) => return Err(format!("Invalid body: `{word}` takes no weight")),
        (None, Some(Value::Null)) => Change::Weigh(None),
        (None, Some(weight)) => {
            let number = weight.as_u64().and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|number| *number <= ENDPOINT_WEIGHT_MAX);
            let number = number.ok_or_else(|| {
                format!("Invalid body: `weight` is a whole number from 0 to {ENDPOINT_WEIGHT_MAX}, or null")
            })?;
            Change::Weigh(Some(number))
        }
        (None, None) => return Err("Invalid body: `weight` is missing, as in {\"weight\": 3}".to_owned()),
    };
    let why = said.why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ENDPOINT_WHY_CHARS_MAX).collect();
    Ok(Some((change, why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_say_what_they_mean_or_are_refused() {
        let change = |word: &str, body: &str| parse(word, body.as_bytes()).map(|said| said.map(|said| said.0));
        assert_eq!(change("drain", ""), Ok(Some(Change::Administer(Administration::Draining))));
        assert_eq!(change("enable", " {} "), Ok(Some(Change::Administer(Administration::Enabled))));
        assert_eq!(
            change("maintenance", "{\"why\": \"x\"}"),
            Ok(Some(Change::Administer(Administration::Maintenance)))
        );
        assert_eq!(change("weight", "{\"weight\": 0}"), Ok(Some(Change::Weigh(Some(0)))));
        assert_eq!(change("weight", "{\"weight\": null}"), Ok(Some(Change::Weigh(None))));
        assert_eq!(change("explode", ""), Ok(None));
        for (word, body) in [
            ("weight", ""),
            ("weight", "{}"),
            ("weight", "{\"weight\": 65536}"),
            ("weight", "{\"weight\": -1}"),
            ("weight", "{\"weight\": 1.5}"),
            ("weight", "{\"weight\": \"3\"}"),
            ("drain", "{\"weight\": 3}"),
            ("drain", "{\"wy\": \"\"}"),
            ("drain", "[]"),
            ("drain", "why"),
        ] {
            assert!(change(word, body).is_err_and(|sentence| sentence.starts_with("Invalid body")), "{word} {body}");
        }
    }

    #[test]
    fn words_of_an_operator_are_one_line_of_bounded_length() {
        let body = format!("{{\"why\": \"a\\r\\n{}\"}}", "é".repeat(1_000));
        let why = parse("drain", body.as_bytes()).expect("good").expect("known").1;
        assert!(why.starts_with("a  é") && why.chars().count() == ENDPOINT_WHY_CHARS_MAX);
    }
}
