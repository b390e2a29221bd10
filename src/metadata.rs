//! Metadata: any JSON object that a caller wants to keep with a user, a session or
//! a message, and the way between its three forms: `google.protobuf.Struct` on
//! the wire, [`serde_json::Value`] in the store, and [`Metadata`] between them.

use prost_types::{ListValue, Struct, Value as Proto, value::Kind};
use serde_json::{Map, Number, Value as Json};

use crate::{error::Error, fields::Flaw};

/// The most levels of objects and lists, the metadata itself being the first. A
/// `Struct` takes three levels of protobuf messages for one of JSON, and prost
/// stops at 100.
const LEVELS: usize = 32;

/// The longest metadata, in bytes of compact JSON.
const BYTES: usize = 64 * 1024;

/// A JSON object within the limits, as every engine keeps it: finite numbers, no
/// U+0000, at most 32 levels and 64 KiB.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata(Map<String, Json>);

/// What an update does to metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Merges a JSON Merge Patch (RFC 7396) into it.
    Merge(Metadata),
    /// Puts this in its place; `None` clears it.
    Replace(Option<Metadata>),
}

impl Metadata {
    /// Takes what a caller sent.
    pub fn parse(object: Struct) -> Result<Self, Flaw> {
        Self::within_size(object_from_proto(object, 1)?)
    }

    fn within_size(object: Map<String, Json>) -> Result<Self, Flaw> {
        // Writing a map of strings and finite numbers to memory cannot fail.
        let bytes = serde_json::to_vec(&object).map_or(usize::MAX, |json| json.len());
        if bytes > BYTES {
            return Err(format!("must be at most {BYTES} bytes as JSON, not {bytes}").into());
        }
        Ok(Self(object))
    }
}

impl Change {
    /// What is stored after the change. A merge of two that are within the limits
    /// can be too large, which is a violation of the field `metadata`.
    pub fn apply(&self, stored: Option<Json>) -> Result<Option<Json>, Error> {
        match self {
            Self::Keep => Ok(stored),
            Self::Replace(new) => Ok(new.clone().map(Json::from)),
            Self::Merge(Metadata(patch)) => {
                let mut merged = match stored {
                    Some(Json::Object(object)) => object,
                    _ => Map::new(),
                };
                merge(&mut merged, patch);
                match Metadata::within_size(merged) {
                    Ok(metadata) => Ok(Some(metadata.into())),
                    Err(flaw) => Err(Error::invalid("metadata", flaw)),
                }
            }
        }
    }
}

impl From<Metadata> for Json {
    fn from(metadata: Metadata) -> Self {
        Json::Object(metadata.0)
    }
}

/// What is stored, for the wire.
pub fn to_proto(stored: Json) -> Option<Struct> {
    match stored {
        Json::Object(object) => Some(object_to_proto(object)),
        _ => None,
    }
}

/// `MergePatch` of RFC 7396, section 2, for a patch that is an object. It nests no
/// deeper than the deeper of its arguments.
fn merge(target: &mut Map<String, Json>, patch: &Map<String, Json>) {
    for (key, value) in patch {
        match value {
            Json::Null => {
                target.remove(key);
            }
            Json::Object(patch) => {
                let mut merged = match target.remove(key) {
                    Some(Json::Object(object)) => object,
                    _ => Map::new(),
                };
                merge(&mut merged, patch);
                target.insert(key.clone(), Json::Object(merged));
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

fn object_from_proto(object: Struct, level: usize) -> Result<Map<String, Json>, Flaw> {
    within_levels(level)?;
    object
        .fields
        .into_iter()
        .map(|(key, value)| Ok((without_nul(key)?, from_proto(value, level)?)))
        .collect()
}

fn from_proto(value: Proto, level: usize) -> Result<Json, Flaw> {
    Ok(match value.kind {
        None => return Err("must not contain a value without a kind".into()),
        Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) => Json::Number(number(value)?),
        Some(Kind::StringValue(value)) => Json::String(without_nul(value)?),
        Some(Kind::StructValue(object)) => Json::Object(object_from_proto(object, level + 1)?),
        Some(Kind::ListValue(list)) => {
            within_levels(level + 1)?;
            let values = list.values.into_iter();
            Json::Array(
                values
                    .map(|value| from_proto(value, level + 1))
                    .collect::<Result<_, _>>()?,
            )
        }
    })
}

fn within_levels(level: usize) -> Result<(), Flaw> {
    if level > LEVELS {
        return Err(format!("must be at most {LEVELS} levels deep").into());
    }
    Ok(())
}

fn without_nul(text: String) -> Result<String, Flaw> {
    if text.contains('\0') {
        return Err("must not contain U+0000".into());
    }
    Ok(text)
}

/// Integers that fit are kept as such, so that JSON shows `42` and not `42.0`, on every
/// engine the same; and negative zero as zero, for PostgreSQL's numeric has none.
fn number(value: f64) -> Result<Number, Flaw> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if value.fract() == 0.0 && (-LIMIT..LIMIT).contains(&value) {
        #[allow(clippy::cast_possible_truncation)] // It is an integer of 64 bits.
        return Ok(Number::from(value as i64));
    }
    if value.fract() == 0.0 && (LIMIT..2.0 * LIMIT).contains(&value) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Likewise.
        return Ok(Number::from(value as u64));
    }
    Number::from_f64(value).ok_or_else(|| "must contain only finite numbers".into())
}

fn object_to_proto(object: Map<String, Json>) -> Struct {
    Struct {
        fields: object
            .into_iter()
            .map(|(key, value)| (key, value_to_proto(value)))
            .collect(),
    }
}

fn value_to_proto(value: Json) -> Proto {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        // Every number that is stored came from a double.
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Object(object) => Kind::StructValue(object_to_proto(object)),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(value_to_proto).collect(),
        }),
    };
    Proto { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A, in which both are objects.
    #[test]
    fn merges_as_the_rfc_shows() {
        for (original, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut merged = original.as_object().unwrap().clone();
            merge(&mut merged, patch.as_object().unwrap());
            assert_eq!(Json::Object(merged), result);
        }
    }

    #[test]
    fn numbers_are_kept_as_every_engine_keeps_them() {
        for (given, kept) in [
            (1.0, "1"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (-42.0, "-42"),
            (1e18, "1000000000000000000"),
            (-9_223_372_036_854_775_808.0, "-9223372036854775808"),
            (9_223_372_036_854_775_808.0, "9223372036854775808"),
            (1e300, "1e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ] {
            assert_eq!(number(given).unwrap().to_string(), kept);
        }
        for refused in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(number(refused).is_err());
        }
    }
}
