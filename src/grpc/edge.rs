//! What every call passes before it reaches a service: its deadline, and the status
//! of a call that was refused before any rule saw it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::time::sleep;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::error::Error;

/// Puts an [`Edge`] before a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeLayer {
    request_timeout: Duration,
}

impl EdgeLayer {
    pub(super) fn new(request_timeout: Duration) -> Self {
        Self { request_timeout }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            request_timeout: self.request_timeout,
        }
    }
}

/// The first thing that a call meets.
#[derive(Clone, Debug)]
pub struct Edge<S> {
    inner: S,
    request_timeout: Duration,
}

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = grpc_timeout(request.headers()).unwrap_or(Duration::MAX);
        // tonic keeps the same deadline outside of this layer, but answers CANCELLED.
        // This clock starts before tonic's, so it rings first.
        let deadline = sleep(asked.min(self.request_timeout));
        let response = self.inner.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                response = response => response.map(restated),
                () = deadline => Ok(Status::from(Error::DeadlineExceeded).into_http()),
            }
        })
    }
}

/// `Timeout` of the gRPC protocol: at most eight digits and a unit. One that is
/// malformed counts as none.
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>)
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Gives tonic's own refusals the codes and details of the error table.
///
/// A status without details was made by tonic, for every [`Error`] with these codes
/// carries some. Its INTERNAL means that the bytes that came were not one message of
/// the method's type; its `OUT_OF_RANGE` that the message is too large.
fn restated(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let error = match status.code() {
        Code::OutOfRange => Error::MessageTooLarge,
        Code::Internal if status.details().is_empty() => malformed(status.message()),
        _ => return response,
    };
    Status::from(error).into_http()
}

/// prost says `failed to decode Protobuf message: AddRequest.metadata: …`, naming
/// fields from the outermost inwards.
fn malformed(message: &str) -> Error {
    let description = message
        .strip_prefix("failed to decode Protobuf message: ")
        .unwrap_or(message);
    let outermost = description.split(": ").next().unwrap_or_default();
    let field = match outermost.split_once('.') {
        Some((_, field)) if !field.contains(' ') => field,
        _ => "",
    };
    // A path through nested metadata can be long, and its end says what is wrong.
    let cause = description.rsplit(": ").next().unwrap_or(description);
    Error::Malformed {
        field: field.to_owned(),
        description: cause.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(parse("2H"), Some(Duration::from_hours(2)));
        assert_eq!(parse("3M"), Some(Duration::from_mins(3)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("10m"), Some(Duration::from_millis(10)));
        assert_eq!(parse("11u"), Some(Duration::from_micros(11)));
        assert_eq!(parse("12n"), Some(Duration::from_nanos(12)));
        for malformed in ["", "S", "5", "5x", "-5S", "+5S", "5 S", "999999999S", "5SS"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }
}
