//! `GET /docs`: what may be asked, shown to people, with requests to try.

use askama::Template;
use mainstay_models::spec::{Domain, Feature};

use super::Asset;
use super::view::bound;
use crate::reference::{Example, Group, ModelReference, Operation, Reference};

/// The whole page.
#[derive(Template)]
#[template(path = "docs.html")]
pub(super) struct Docs<'a> {
    server: &'static str,
    reference: &'a Reference<'a>,
    sections: Vec<SectionView<'a>>,
}

struct SectionView<'a> {
    group: &'a Group,
    model: Option<&'a ModelReference<'a>>,
    features: Vec<FeatureView<'a>>,
    operations: Vec<OperationView<'a>>,
}

/// A feature in words.
struct FeatureView<'a> {
    feature: &'a Feature,
    kind: &'static str,
    values: String,
    default: Option<String>,
}

struct OperationView<'a> {
    operation: &'a Operation,
    /// Relative to the page, so that it may stand under any path.
    path: &'a str,
    examples: Vec<ExampleView<'a>>,
    answer: Option<String>,
    statuses: Vec<(u16, &'static str)>,
}

struct ExampleView<'a> {
    example: &'a Example,
    query: String,
    kind: &'a str,
    body: &'a str,
}

impl<'a> Docs<'a> {
    pub(super) fn of(reference: &'a Reference<'a>) -> Self {
        let server = concat!("mainstay ", env!("CARGO_PKG_VERSION"));
        let section = |group: &'a Group| {
            let model = reference.models.iter().find(|model| model.name.as_str() == group.name);
            let features = model.map_or(&[][..], |model| &model.spec().input.features);
            SectionView {
                group,
                model,
                features: features.iter().map(FeatureView::of).collect(),
                operations: group.operations.iter().map(OperationView::of).collect(),
            }
        };
        Self { server, reference, sections: reference.groups.iter().map(section).collect() }
    }
}

impl<'a> FeatureView<'a> {
    fn of(feature: &'a Feature) -> Self {
        let (kind, values) = match &feature.domain {
            Domain::Number { min, max } => {
                let unit = feature.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
                let kind = if feature.dtype.integers().is_some() { "integer" } else { "number" };
                let [min, max] = [*min, *max].map(|value| bound(feature, value));
                (kind, format!("training saw {min} to {max}{unit}"))
            }
            Domain::Category(categories) => ("text", format!("one of {}", categories.join(", "))),
            Domain::Text => ("text", "any text".to_owned()),
            Domain::Truth => ("boolean", "true or false".to_owned()),
        };
        let default = feature.default.as_ref().map(ToString::to_string);
        Self { feature, kind, values, default }
    }
}

impl<'a> OperationView<'a> {
    fn of(operation: &'a Operation) -> Self {
        let statuses = operation.errors.iter().filter_map(|status| Some((*status, Reference::meaning(*status)?)));
        let pretty = |value| serde_json::to_string_pretty(value).expect("a JSON value can be written");
        Self {
            operation,
            path: Some(operation.path.trim_start_matches('/')).filter(|path| !path.is_empty()).unwrap_or("."),
            examples: operation.examples.iter().map(ExampleView::of).collect(),
            answer: operation.answer.as_ref().and_then(|answer| answer.example.as_ref()).map(pretty),
            statuses: statuses.collect(),
        }
    }

    fn is_get(&self) -> bool {
        self.operation.method == "GET"
    }
}

impl<'a> ExampleView<'a> {
    fn of(example: &'a Example) -> Self {
        let (kind, body) = example.body.as_ref().map_or(("", ""), |(kind, body)| (*kind, body.as_str()));
        Self { example, query: example.query_string(), kind, body }
    }
}
