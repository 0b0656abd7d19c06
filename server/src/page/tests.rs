//! The page, rendered from real and from hostile catalogs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mainstay_models::embedded::{Embedded, MODELS};
use mainstay_models::{Blob, Change, Commit, ModelSpec, Move, Role};

use super::*;
use crate::api::RequestLimits;
use crate::catalog::{CatalogModel, LiveRelease, LoadedVersion};
use crate::engine::EngineChoice;
use crate::monitor::Metrics;
use crate::reference::Offered;
use crate::reload::Loader;
use crate::wire::{Signature, decode_query};

/// Text that would be markup if anything let it through.
const MARKUP: &str = r#"<script>alert("x")</script>'"><img src=x onerror=alert(1)>"#;
const BASE_URL: &str = "http://test:5000";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

const LIMITS: RequestLimits = RequestLimits { body_bytes_max: 1 << 20, rows_max: 100, timeout: Duration::from_secs(1) };

static LOADER: LazyLock<Loader> = LazyLock::new(|| Loader {
    engine: EngineChoice::Auto,
    metrics: Arc::new(Metrics::new("test")),
    sessions: NonZeroUsize::MIN,
});

fn shipped(models: &[Embedded]) -> Catalog {
    LOADER.embedded(models).unwrap()
}

/// The shipped version of `name`, with a card that `change` has changed.
fn version(name: &str, change: impl FnOnce(&mut ModelSpec)) -> Arc<LoadedVersion> {
    let shipped = shipped(&MODELS).models.remove(name).unwrap().versions.into_values().next().unwrap();
    let mut loaded = Arc::into_inner(shipped).unwrap();
    change(&mut loaded.spec);
    loaded.signature = Signature::new(&loaded.spec);
    Arc::new(loaded)
}

fn serve(catalog: &mut Catalog, stable: Option<&str>, versions: Vec<Arc<LoadedVersion>>) {
    let name = versions[0].spec.name.clone();
    let versions = versions.into_iter().map(|version| (version.spec.version.clone(), version)).collect();
    let stable = stable.map(|stable| stable.parse().unwrap());
    catalog.models.insert(name, CatalogModel { stable, versions, commit: Some(COMMIT.parse().unwrap()) });
}

fn text(response: Response<Bytes>) -> String {
    String::from_utf8(response.into_body().into()).unwrap()
}

fn html(catalog: &Catalog) -> String {
    text(index(catalog, BASE_URL))
}

/// The values of the attribute `name`, unescaped.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let unescape = |value: &str| {
        let entities = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
        entities.iter().fold(value.to_owned(), |text, (entity, c)| text.replace(entity, c))
    };
    html.split(&format!(" {name}=\"")).skip(1).map(|rest| unescape(rest.split('"').next().unwrap())).collect()
}

#[test]
fn every_shipped_model_is_shown_with_what_an_auditor_asks_for() {
    let catalog = shipped(&MODELS);
    let page = html(&catalog);
    for (name, model) in &catalog.models {
        let version = &model.versions[model.stable.as_ref().unwrap()];
        let sha256 = version.blobs.artifact.sha256;
        assert!(page.contains(&format!("id=\"model-{name}\"")));
        assert!(page.contains(&version.spec.description));
        assert!(page.contains(&format!("<code title=\"{sha256}\">{}</code>", sha256.short())), "{page}");
        for metric in &version.spec.metrics {
            assert!(page.contains(&metric.value.to_string()), "{name}: {}", metric.name);
            assert!(page.contains(&metric.split));
        }
    }
    assert_eq!(page.matches("<span class=\"tag\">default</span>").count(), 2, "in the list and in the section");
    assert!(page.contains("No release asks for these models"));
}

