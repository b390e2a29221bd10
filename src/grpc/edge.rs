//! What every call passes before it reaches a service: its deadline, and the status
//! of a call that was refused before any rule saw it.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::error::Error;

/// How much sooner than its caller's deadline a call ends. tonic, outside of this
/// layer, keeps the same deadline but answers CANCELLED, so this one must come first.
const LEAD: Duration = Duration::from_millis(1);

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
        if !is_grpc(request.headers()) {
            return Box::pin(ready(Ok(unsupported_media_type())));
        }
        let timeout = match grpc_timeout(request.headers()) {
            Some(asked) => asked.saturating_sub(LEAD).min(self.request_timeout),
            None => self.request_timeout,
        };
        if timeout.is_zero() {
            return Box::pin(ready(Ok(Status::from(Error::DeadlineExceeded).into_http())));
        }
        let deadline = Instant::now() + timeout;
        let mut alarm = Box::pin(sleep_until(deadline));
        let mut response = Box::pin(self.inner.call(request));
        Box::pin(poll_fn(move |context| {
            if let Poll::Ready(response) = response.as_mut().poll(context) {
                return Poll::Ready(response.map(restated));
            }
            // Timers that are due are not woken in their order, but a clock is in time.
            if Instant::now() >= deadline || alarm.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(Status::from(Error::DeadlineExceeded).into_http()));
            }
            Poll::Pending
        }))
    }
}

/// Whether the content is gRPC's, in protobuf; gRPC-Web's is another
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>).
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

fn unsupported_media_type() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
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

/// prost says `failed to decode Protobuf message: `, then each field on the way as
/// `Message.field: ` from the innermost outwards, then what is wrong.
fn malformed(message: &str) -> Error {
    let Some(path) = message.strip_prefix("failed to decode Protobuf message: ") else {
        return Error::Malformed {
            field: String::new(),
            description: message.to_owned(),
        };
    };
    let mut outermost = "";
    let mut description = path;
    while let Some((step, rest)) = description.split_once(": ") {
        let Some((_, field)) = step.split_once('.').filter(|_| !step.contains(' ')) else {
            break;
        };
        outermost = field;
        description = rest;
    }
    Error::Malformed {
        field: outermost.to_owned(),
        description: description.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_where_decoding_stopped_is_the_requests_own() {
        for (message, named, described) in [
            (
                "failed to decode Protobuf message: Struct.fields: AddRequest.metadata: recursion limit reached",
                "metadata",
                "recursion limit reached",
            ),
            (
                "failed to decode Protobuf message: buffer underflow",
                "",
                "buffer underflow",
            ),
            (
                "protocol error: received message with invalid compression flag: 7 (…)",
                "",
                "protocol error: received message with invalid compression flag: 7 (…)",
            ),
        ] {
            let Error::Malformed { field, description } = malformed(message) else {
                panic!("{message} is malformed");
            };
            assert_eq!((field.as_str(), description.as_str()), (named, described));
        }
    }

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
