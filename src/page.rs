//! Page sizes and page tokens (<https://google.aip.dev/158>), the same for every
//! list.
//!
//! A token is the key of the last row that was given, and a digest of that key
//! with the query and the project. The digest is not a signature: whoever forges
//! one only chooses where in their own list to go on, for the project is taken
//! from the caller and never from the token.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{auth::ProjectId, error::Error, fields::Violations};

/// The rows of a page whose request names no size.
const DEFAULT_SIZE: u64 = 50;

/// The most rows of a page.
const MAX_SIZE: u64 = 1000;

/// How much of the SHA-256 a token carries, in bytes.
const DIGEST_BYTES: usize = 16;

/// What is wrong with a token that was made elsewhere, or edited.
const FOREIGN_TOKEN: &str = "does not belong to this list and query";

/// The refusal of a token whose digest is right and whose key is not.
pub fn foreign_token() -> Error {
    Error::invalid("page_token", FOREIGN_TOKEN)
}

/// One column of a key.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Part {
    /// A time in microseconds, or a sequence.
    #[prost(int64, tag = "1")]
    Number(i64),
    /// An id or an e-mail.
    #[prost(string, tag = "2")]
    Text(String),
}

/// Where a row stands in an order: the columns that it is ordered by.
pub type Key = Vec<Part>;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Position {
    #[prost(message, repeated, tag = "1")]
    columns: Vec<Column>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Column {
    #[prost(oneof = "Part", tags = "1, 2")]
    part: Option<Part>,
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first row.
    First,
    /// At this many rows from the first, because of a `page_number`.
    Offset(u64),
    /// Behind the row with this key.
    After(Key),
}

/// A page that was asked for.
#[derive(Clone, Debug)]
pub struct Page {
    /// The most rows.
    pub size: u64,
    /// Where it starts.
    pub start: Start,
    /// What its tokens are bound to.
    query: Query,
}

/// What a list's tokens are bound to: the project, the list, and the rest of the
/// request.
#[derive(Clone, Debug)]
struct Query(Sha256);

/// The three fields by which a page is asked for.
pub struct Request {
    /// `page_size`.
    pub size: i32,
    /// `page_number`, or 0 where a list has none.
    pub number: i32,
    /// `page_token`.
    pub token: String,
}

impl Page {
    /// `rest` is the request without the three fields in `request`; `list` names
    /// the RPC.
    pub fn parse(
        violations: &mut Violations,
        project: ProjectId,
        list: &str,
        rest: &impl Message,
        request: &Request,
    ) -> Option<Self> {
        let query = Query::new(project, list, rest);
        let size = size(violations, "page_size", request.size);
        let start = match (request.number, request.token.as_str()) {
            (0, "") => Some(Start::First),
            (0, token) => match query.open(token) {
                Some(key) => Some(Start::After(key)),
                None => {
                    violations.add("page_token", FOREIGN_TOKEN);
                    None
                }
            },
            (number, "") => match u64::try_from(number) {
                Ok(number) => Some(Start::Offset((number - 1) * size.unwrap_or(0))),
                Err(_) => {
                    violations.add("page_number", "must not be negative");
                    None
                }
            },
            (_, _) => {
                violations.add("page_number", "must not be set together with page_token");
                None
            }
        };
        Some(Self {
            size: size?,
            start: start?,
            query,
        })
    }

    /// A page that nobody asked for.
    #[cfg(test)]
    pub fn of(start: Start) -> Self {
        Self {
            size: DEFAULT_SIZE,
            start,
            query: Query(Sha256::new()),
        }
    }

    /// The token of the page that follows the row with this key; empty if none
    /// does.
    pub fn next_token(&self, last: Option<Key>) -> String {
        last.map_or_else(String::new, |key| self.query.seal(key))
    }
}

/// The number of rows in a page, of which there are at most 1,000.
pub fn row_count<T>(rows: &[T]) -> i32 {
    i32::try_from(rows.len()).unwrap_or(i32::MAX)
}

/// A number of rows that was asked for, within its limits.
pub fn size(violations: &mut Violations, field: &str, asked: i32) -> Option<u64> {
    match u64::try_from(asked) {
        Ok(0) => Some(DEFAULT_SIZE),
        Ok(size) => Some(size.min(MAX_SIZE)),
        Err(_) => {
            violations.add(field, "must not be negative");
            None
        }
    }
}

impl Query {
    fn new(project: ProjectId, list: &str, rest: &impl Message) -> Self {
        let mut digest = Sha256::new();
        digest.update(project.get().to_be_bytes());
        for part in [list.as_bytes(), &rest.encode_to_vec()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self(digest)
    }

    fn digest(&self, position: &[u8]) -> Vec<u8> {
        let mut digest = self.0.clone();
        digest.update(position);
        digest.finalize()[..DIGEST_BYTES].to_vec()
    }

    fn seal(&self, key: Key) -> String {
        let columns = key.into_iter().map(|part| Column { part: Some(part) });
        let position = Position {
            columns: columns.collect(),
        }
        .encode_to_vec();
        let mut token = self.digest(&position);
        token.extend(position);
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    fn open(&self, token: &str) -> Option<Key> {
        let token = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (digest, position) = token.split_at_checked(DIGEST_BYTES)?;
        if digest != self.digest(position) {
            return None;
        }
        let position = Position::decode(position).ok()?;
        position
            .columns
            .into_iter()
            .map(|column| column.part)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{Caller, Role},
        pb::user::v1::ListOrderedRequest,
    };

    fn query(project: ProjectId, list: &str, email: &str) -> Query {
        let rest = ListOrderedRequest {
            email: Some(email.to_owned()),
            ..Default::default()
        };
        Query::new(project, list, &rest)
    }

    #[test]
    fn a_token_opens_only_with_its_own_project_list_and_query() {
        let key = vec![Part::Number(-7), Part::Text("ü\n".to_owned())];
        let home = query(ProjectId::DEFAULT, "users", "a");
        let token = home.seal(key.clone());
        assert_eq!(home.open(&token), Some(key));
        let another = Caller::of(2, Role::Reader)
            .project_as(Role::Reader)
            .unwrap();
        for other in [
            query(another, "users", "a"),
            query(ProjectId::DEFAULT, "sessions", "a"),
            query(ProjectId::DEFAULT, "users", "b"),
        ] {
            assert_eq!(other.open(&token), None);
        }
    }

    #[test]
    fn a_token_that_was_edited_anywhere_does_not_open() {
        let home = query(ProjectId::DEFAULT, "users", "a");
        let token = home.seal(vec![Part::Number(1), Part::Text("jane".to_owned())]);
        for at in 0..token.len() {
            for replacement in ["A", "_", "", "AA"] {
                let mut edited = token.clone();
                edited.replace_range(at..=at, replacement);
                if edited != token {
                    assert_eq!(home.open(&edited), None, "{edited}");
                }
            }
        }
    }
}
