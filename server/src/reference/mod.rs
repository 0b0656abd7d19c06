//! What may be asked of the models being served, and what is answered: one account, told in several forms.
//!
//! [`Reference`] lists operations, each with the real names, ranges and categories of a model, with examples that are
//! golden rows, and so known to work. `openapi` and `postman` write it down for tools; the page at `/docs` shows it to
//! people. A form of it is bounded, however many models there are: those beyond the bound have accounts of their own.
//! Knows what routes mean. Does not know how they are answered.

use std::sync::OnceLock;

use bytes::Bytes;
use mainstay_models::spec::{Domain, Feature, Output, OutputKind};
use mainstay_models::{ModelName, ModelSpec, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::api::RequestLimits;
use crate::catalog::{Catalog, CatalogModel, LoadedVersion};

mod openapi;
mod platforms;
mod postman;
mod predict;
mod schema;
mod server;
mod swagger;
mod v2;

/// The most models that one account describes.
const MODELS_MAX: usize = 50;
/// The most bytes of cards' texts in one account; a model that has more than this alone is described alone.
const CARD_BYTES_MAX: usize = 512 << 10;
/// The most golden rows in one example.
const ROWS_SHOWN: usize = 3;

/// The accounts of all models of a catalog, once they have been asked for.
#[derive(Debug, Default)]
pub struct Documents {
    openapi: OnceLock<Bytes>,
}

/// The account of the models of a catalog, or of one of them.
pub struct Reference<'a> {
    /// The models described, by name.
    pub models: Vec<ModelReference<'a>>,
    /// Answering models that are not described here.
    pub left_out: Vec<&'a ModelName>,
    /// What may be asked, by topic.
    pub groups: Vec<Group>,
}

/// What a server answers beside what every server does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offered<'a> {
    /// Whether requests may load and unload models.
    pub may_order: bool,
    /// A further path that says whether it answers.
    pub health_route: Option<&'a str>,
    /// A further path that predicts for instances.
    pub predict_route: Option<&'a str>,
}

/// What an account says of a model.
pub struct ModelReference<'a> {
    /// Its name.
    pub name: &'a ModelName,
    /// Whether bare `/predict` asks it.
    pub is_default: bool,
    /// The version described: the stable one.
    pub version: &'a LoadedVersion,
    /// Further loaded versions that take and give the same.
    pub same: Vec<&'a Version>,
    /// Further loaded versions that do not.
    pub different: Vec<&'a Version>,
    commit: Option<String>,
}

/// Operations on one topic.
pub struct Group {
    /// The topic.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// The operations.
    pub operations: Vec<Operation>,
}

/// A method on a path.
pub struct Operation {
    /// Unique in an account.
    pub id: String,
    /// The method, in upper case.
    pub method: &'static str,
    /// The path.
    pub path: String,
    /// What it does, in a few words.
    pub summary: String,
    /// What else a caller should know.
    pub description: String,
    /// The parameters of its query.
    pub parameters: Vec<Parameter>,
    /// The bodies that it reads: content type and schema; none where it reads none.
    pub bodies: Vec<(&'static str, Value)>,
    /// The answer of status 200; none where that is never given.
    pub answer: Option<Answer>,
    /// The other statuses that it may answer with.
    pub errors: &'static [u16],
    /// The one of them whose body may also be this, and no error.
    pub unready: Option<(u16, Value)>,
    /// Requests with known answers.
    pub examples: Vec<Example>,
}

/// A parameter of a query.
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it means.
    pub description: String,
    /// Whether it must be there.
    pub required: bool,
    /// Its schema.
    pub schema: Value,
    /// A value.
    pub example: Option<Value>,
}

/// The answer of status 200.
pub struct Answer {
    /// What it is.
    pub description: String,
    /// The type of its body; empty where it has none.
    pub kind: &'static str,
    /// The schema of its body.
    pub schema: Value,
    /// That of the first example, where it is known.
    pub example: Option<Value>,
}

