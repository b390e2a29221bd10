//! Every way in which a call can fail, with its gRPC code and its details: the
//! one table.
//!
//! An [`Error`] has a public half, which the caller gets, and sometimes a private
//! one (its source), which goes to the log once and never to the caller.

use std::{collections::HashMap, error::Error as Source, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::pb::error::v1::Reason;

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "usher";

/// When a caller that was turned away for load, or because the database does not
/// answer, should try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Violations are listed as long as their text fits into this many bytes, so that
/// the details (base64 in a trailer) stay below the 8 KiB of headers that the
/// smallest of the usual clients takes.
const VIOLATIONS_BYTES: usize = 4096;

/// The result of a call, unless another error is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A private cause, for the log.
pub type Cause = Box<dyn Source + Send + Sync>;

/// What an error is about. The string is its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A user, by `user_id`.
    User(String),
    /// A session, by `session_id`.
    Session(String),
    /// A message, by `message_id`.
    Message(String),
}

impl Resource {
    /// `google.rpc.ResourceInfo.resource_type`: the full name of the message.
    fn type_name(&self) -> &'static str {
        match self {
            Self::User(_) => "usher.user.v1.User",
            Self::Session(_) => "usher.session.v1.Session",
            Self::Message(_) => "usher.session.v1.Message",
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Session(_) => "session",
            Self::Message(_) => "message",
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::User(id) | Self::Session(id) | Self::Message(id) => id,
        }
    }
}

/// Why a call failed. Texts hold no personal data: ids travel in the details.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One or more fields are missing, too long or malformed.
    #[error("invalid request: {}", summary(.0))]
    Invalid(Vec<FieldViolation>),

    /// The bytes of the request are not the message that the method takes.
    #[error("malformed message: {description}")]
    Malformed {
        /// The field where decoding stopped, or empty.
        field: String,
        /// What is wrong with it.
        description: String,
    },

    /// There is no such thing in the caller's project.
    #[error("{} not found", .0.noun())]
    NotFound(Resource),

    /// The id is taken.
    #[error("{} already exists", .0.noun())]
    AlreadyExists(Resource),

    /// The `request_id` came before with other content.
    #[error("request_id was used before with other content")]
    RequestIdReused(Resource),

    /// The etag is stale.
    #[error("etag does not match; read the resource again and retry")]
    EtagMismatch,

    /// The session has ended; the string is its id.
    #[error("session has ended")]
    SessionEnded(String),

    /// No key, or an unknown one.
    #[error("no valid key")]
    Unauthenticated,

    /// The caller's role is too small.
    #[error("the caller's role does not allow this call")]
    PermissionDenied,

    /// More calls are waiting than the server takes.
    #[error("too many calls are waiting")]
    Overloaded,

    /// The request is larger than the server takes.
    #[error("message is too large")]
    MessageTooLarge,

    /// The deadline passed before the call was done.
    #[error("deadline exceeded")]
    DeadlineExceeded,

    /// The database does not answer.
    #[error("database unavailable")]
    Unavailable(#[source] Cause),

    /// A defect.
    #[error("internal error")]
    Internal(#[source] Cause),
}

impl Error {
    /// One violation.
    pub fn invalid(field: &str, flaw: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, flaw)])
    }

    /// The table's first half: what happened, as a gRPC code and a reason.
    pub fn kind(&self) -> (Code, Option<Reason>) {
        let (code, reason) = match self {
            Self::Invalid(_) => (Code::InvalidArgument, Reason::InvalidFields),
            Self::Malformed { .. } => (Code::InvalidArgument, Reason::MalformedMessage),
            Self::NotFound(Resource::User(_)) => (Code::NotFound, Reason::UserNotFound),
            Self::NotFound(Resource::Session(_)) => (Code::NotFound, Reason::SessionNotFound),
            Self::NotFound(Resource::Message(_)) => (Code::NotFound, Reason::MessageNotFound),
            Self::AlreadyExists(Resource::User(_)) => {
                (Code::AlreadyExists, Reason::UserAlreadyExists)
            }
            // Messages get their ids from usher, so none is ever taken.
            Self::AlreadyExists(Resource::Session(_) | Resource::Message(_)) => {
                (Code::AlreadyExists, Reason::SessionAlreadyExists)
            }
            Self::RequestIdReused(_) => (Code::AlreadyExists, Reason::RequestIdReused),
            Self::EtagMismatch => (Code::Aborted, Reason::EtagMismatch),
            Self::SessionEnded(_) => (Code::FailedPrecondition, Reason::SessionEnded),
            Self::Unauthenticated => (Code::Unauthenticated, Reason::Unauthenticated),
            Self::PermissionDenied => (Code::PermissionDenied, Reason::PermissionDenied),
            Self::Overloaded => (Code::ResourceExhausted, Reason::Overloaded),
            Self::MessageTooLarge => (Code::ResourceExhausted, Reason::MessageTooLarge),
            Self::DeadlineExceeded => return (Code::DeadlineExceeded, None),
            Self::Unavailable(_) => (Code::Unavailable, Reason::StoreUnavailable),
            Self::Internal(_) => (Code::Internal, Reason::Internal),
        };
        (code, Some(reason))
    }

    /// The table's second half: the standard details (<https://google.aip.dev/193>).
    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        if let (_, Some(reason)) = self.kind() {
            let name = reason.as_str_name();
            details.set_error_info(
                name.strip_prefix("REASON_").unwrap_or(name),
                DOMAIN,
                HashMap::new(),
            );
        }
        match self {
            Self::Invalid(violations) => {
                details.set_bad_request(fitting(violations));
            }
            Self::Malformed { field, description } => {
                details.add_bad_request_violation(field, description);
            }
            Self::NotFound(resource)
            | Self::AlreadyExists(resource)
            | Self::RequestIdReused(resource) => {
                details.set_resource_info(
                    resource.type_name(),
                    resource.id(),
                    "",
                    self.to_string(),
                );
            }
            Self::SessionEnded(session_id) => {
                details.add_precondition_failure_violation(
                    "SESSION_ACTIVE",
                    session_id,
                    self.to_string(),
                );
            }
            Self::Overloaded | Self::Unavailable(_) => {
                details.set_retry_info(Some(RETRY_DELAY));
            }
            Self::EtagMismatch
            | Self::Unauthenticated
            | Self::PermissionDenied
            | Self::MessageTooLarge
            | Self::DeadlineExceeded
            | Self::Internal(_) => {}
        }
        details
    }
}

