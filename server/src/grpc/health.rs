//! The standard health service: of the whole server under the empty name, and of each service by its name.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use crate::api::Api;

/// How often a watched status is looked at.
const GLANCE: Duration = Duration::from_millis(250);
/// The services that have a status; the empty name is the whole server.
const SERVICES: [&str; 3] = ["", "inference.GRPCInferenceService", "grpc.health.v1.Health"];

/// The service.
#[derive(Clone)]
pub(super) struct Health {
    api: Arc<Api>,
}

impl Health {
    pub(super) fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    fn status(&self, service: &str) -> ServingStatus {
        match SERVICES.contains(&service) {
            false => ServingStatus::ServiceUnknown,
            true if self.api.is_ready() => ServingStatus::Serving,
            true => ServingStatus::NotServing,
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.status(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (health, service) = (self.clone(), request.into_inner().service);
        let told = Arc::new(AtomicI32::new(-1));
        let changes = tokio_stream::iter(std::iter::repeat(())).then(move |()| {
            let (health, service, told) = (health.clone(), service.clone(), Arc::clone(&told));
            async move {
                loop {
                    let status = i32::from(health.status(&service));
                    if told.swap(status, Ordering::Relaxed) != status {
                        return Ok(HealthCheckResponse { status });
                    }
                    if health.api.is_draining() {
                        // A watch would keep its connection, and with it the server, to the end of the drain.
                        return Err(Status::unavailable("the server is stopping"));
                    }
                    tokio::time::sleep(GLANCE).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
