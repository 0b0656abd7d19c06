//! `GET /`: what is served, shown to people, with a form to try each model; and `GET /docs`: what may be asked.
//!
//! The page works without scripts (a form is a plain GET), loads nothing from elsewhere, and treats every text of a
//! card or a commit as foreign: the template escapes it, and no script or style stands in the page itself.
//! Knows how things look. Does not know how a prediction is made.

use askama::Template;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response};

use crate::catalog::Catalog;
use crate::reference::Reference;

mod asset;
mod calls;
mod docs;
mod view;

pub use asset::{Asset, asset};

/// Everything that the page may load or do; `connect-src` is for its script, which asks for predictions.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; \
                      img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";

/// The page that shows `catalog`, to somebody who reaches this server at `base_url`.
pub fn index(catalog: &Catalog, base_url: &str) -> Response<Bytes> {
    html(&view::Index::of(catalog, base_url))
}

/// The page that shows `reference`.
pub fn docs(reference: &Reference<'_>) -> Response<Bytes> {
    html(&docs::Docs::of(reference))
}

fn html(page: &impl Template) -> Response<Bytes> {
    let html = page.render().expect("writing text to a string does not fail");
    respond(
        html.into(),
        [
            (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            // What is served changes without notice, and the page says what is served now.
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ],
    )
}

fn respond<const N: usize>(body: Bytes, headers: [(HeaderName, HeaderValue); N]) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().extend(headers.map(|(name, value)| (Some(name), value)));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
