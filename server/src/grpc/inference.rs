//! The Open Inference Protocol's service: messages to what the api answers, and its errors to statuses.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::codegen::tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::Call;
use super::patience::Patience;
use crate::api::oip::{PLATFORM, data_type};
use crate::api::{Api, ApiError};
use crate::catalog::{LoadedVersion, Picked};
use crate::monitor::BatchStatistics;
use crate::reload::Action;
use crate::wire::oip::TensorMetadata;
use crate::wire::oip::grpc::proto::grpc_inference_service_server::GrpcInferenceService;
use crate::wire::oip::grpc::proto::model_metadata_response as metadata;
use crate::wire::oip::grpc::proto::repository_index_response::ModelIndex;
use crate::wire::oip::grpc::proto::*;
use crate::wire::oip::grpc::{decode, encode};

/// How long a stream may be without a request.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// The service.
pub(super) struct Inference {
    api: Arc<Api>,
}

impl Inference {
    pub(super) fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    fn pick(&self, model: &str, version: &str) -> Result<Picked, Status> {
        let version = Some(version).filter(|version| !version.is_empty());
        self.api.catalog().pick(Some(model), version).map_err(|e| ApiError::from(e).into())
    }
}

async fn infer(api: &Api, message: ModelInferRequest, call: &Call) -> Result<ModelInferResponse, Status> {
    let (model, version) = (message.model_name.clone(), message.model_version.clone());
    let version = Some(version.as_str()).filter(|version| !version.is_empty());
    let rows_max = api.limits().rows_max;
    let decode = |version: &LoadedVersion| decode(version.signature.metadata(), message, rows_max);
    let answered = api.infer_decoded(&model, version, call.deadline, &call.request_id, decode).await;
    let (picked, id, outputs) = answered.map_err(Status::from)?;
    Ok(encode(&picked.version.spec.name, &picked.version.spec.version, id, &outputs))
}

fn call<T>(request: &Request<T>) -> Call {
    request.extensions().get().cloned().expect("every call is given its deadline")
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.api.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        match self.pick(&name, &version) {
            Ok(_) => Ok(Response::new(ModelReadyResponse { ready: true })),
            Err(status) if status.code() == tonic::Code::Unavailable => {
                Ok(Response::new(ModelReadyResponse { ready: false }))
            }
            Err(status) => Err(status),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "mainstay".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: self.api.extensions().into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let picked = self.pick(&name, &version)?;
        let tensors = |tensors: &[TensorMetadata]| {
            let tensor = |tensor: &TensorMetadata| metadata::TensorMetadata {
                name: tensor.name.clone(),
                datatype: tensor.datatype.name().to_owned(),
                shape: tensor.shape.clone(),
            };
            tensors.iter().map(tensor).collect()
        };
        let described = picked.version.signature.metadata();
        Ok(Response::new(ModelMetadataResponse {
            versions: self.api.versions(&picked.version.spec.name),
            platform: PLATFORM.to_owned(),
            inputs: tensors(&described.inputs),
            outputs: tensors(&described.outputs),
            properties: Default::default(),
            name,
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let call = call(&request);
        infer(&self.api, request.into_inner(), &call).await.map(Response::new)
    }

    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (call, api) = (call(&request), Arc::clone(&self.api));
        let stopping = Arc::clone(&self.api);
        let requests = Patience::new(request.into_inner(), IDLE_MAX, move || stopping.is_draining());
        let answers = requests.then(move |message| {
            let (api, call) = (Arc::clone(&api), Call { deadline: Instant::now() + call.timeout, ..call.clone() });
            async move {
                let message = message?;
                let id = message.id.clone();
                // One request's fault is that request's answer; the stream goes on.
                let (error_message, answer) = match infer(&api, message, &call).await {
                    Ok(answer) => (String::new(), answer),
                    Err(status) => {
                        (status.message().to_owned(), ModelInferResponse { id, ..ModelInferResponse::default() })
                    }
                };
                Ok(ModelStreamInferResponse { error_message, infer_response: Some(answer) })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let picked = self.pick(&name, &version)?;
        let described = picked.version.signature.metadata();
        let kind = |tensor: &TensorMetadata| {
            DataType::from_str_name(&data_type(tensor)).expect("the protocol has every datatype").into()
        };
        let dims = |tensor: &TensorMetadata| tensor.shape.get(1..).unwrap_or_default().to_vec();
        let input = |tensor: &TensorMetadata| ModelInput {
            name: tensor.name.clone(),
            data_type: kind(tensor),
            dims: dims(tensor),
        };
        let output = |tensor: &TensorMetadata| ModelOutput {
            name: tensor.name.clone(),
            data_type: kind(tensor),
            dims: dims(tensor),
        };
        let config = ModelConfig {
            platform: PLATFORM.to_owned(),
            max_batch_size: i32::try_from(self.api.limits().rows_max).unwrap_or(i32::MAX),
            input: described.inputs.iter().map(input).collect(),
            output: described.outputs.iter().map(output).collect(),
            backend: "onnxruntime".to_owned(),
            name,
        };
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let [name, version] = [&name, &version].map(|text| Some(text.as_str()).filter(|text| !text.is_empty()));
        let counted = crate::api::oip::counted(&self.api.catalog(), name, version).map_err(ApiError::from)?;
        let statistics = |version: Arc<LoadedVersion>| {
            let counts = version.metrics.statistics();
            let duration = |(count, ns): (u64, u64)| Some(StatisticDuration { count, ns });
            let batch = |batch: &BatchStatistics| InferBatchStatistics {
                batch_size: batch.rows,
                compute_input: duration(batch.input),
                compute_infer: duration(batch.run),
                compute_output: duration(batch.output),
            };
            ModelStatistics {
                name: version.spec.name.to_string(),
                version: version.spec.version.to_string(),
                last_inference: counts.last_unix_ms,
                inference_count: counts.rows,
                execution_count: counts.runs,
                inference_stats: Some(InferStatistics {
                    success: duration(counts.success),
                    fail: duration(counts.fail),
                    queue: duration(counts.queue),
                    compute_input: duration(counts.input),
                    compute_infer: duration(counts.run),
                    compute_output: duration(counts.output),
                    cache_hit: duration((0, 0)),
                    cache_miss: duration((0, 0)),
                }),
                batch_stats: counts.batches.iter().map(batch).collect(),
            }
        };
        Ok(Response::new(ModelStatisticsResponse { model_stats: counted.into_iter().map(statistics).collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.api.index(request.into_inner().ready).into_iter().map(|entry| ModelIndex {
            name: entry.name,
            version: entry.version,
            state: entry.state.to_owned(),
            reason: entry.reason.into_owned(),
        });
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let call = call(&request);
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        let overrides = parameters.keys().map(String::as_str);
        self.api.order(Action::Load, &model_name, overrides, call.deadline).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let call = call(&request);
        let RepositoryModelUnloadRequest { model_name, parameters, .. } = request.into_inner();
        let overrides = parameters.keys().map(String::as_str);
        self.api.order(Action::Unload, &model_name, overrides, call.deadline).await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}
