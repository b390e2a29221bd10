//! Checked types for the fields of requests, and the list of everything that is
//! wrong with one.

use std::{borrow::Cow, fmt::Display};

use prost::Message;
use sha2::{Digest, Sha256};
use tonic_types::FieldViolation;
use uuid::Uuid;

use crate::error::Error;

/// The longest id, e-mail or name, in bytes.
const TEXT_BYTES: usize = 1024;

/// The longest content of a message, in bytes.
const CONTENT_BYTES: usize = 256 * 1024;

/// What is wrong with a field. It follows the field's name in a sentence, and
/// never repeats what the caller sent.
pub type Flaw = Cow<'static, str>;

/// Collects every violation of a request, so that its caller can mend all of them
/// at once.
#[derive(Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the parsed field, or notes what is wrong with it.
    pub fn check<T>(&mut self, field: impl Display, parsed: Result<T, Flaw>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(flaw) => {
                self.add(field, flaw);
                None
            }
        }
    }

    /// Like [`check`](Self::check), for a field that may be absent.
    pub fn check_optional<T, U>(
        &mut self,
        field: impl Display,
        value: Option<T>,
        parse: impl FnOnce(T) -> Result<U, Flaw>,
    ) -> Option<Option<U>> {
        match value {
            None => Some(None),
            Some(value) => self.check(field, parse(value)).map(Some),
        }
    }

    /// Notes a violation.
    pub fn add(&mut self, field: impl Display, flaw: impl Into<String>) {
        self.0.push(FieldViolation::new(field.to_string(), flaw));
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations.0)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// Takes any non-empty string of at most 1,024 bytes without U+0000,
            /// as it is.
            pub fn parse(value: String) -> Result<Self, Flaw> {
                if value.is_empty() {
                    return Err("is required".into());
                }
                text(value).map(Self)
            }

            /// The id as the caller wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// The caller's id of a user.
    UserId
);
id!(
    /// The caller's id of a session.
    SessionId
);

/// A string of at most 1,024 bytes without U+0000.
pub fn text(value: String) -> Result<String, Flaw> {
    at_most(value, TEXT_BYTES)
}

/// What a message says: at most 256 KiB without U+0000.
pub fn content(value: String) -> Result<String, Flaw> {
    at_most(value, CONTENT_BYTES)
}

fn at_most(value: String, bytes: usize) -> Result<String, Flaw> {
    if value.len() > bytes {
        Err(format!(
            "must be at most {bytes} bytes of UTF-8, not {}",
            value.len()
        )
        .into())
    } else if value.contains('\0') {
        Err("must not contain U+0000".into())
    } else {
        Ok(value)
    }
}

/// A UUID in its hyphenated form (RFC 9562, section 4), in either case.
pub fn uuid(value: &str) -> Result<Uuid, Flaw> {
    if value.is_empty() {
        return Err("is required".into());
    }
    match Uuid::try_parse(value) {
        Ok(uuid) if value.len() == uuid::fmt::Hyphenated::LENGTH => Ok(uuid),
        _ => Err("must be a UUID like 0191e4d4-7c0b-7d6e-8a43-111213141516".into()),
    }
}

/// A call that may be sent again: its `request_id`, and a digest of everything
/// else in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The client's name of the call.
    pub id: Uuid,
    /// SHA-256 of the call's content.
    pub digest: Vec<u8>,
}

impl RequestId {
    /// `rest` is the request without its `request_id`. Its encoding is canonical:
    /// fields come in the order of their numbers and map keys in byte order.
    pub fn parse(request_id: &str, rest: &impl Message) -> Result<Self, Flaw> {
        Ok(Self {
            id: uuid(request_id)?,
            digest: Sha256::digest(rest.encode_to_vec()).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_of_a_uuid_is_taken() {
        let uuid_text = "0191e4d4-7c0b-7d6e-8a43-111213141516";
        assert_eq!(uuid(uuid_text).unwrap().to_string(), uuid_text);
        assert!(uuid(&uuid_text.to_uppercase()).is_ok());
        for other in [
            "",
            "0191e4d47c0b7d6e8a43111213141516",
            "{0191e4d4-7c0b-7d6e-8a43-111213141516}",
            "urn:uuid:0191e4d4-7c0b-7d6e-8a43-111213141516",
            "0191e4d4-7c0b-7d6e-8a43-11121314151g",
        ] {
            assert!(uuid(other).is_err(), "{other}");
        }
    }
}