impl From<Error> for Status {
    /// Shapes the error for the wire, and logs its private half.
    fn from(error: Error) -> Self {
        match &error {
            Error::Internal(cause) => tracing::error!(cause = &**cause, "a call failed"),
            Error::Unavailable(cause) => {
                tracing::warn!(cause = &**cause, "the database does not answer");
            }
            _ => {}
        }
        let (code, reason) = error.kind();
        match reason {
            Some(_) => Status::with_error_details(code, error.to_string(), error.details()),
            None => Status::new(code, error.to_string()),
        }
    }
}

/// The first violation, for people who read only the text.
fn summary(violations: &[FieldViolation]) -> String {
    match violations {
        [] => String::new(),
        [only] => format!("{} {}", only.field, only.description),
        [first, rest @ ..] => format!(
            "{} {} (and {} more)",
            first.field,
            first.description,
            rest.len()
        ),
    }
}

/// All violations, or the first ones and a last one that counts the rest.
fn fitting(violations: &[FieldViolation]) -> Vec<FieldViolation> {
    let mut bytes = 0;
    let fits = violations
        .iter()
        .take_while(|violation| {
            bytes += violation.field.len() + violation.description.len() + 8;
            bytes <= VIOLATIONS_BYTES
        })
        .count();
    let mut listed = violations[..fits].to_vec();
    if fits < violations.len() {
        let rest = violations.len() - fits;
        listed.push(FieldViolation::new(
            "",
            format!("and {rest} more violations"),
        ));
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the table that no caller can reach yet, and those whose text must
    /// not say more than the table.
    #[test]
    fn an_error_says_what_its_row_says_and_no_more() {
        let secret = || "a secret of the database".into();
        for (error, code, reason, retry) in [
            (
                Error::Unauthenticated,
                Code::Unauthenticated,
                "UNAUTHENTICATED",
                false,
            ),
            (
                Error::PermissionDenied,
                Code::PermissionDenied,
                "PERMISSION_DENIED",
                false,
            ),
            (
                Error::Overloaded,
                Code::ResourceExhausted,
                "OVERLOADED",
                true,
            ),
            (
                Error::MessageTooLarge,
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
                false,
            ),
            (
                Error::Unavailable(secret()),
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                true,
            ),
            (Error::Internal(secret()), Code::Internal, "INTERNAL", false),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, reason);
            assert_eq!(details.error_info().unwrap().domain, DOMAIN);
            assert_eq!(details.retry_info().is_some(), retry);
            assert!(!format!("{status:?}").contains("secret"));
        }
        let status = Status::from(Error::DeadlineExceeded);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.details().is_empty());
    }

    #[test]
    fn texts_hold_no_ids() {
        for error in [
            Error::NotFound(Resource::User("jane".to_owned())),
            Error::AlreadyExists(Resource::Session("jane".to_owned())),
            Error::RequestIdReused(Resource::User("jane".to_owned())),
            Error::SessionEnded("jane".to_owned()),
        ] {
            assert!(!error.to_string().contains("jane"));
            assert!(!Status::from(error).message().contains("jane"));
        }
    }
}