#[test]
fn a_form_asks_for_each_feature_by_its_name_and_its_example_is_an_answerable_request() {
    let catalog = shipped(&MODELS);
    let page = html(&catalog);
    for (name, model) in &catalog.models {
        let version = &model.versions.values().next().unwrap();
        let form =
            page.split("<form ").find(|form| form.contains(&format!("action=\"models/{name}/predict\""))).unwrap();
        let form = form.split("</form>").next().unwrap();
        assert!(form.starts_with("method=\"get\""));
        let names = attributes(form, "name");
        let expected: Vec<&String> = version.spec.input.features.iter().map(|feature| &feature.name).collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), expected);

        let mut values: Vec<String> = Vec::new();
        for field in form.split("class=\"field\"").skip(1) {
            let chosen = field.split("<option selected").nth(1).unwrap_or(field);
            values.push(attributes(chosen, "value")[0].clone());
        }
        let escape =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let query: Vec<String> =
            names.iter().zip(&values).map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
        let row = decode_query(&version.signature, &query.join("&")).unwrap();
        let examples = version.spec.input.features.iter().map(|feature| feature.example.to_string());
        assert_eq!((row.len(), values), (1, examples.collect()));
    }
}

/// The calls on the page, by what they are written with.
fn calls(page: &str) -> Vec<(String, String)> {
    let code = page.split("<code data-call=\"").skip(1);
    let unescape = |text: &str| {
        let entities = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
        entities.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
    };
    let call = |code: &str| {
        let (id, rest) = code.split_once('"').unwrap();
        let (_, text) = rest.split_once("\">").unwrap();
        (id.to_owned(), unescape(text.split("</code>").next().unwrap()))
    };
    code.map(call).collect()
}

#[test]
fn the_calls_ask_this_server_for_the_forms_example() {
    let page = html(&shipped(&MODELS));
    let calls = calls(&page);
    assert_eq!(calls.len(), 8);
    assert!(calls.iter().all(|(_, text)| !text.contains("{{")), "{calls:?}");
    let records =
        r#"[{"sepal length (cm)":5.1,"sepal width (cm)":3.5,"petal length (cm)":1.4,"petal width (cm)":0.2}]"#;
    let url = "http://test:5000/models/iris/predict";
    assert_eq!(calls[0].1, format!("curl '{url}' \\\n  -H 'content-type: application/json' \\\n  -d '{records}'"));
    assert!(calls[1].1.contains(&format!("requests.post(\"{url}\", json={records}, timeout=30)")), "{calls:?}");
    assert!(calls[2].1.contains("InferenceServerClient(\"test:5000\")"), "{calls:?}");
    assert!(calls[2].1.contains("np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)"), "{calls:?}");
    assert!(calls[3].1.contains(&format!("JSON.stringify({records})")), "{calls:?}");
}

#[test]
fn the_reference_is_shown_without_foreign_markup() {
    let mut catalog = shipped(&MODELS);
    let hostile = version("iris", |spec| {
        spec.description = MARKUP.to_owned();
        spec.input.features[0].name.push_str(MARKUP);
        spec.input.features[0].description = MARKUP.to_owned();
        let mainstay_models::spec::Output::Classifier(classifier) = &mut spec.output else { panic!("no classifier") };
        classifier.label.classes[0].push_str(MARKUP);
    });
    serve(&mut catalog, Some("1.1.0"), vec![hostile]);
    let response = docs(&Reference::of(&catalog, &LIMITS, Offered::default(), None));
    assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'; "));
    let page = text(response);
    assert!(page.matches("alert").count() > 5, "the foreign text is shown");
    assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("'\""), "{page}");
    assert!(page.contains("number, training saw 2 to 4.4 cm") && page.contains("text, one of L, M, H"));
    assert!(!page.contains(" style=") && !page.contains("//"));
    let ids = attributes(&page, "id");
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len(), "an id stands twice");
}

#[test]
fn a_range_is_shown_and_not_enforced() {
    let page = html(&shipped(&MODELS));
    assert!(page.contains("data-min=\"4.3\" data-max=\"7.9\""));
    assert!(page.contains("Training saw 4.3 to 7.9 cm."));
    assert!(!page.contains(" min=") && !page.contains(" max="));
    assert_eq!(page.matches("type=\"number\"").count(), page.matches("step=\"any\"").count());
}

