//! The files that the page loads. They are part of the program, so that page and files are always of one version.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Response};
use mainstay_models::Digest;

/// A file that the page loads.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    file: &'static str,
    content_type: &'static str,
    text: &'static str,
    /// Of the text; part of the file's URL, so that another text is another URL.
    digest: Digest,
}

static ASSETS: LazyLock<[Asset; 4]> = LazyLock::new(|| {
    [
        Asset::new("page.css", "text/css; charset=utf-8", include_str!("../../templates/page.css")),
        Asset::new("page.js", "text/javascript; charset=utf-8", include_str!("../../templates/page.js")),
        Asset::new("docs.js", "text/javascript; charset=utf-8", include_str!("../../templates/docs.js")),
        Asset::new("favicon.svg", "image/svg+xml", include_str!("../../templates/favicon.svg")),
    ]
});

/// The asset at the path `/{file}`, where there is one.
pub fn asset(file: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.file == file)
}

impl Asset {
    fn new(file: &'static str, content_type: &'static str, text: &'static str) -> Self {
        Self { file, content_type, text, digest: Digest::of(text.as_bytes()) }
    }

    /// The file.
    ///
    /// Fresh for an hour only, although its URL names its content: while two versions of the program answer at one
    /// address, a page of one may get the file of the other.
    pub fn response(&self) -> Response<Bytes> {
        let etag = HeaderValue::from_str(&format!("\"{}\"", self.digest.short()));
        super::respond(
            Bytes::from_static(self.text.as_bytes()),
            [
                (CONTENT_TYPE, HeaderValue::from_static(self.content_type)),
                (CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
                (ETAG, etag.expect("a digest has only hexadecimal digits")),
            ],
        )
    }

    /// The URL by which the page names `file`, relative to the page, so that it may stand under any path.
    pub(super) fn url(file: &str) -> String {
        let digest = asset(file).expect("the page names only files that there are").digest;
        format!("{file}?v={}", digest.short())
    }
}
