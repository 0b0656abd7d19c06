//! gRPC on the data port: the Open Inference Protocol, the standard health service, and reflection.
//!
//! Every call has a deadline, the client's `grpc-timeout` or the server's if that is sooner; a stream has it for each of
//! its requests, and may idle for a while between them. Does not know sockets, or how a prediction is made.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service as _;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tower::util::BoxCloneSyncService;

use crate::api::Api;
use crate::wire::oip::grpc::proto::DESCRIPTORS;
use crate::wire::oip::grpc::proto::grpc_inference_service_server::GrpcInferenceServiceServer;

mod health;
mod inference;
mod patience;

use self::health::Health;
use self::inference::Inference;

type Reflection = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Answers gRPC calls.
pub struct Grpc {
    timeout: Duration,
    inference: GrpcInferenceServiceServer<Inference>,
    health: HealthServer<Health>,
    /// Each version of the service with its path.
    reflection: [(&'static str, Reflection); 2],
}

/// What a call's parts know of the call.
#[derive(Debug, Clone)]
struct Call {
    deadline: Instant,
    timeout: Duration,
    request_id: String,
}

impl Grpc {
    /// Answers from what `api` answers from, within the same limits.
    pub fn new(api: &Arc<Api>) -> Self {
        let limits = api.limits();
        let inference = GrpcInferenceServiceServer::new(Inference::new(Arc::clone(api)))
            .max_decoding_message_size(limits.body_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip);
        let health = HealthServer::new(Health::new(Arc::clone(api)));
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let valid = "the build has compiled the descriptions";
        let (v1, v1alpha) = (builder().build_v1().expect(valid), builder().build_v1alpha().expect(valid));
        let reflection = [(name(&v1), Reflection::new(v1)), (name(&v1alpha), Reflection::new(v1alpha))];
        Self { timeout: limits.timeout, inference, health, reflection }
    }

    /// Whether `request` is a gRPC call.
    pub fn is_call<B>(request: &Request<B>) -> bool {
        let content_type = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        content_type.is_some_and(|kind| kind.starts_with(b"application/grpc"))
    }

    /// Answers one call. Dropping the future drops the call's work, if it has not begun.
    pub async fn answer(&self, mut request: Request<Incoming>, request_id: &str) -> Response<Body> {
        let asked = request.headers().get("grpc-timeout").map(|text| timeout(text.as_bytes()));
        let timeout = match asked {
            Some(None) => return Status::invalid_argument("grpc-timeout is not a number with a unit").into_http(),
            Some(Some(asked)) => asked.min(self.timeout),
            None => self.timeout,
        };
        let deadline = Instant::now() + timeout;
        request.extensions_mut().insert(Call { deadline, timeout, request_id: request_id.to_owned() });
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let answered = async {
            if service == name(&self.inference) {
                self.inference.clone().call(request).await
            } else if service == name(&self.health) {
                self.health.clone().call(request).await
            } else if let Some((_, reflection)) = self.reflection.iter().find(|(name, _)| *name == service) {
                reflection.clone().call(request).await
            } else {
                Ok(Status::unimplemented("there is no such service; reflection lists those that there are").into_http())
            }
        };
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(response)) => response,
            Err(_) => Status::deadline_exceeded("the call's time was over before it was answered").into_http(),
        }
    }

    /// Answers a call when the server has as many requests as it can answer.
    pub fn overloaded() -> Response<Body> {
        Status::unavailable("the server has as many requests as it can answer; try again in a second").into_http()
    }
}

fn name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

/// The time that a `grpc-timeout` gives: at most eight digits and a unit.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        assert_eq!(timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [&b""[..], b"m", b"5", b"1.5S", b"-1S", b"123456789S", b"5s"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}