#[test]
fn versions_that_take_the_same_share_a_form_and_others_have_their_own() {
    let mut catalog = shipped(&MODELS);
    let versions = vec![
        version("iris", |_| {}),
        version("iris", |spec| spec.version = "1.2.0-rc.1".parse().unwrap()),
        version("iris", |spec| {
            spec.version = "2.0.0".parse().unwrap();
            spec.input.features[0].name = "sepal area (cm²)".to_owned();
            spec.input.features[0].default = Some(mainstay_models::spec::Value::Number(5.0));
        }),
    ];
    serve(&mut catalog, Some("1.1.0"), versions);
    let page = html(&catalog);
    assert!(page.contains("<option value=\"1.1.0\" selected>1.1.0 (stable)</option>"));
    assert!(page.contains("<option value=\"1.2.0-rc.1\">1.2.0-rc.1</option>"));
    assert!(page.contains("<input type=\"hidden\" name=\"version\" value=\"2.0.0\" data-picker>"));
    assert_eq!(page.matches("action=\"models/iris/predict\"").count(), 2);
    assert!(page.contains("May be left out."));
    assert_eq!(
        page.matches(" required").count(),
        4 + 3 + 5,
        "of ten iris fields one has a default; a category has a value"
    );
    let ids = attributes(&page, "id");
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len(), "an id stands twice");
}

#[test]
fn foreign_text_never_becomes_markup() {
    let mut catalog = shipped(&MODELS);
    let hostile = version("iris", |spec| {
        let foreign = || MARKUP.to_owned();
        spec.description = foreign();
        spec.artifact.location = mainstay_models::spec::Location::File(foreign());
        for feature in &mut spec.input.features {
            feature.name.push_str(MARKUP);
            feature.description = foreign();
            feature.unit = Some(foreign());
        }
        spec.input.features[0].domain = mainstay_models::spec::Domain::Category(vec![foreign()]);
        spec.input.features[0].example = mainstay_models::spec::Value::Text(foreign());
        let mainstay_models::spec::Output::Classifier(classifier) = &mut spec.output else { panic!("no classifier") };
        classifier.label.classes.iter_mut().for_each(|class| class.push_str(MARKUP));
        classifier.threshold = Some(0.5);
        spec.training.data.name = foreign();
        spec.training.data.source = foreign();
        spec.training.code.commit = foreign();
        spec.training.libraries.insert(foreign(), foreign());
        for metric in &mut spec.metrics {
            (metric.name, metric.split, metric.note) = (foreign(), foreign(), Some(foreign()));
        }
    });
    serve(&mut catalog, Some("1.1.0"), vec![hostile]);
    let mut commit = commit();
    (commit.author, commit.subject) = (MARKUP.to_owned(), MARKUP.to_owned());
    catalog.changes = vec![Change { commit, moves: Vec::new() }];

    let page = html(&catalog);
    assert!(page.matches("alert").count() > 20, "the foreign text is shown");
    assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("'\""), "{page}");
    // Of the classes, the script reads JSON: it must survive the escaping.
    let classes = attributes(&page, "data-classes").remove(0);
    let classes: Vec<String> = serde_json::from_str(&classes).unwrap();
    assert_eq!(classes[0], format!("setosa{MARKUP}"));
}

fn commit() -> Commit {
    let (author, subject) = ("Ada".to_owned(), "serve iris 1.1.0".to_owned());
    Commit { id: COMMIT.parse().unwrap(), author, subject, time_unix_s: 1_767_225_600 }
}

