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
    /// A prediction by the named or the default model.
    Predict(Option<Cow<'p, str>>),
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
        ["predict"] => Some(Route::Predict(None)),
        ["models", model, "predict"] => Some(Route::Predict(Some(decoded(model)))),
        [file] => page::asset(file).map(Route::Asset),
        _ => None,
    }
}

/// A segment as text. What is not UTF-8 names nothing that there is.
fn decoded(segment: &str) -> Cow<'_, str> {
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
    fn what_is_no_path_is_none() {
        for path in ["", "*", "predict", "//predict", "/models", "/models/iris", "/nothing", "/a/b/c/d/e/f/g/h/i"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