/// A request, and what is known of its answer.
pub struct Example {
    /// What it shows.
    pub title: String,
    /// The query, not encoded.
    pub query: Vec<(String, String)>,
    /// Content type and body.
    pub body: Option<(&'static str, String)>,
    /// The answer's status.
    pub status: u16,
    /// Keys of the answer with their values.
    pub answer: Vec<(&'static str, Value)>,
}

impl<'a> Reference<'a> {
    /// The account of all models of `catalog`, as far as the bounds allow, or of `only` one of them.
    pub fn of(catalog: &'a Catalog, limits: &RequestLimits, offered: Offered<'_>, only: Option<&ModelName>) -> Self {
        let mut models: Vec<ModelReference<'a>> = Vec::new();
        let mut left_out = Vec::new();
        let is_default = |name: &ModelName| Some(name) == catalog.default.as_ref();
        let mut bytes = 0;
        // The default model comes first into the bounds.
        let mut answering: Vec<_> = catalog.models.iter().filter(|(name, _)| only.is_none_or(|o| o == *name)).collect();
        answering.sort_by_key(|(name, _)| !is_default(name));
        for (name, model) in answering {
            let Some(reference) = ModelReference::of(name, model, is_default(name)) else { continue };
            let card_bytes = card_bytes(&reference.version.spec);
            let fits = models.len() < MODELS_MAX && bytes + card_bytes <= CARD_BYTES_MAX;
            if models.is_empty() || fits {
                bytes += card_bytes;
                models.push(reference);
            } else {
                left_out.push(name);
            }
        }
        models.sort_by_key(|model| model.name);
        left_out.sort();
        let default = models.iter().find(|model| model.is_default);
        let mut groups: Vec<Group> =
            models.iter().map(|model| predict::group(model, limits, offered.may_order)).collect();
        groups.extend([v2::group(), platforms::group(default), server::group(catalog)]);
        // Where a further path is one that there is already, it stands for it.
        let further = platforms::further(default, limits, offered);
        for group in &mut groups {
            group.operations.retain(|operation| further.operations.iter().all(|other| other.path != operation.path));
        }
        groups.extend((!further.operations.is_empty()).then_some(further));
        Self { models, left_out, groups }
    }

    /// When a request is answered with `status`; none for a status that none is.
    pub fn meaning(status: u16) -> Option<&'static str> {
        openapi::ERRORS.iter().find(|(known, _)| *known == status).map(|(_, when)| *when)
    }

    /// The account as an OpenAPI 3.1 document.
    pub fn openapi(&self) -> Value {
        openapi::document(self)
    }

    /// What Azure Machine Learning asks of its default model, as a Swagger document of the version 2, or 3 for OpenAPI 3.0.
    pub fn swagger(&self, version: u8) -> Value {
        swagger::document(self.models.iter().find(|model| model.is_default), version)
    }

    /// The account as a Postman collection 2.1, whose requests go to `base_url`.
    pub fn postman(&self, base_url: &str) -> Value {
        postman::collection(self, base_url)
    }
}

impl Operation {
    /// Whether a request without a body is none.
    fn needs_body(&self) -> bool {
        self.examples.iter().all(|example| example.body.is_some())
    }
}

impl Example {
    /// The query as a URL has it, without `?`.
    pub fn query_string(&self) -> String {
        let pairs: Vec<String> = self.query.iter().map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect();
        pairs.join("&")
    }
}

/// `text` as a part of a query.
fn encoded(text: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, KEPT).to_string()
}

impl Documents {
    /// The OpenAPI document of all models of `catalog`, whose documents these are.
    pub fn openapi(&self, catalog: &Catalog, limits: &RequestLimits, offered: Offered<'_>) -> Bytes {
        self.openapi.get_or_init(|| text(&Reference::of(catalog, limits, offered, None).openapi())).clone()
    }
}

/// `document` as JSON.
pub fn text(document: &Value) -> Bytes {
    serde_json::to_vec(document).expect("a JSON value can be written").into()
}

impl<'a> ModelReference<'a> {
    fn of(name: &'a ModelName, model: &'a CatalogModel, is_default: bool) -> Option<Self> {
        let version = model.versions.get(model.stable.as_ref()?)?;
        let others = model.versions.values().filter(|other| other.spec.version != version.spec.version);
        let (same, different): (Vec<_>, Vec<_>) = others.partition(|other| takes_the_same(&version.spec, &other.spec));
        let versions = |versions: Vec<&'a std::sync::Arc<LoadedVersion>>| -> Vec<&'a Version> {
            versions.into_iter().map(|version| &version.spec.version).collect()
        };
        let (same, different) = (versions(same), versions(different));
        let commit = model.commit.as_ref().map(ToString::to_string);
        Some(Self { name, is_default, version, same, different, commit })
    }

    /// The card.
    pub fn spec(&self) -> &'a ModelSpec {
        &self.version.spec
    }
}

pub(crate) use self::schema::{sentence, value as written};

/// Whether two versions take the same features and give the same classes. The ranges that training saw may differ.
pub fn takes_the_same(a: &ModelSpec, b: &ModelSpec) -> bool {
    let same = |(a, b): (&Feature, &Feature)| {
        let domain = match (&a.domain, &b.domain) {
            (Domain::Number { .. }, Domain::Number { .. }) => true,
            (a, b) => a == b,
        };
        domain
            && a.dtype == b.dtype
            && a.name == b.name
            && a.unit == b.unit
            && a.default.is_some() == b.default.is_some()
    };
    let (a_features, b_features) = (&a.input.features, &b.input.features);
    let outputs = match (&a.output, &b.output) {
        (Output::Tensors(a), Output::Tensors(b)) => a == b,
        (Output::Classifier(a), Output::Classifier(b)) => {
            (&a.label.classes, &a.label.values) == (&b.label.classes, &b.label.values)
        }
        _ => false,
    };
    outputs && a_features.len() == b_features.len() && a_features.iter().zip(b_features).all(same)
}

/// How much text of a card an account repeats.
fn card_bytes(spec: &ModelSpec) -> usize {
    let feature = |feature: &Feature| {
        let categories = match &feature.domain {
            Domain::Number { .. } | Domain::Text | Domain::Truth => 0,
            Domain::Category(categories) => categories.iter().map(String::len).sum(),
        };
        feature.name.len() + feature.description.len() + categories
    };
    let classes: usize = match &spec.output {
        Output::Classifier(classifier) => classifier.label.classes.iter().map(String::len).sum(),
        Output::Tensors(outputs) => outputs
            .iter()
            .map(|output| match &output.kind {
                OutputKind::Label(names) | OutputKind::Map(names) => names.iter().map(String::len).sum(),
                OutputKind::Value => output.name.len(),
            })
            .sum(),
    };
    spec.description.len() + classes + spec.input.features.iter().map(feature).sum::<usize>()
}

#[cfg(test)]
mod tests;
