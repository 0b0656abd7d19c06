//! Which path asks for what.
//!
//! A dialect of paths is an enum of its own and a function from the segments of a path to it. A trailing slash means
//! nothing, and a name may be percent-encoded. Does not know methods, or whether what is named exists.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::page::{self, Asset};

/// The most segments of a path that there is.
const SEGMENTS_MAX: usize = 7;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'p> {
    /// The page, at `/`.
    Page,
    /// A file that the page loads.
    Asset(&'static Asset),
    /// What is served.
    Info,
    /// What may be asked, as a page.
    Docs,
    /// What may be asked, as an OpenAPI document.
    OpenApi,
    /// What may be asked, as a Postman collection.
    Postman,
    /// What Azure Machine Learning may ask, as a Swagger document.
    Swagger,
    /// A prediction by the named or the default model.
    Predict(Option<Cow<'p, str>>),
    /// The Open Inference Protocol.
    V2(V2<'p>),
    /// What a platform that hosts models asks for.
    Platform(Platform<'p>),
}

/// What a platform asks for that hosts models: KServe V1, MLflow, SageMaker, Vertex AI or Azure ML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platform<'p> {
    /// Whether the server answers.
    Ping,
    /// The server's version.
    Version,
    /// The models' names.
    Models,
    /// Whether a model answers.
    Model(Cow<'p, str>),
    /// Predictions for instances, by the named model.
    Predict(Cow<'p, str>),
    /// Why a prediction is what it is.
    Explain(Cow<'p, str>),
    /// Predictions for instances, by the default model.
    Instances,
    /// Predictions for a data frame or a table, by the default model.
    Invocations,
}

/// What a path of the Open Inference Protocol and its extensions asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2<'p> {
    /// Whether the server lives.
    Live,
    /// Whether it answers.
    Ready,
    /// What the server is.
    Server,
    /// The models' names.
    Models,
    /// A model's tensors.
    Model(Named<'p>),
    /// Whether a model answers.
    ModelReady(Named<'p>),
    /// A prediction.
    Infer(Named<'p>),
    /// A model's configuration.
    Config(Named<'p>),
    /// What has been counted of a model, or of all.
    Stats(Option<Named<'p>>),
    /// Every version of every model.
    Index,
    /// To load a model.
    Load(Cow<'p, str>),
    /// To unload a model.
    Unload(Cow<'p, str>),
    /// How requests are traced.
    Trace(Option<Named<'p>>),
    /// What is logged.
    Logging,
    /// Which memory client and server share.
    SharedMemoryStatus,
    /// To share memory, or not to share it any more.
    SharedMemory,
}

/// A model that a path names, and one of its versions where the path names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<'p> {
    /// The model's name.
    pub model: Cow<'p, str>,
    /// The version.
    pub version: Option<Cow<'p, str>>,
}

/// What `path` asks for; nothing where there is no such path.
pub fn route(path: &str) -> Option<Route<'_>> {
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for segment in path.strip_prefix('/')?.trim_end_matches('/').split('/') {
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    match &segments[..count] {
        [""] => Some(Route::Page),
        ["info"] => Some(Route::Info),
        ["docs"] => Some(Route::Docs),
        ["openapi.json"] => Some(Route::OpenApi),
        ["postman.json"] => Some(Route::Postman),
        ["swagger.json"] => Some(Route::Swagger),
        ["predict"] => Some(Route::Predict(None)),
        ["models", model, "predict"] => Some(Route::Predict(Some(decoded(model)))),
        ["ping" | "health"] => Some(Route::Platform(Platform::Ping)),
        ["version"] => Some(Route::Platform(Platform::Version)),
        ["invocations" | "score"] => Some(Route::Platform(Platform::Invocations)),
        ["v1", "models"] => Some(Route::Platform(Platform::Models)),
        ["v1", "models", model] => Some(Route::Platform(match model.rsplit_once(':') {
            None => Platform::Model(decoded(model)),
            Some((model, "predict")) => Platform::Predict(decoded(model)),
            Some((model, "explain")) => Platform::Explain(decoded(model)),
            Some(_) => return None,
        })),
        ["v2"] => Some(Route::V2(V2::Server)),
        ["v2", rest @ ..] => v2(rest).map(Route::V2),
        [file] => page::asset(file).map(Route::Asset),
        _ => None,
    }
}

fn v2<'p>(segments: &[&'p str]) -> Option<V2<'p>> {
    Some(match segments {
        ["health", "live"] => V2::Live,
        ["health", "ready"] => V2::Ready,
        ["models"] => V2::Models,
        ["models", "stats"] => V2::Stats(None),
        ["models", model, "versions", version, rest @ ..] => {
            let named = Named { model: decoded(model), version: Some(decoded(version)) };
            return v2_model(named, rest);
        }
        ["models", model, rest @ ..] => return v2_model(Named { model: decoded(model), version: None }, rest),
        ["repository", "index"] => V2::Index,
        ["repository", "models", model, "load"] => V2::Load(decoded(model)),
        ["repository", "models", model, "unload"] => V2::Unload(decoded(model)),
        ["trace", "setting"] => V2::Trace(None),
        ["logging"] => V2::Logging,
        ["systemsharedmemory" | "cudasharedmemory", .., "status"] => V2::SharedMemoryStatus,
        ["systemsharedmemory" | "cudasharedmemory", .., "unregister"] => V2::SharedMemory,
        ["systemsharedmemory" | "cudasharedmemory", "region", _, "register"] => V2::SharedMemory,
        _ => return None,
    })
}

fn v2_model<'p>(named: Named<'p>, rest: &[&'p str]) -> Option<V2<'p>> {
    Some(match rest {
        [] => V2::Model(named),
        ["ready"] => V2::ModelReady(named),
        ["infer"] => V2::Infer(named),
        ["config"] => V2::Config(named),
        ["stats"] => V2::Stats(Some(named)),
        ["trace", "setting"] => V2::Trace(Some(named)),
        _ => return None,
    })
}

/// A segment as text. What is not UTF-8 names nothing that there is.
fn decoded(segment: &str) -> Cow<'_, str> {
    // Most names have nothing to decode, and are UTF-8 as it is.
    if !segment.contains('%') {
        return segment.into();
    }
    percent_decode_str(segment).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_encoded_and_a_slash_may_follow() {
        let predict = |name: &'static str| Some(Route::Predict(Some(name.into())));
        assert_eq!(route("/models/pred-main/predict"), predict("pred-main"));
        assert_eq!(route("/models/pred%2Dmain/predict/"), predict("pred-main"));
        assert_eq!(route("/models/a%2Fb/predict"), predict("a/b"));
        assert_eq!(route("/models/%ff/predict"), predict("\u{fffd}"));
        assert_eq!((route("/predict/"), route("/")), (Some(Route::Predict(None)), Some(Route::Page)));
        assert!(matches!(route("/page.css"), Some(Route::Asset(_))));
    }

    #[test]
    fn the_open_inference_protocol_names_models_and_versions() {
        let named = |version: Option<&'static str>| Named { model: "iris".into(), version: version.map(Into::into) };
        for (path, expected) in [
            ("/v2", V2::Server),
            ("/v2/", V2::Server),
            ("/v2/health/ready", V2::Ready),
            ("/v2/models/iris", V2::Model(named(None))),
            ("/v2/models/iris/versions/1.0.0", V2::Model(named(Some("1.0.0")))),
            ("/v2/models/ir%69s/infer", V2::Infer(named(None))),
            ("/v2/models/iris/versions/1%2E0.0/infer/", V2::Infer(named(Some("1.0.0")))),
            ("/v2/models/stats", V2::Stats(None)),
            ("/v2/models/iris/versions/1.0.0/stats", V2::Stats(Some(named(Some("1.0.0"))))),
            ("/v2/repository/models/iris/load", V2::Load("iris".into())),
            ("/v2/systemsharedmemory/region/x/register", V2::SharedMemory),
            ("/v2/cudasharedmemory/region/x/unregister", V2::SharedMemory),
            ("/v2/cudasharedmemory/unregister", V2::SharedMemory),
            ("/v2/cudasharedmemory/region/x/status", V2::SharedMemoryStatus),
            ("/v2/models/iris/trace/setting", V2::Trace(Some(named(None)))),
        ] {
            assert_eq!(route(path), Some(Route::V2(expected)), "{path}");
        }
        assert_eq!((route("/v2/models/iris/infer/x"), route("/v2/nothing")), (None, None));
    }

    #[test]
    fn a_verb_follows_the_name_after_a_colon() {
        let platform = |route| Some(Route::Platform(route));
        assert_eq!(route("/v1/models/iris"), platform(Platform::Model("iris".into())));
        assert_eq!(route("/v1/models/iris:predict"), platform(Platform::Predict("iris".into())));
        assert_eq!(route("/v1/models/a%3Ab:predict/"), platform(Platform::Predict("a:b".into())));
        assert_eq!(route("/v1/models/iris:explain"), platform(Platform::Explain("iris".into())));
        assert_eq!((route("/v1/models/iris:load"), route("/invocations")), (None, platform(Platform::Invocations)));
    }

    #[test]
    fn what_is_no_path_is_none() {
        for path in ["", "*", "predict", "//predict", "/models", "/models/iris", "/nothing", "/a/b/c/d/e/f/g/h/i"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