#[test]
fn the_change_log_says_who_changed_what_and_when() {
    let mut catalog = shipped(&MODELS);
    catalog.release =
        Some(LiveRelease { name: format!("7-{COMMIT}").parse().unwrap(), sha256: Blob::of(b"release").sha256 });
    let number = |text: &str| Some(text.parse().unwrap());
    let step = |role, from, to| Move { model: "iris".parse().unwrap(), role, from, to };
    let moves = vec![
        step(Role::Stable, number("1.0.0"), number("1.1.0")),
        step(Role::Preview, None, number("1.2.0")),
        step(Role::Preview, number("0.9.0"), None),
    ];
    let timeless = Commit { time_unix_s: i64::MAX, ..commit() };
    catalog.changes = vec![Change { commit: commit(), moves }, Change { commit: timeless, moves: Vec::new() }];
    let page = html(&catalog);
    assert!(page.contains("Release 7 of commit"));
    assert!(page.contains("by Ada, <time datetime=\"2026-01-01T00:00:00Z\">2026-01-01 00:00 UTC</time>"), "{page}");
    assert_eq!(page.matches("<time").count(), 1);
    assert!(page.contains(
        "<span class=\"version\">1.0.0</span> <span aria-label=\"to\">→</span> <span class=\"version\">1.1.0</span>"
    ));
    assert!(page.contains("preview <span class=\"version\">1.2.0</span> added"));
    assert!(page.contains("preview <span class=\"version\">0.9.0</span> removed"));
    assert!(page.contains("could not be read"));
}

#[test]
fn a_model_that_could_not_be_loaded_is_shown_as_such() {
    let mut catalog = shipped(&MODELS);
    let preview = version("iris", |_| {});
    serve(&mut catalog, None, vec![preview]);
    let none = CatalogModel { stable: None, versions: BTreeMap::new(), commit: None };
    catalog.models.insert("broken".parse().unwrap(), none);
    let page = html(&catalog);
    assert_eq!(page.matches(">not loaded</span>").count(), 2);
    assert!(
        page.contains("Loaded, but not answering without the stable version: <span class=\"version\">1.1.0</span>.")
    );
    assert!(!page.contains("action=\"models/iris/") && !page.contains("action=\"models/broken/"));
    assert!(page.contains("action=\"models/pred-main/predict\""));
}

#[test]
fn an_empty_catalog_says_so() {
    let page = html(&Catalog::default());
    assert!(page.contains("No model is loaded yet"));
    assert!(!page.contains("<form"));
}

#[test]
fn the_page_allows_itself_nothing_but_its_own_files() {
    let response = index(&shipped(&MODELS), BASE_URL);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe") && !policy.contains("  "),
        "{policy}"
    );
    for directive in
        ["style-src 'self'", "script-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split("; ").any(|part| part == directive), "{directive}");
    }
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("content-type"), "text/html; charset=utf-8");

    let page = text(response);
    assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick="));
    assert!(!page.replace("http://test:5000/", "").contains("//"), "the page names another place");
}

#[test]
fn every_file_that_the_page_links_to_is_there_under_a_url_of_its_content() {
    let page = html(&Catalog::default());
    let links: Vec<String> = [attributes(&page, "href"), attributes(&page, "src")].concat();
    let files: Vec<&str> = links.iter().filter_map(|link| link.split_once("?v=")).map(|(file, _)| file).collect();
    assert_eq!(files, ["favicon.svg", "page.css", "page.js"]);
    let docs = text(docs(&Reference::of(&Catalog::default(), &LIMITS, Offered::default(), None)));
    assert!(docs.contains(&Asset::url("docs.js")) && docs.contains(&Asset::url("page.css")));
    for file in files {
        let response = asset(file).unwrap().response();
        let etag = response.headers()["etag"].to_str().unwrap().trim_matches('"').to_owned();
        assert!(links.contains(&format!("{file}?v={etag}")));
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = if file.ends_with("js") { "text/javascript; charset=utf-8" } else { content_type.as_str() };
        assert_eq!(content_type, expected);
        assert!(!text(response).is_empty());
    }
    assert!(asset("index.html").is_none() && asset("").is_none() && asset("../page.css").is_none());
}

#[test]
fn the_script_makes_no_markup_from_data() {
    for script in ["page.js", "docs.js"] {
        let script = text(asset(script).unwrap().response());
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
    }
}
