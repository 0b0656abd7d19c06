//! Reads YAML that foreign hands wrote: bounded, strict, and with errors that point at the place.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

/// The largest YAML file, in bytes. A model.yaml with golden rows and profiles is under 100 kB.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct YamlError {
    /// The file's path inside its repository or folder.
    pub file: String,
    /// The line, counted from 1; 0 where the fault is of the file as a whole.
    pub line: u64,
    /// The path of the field, such as `models.iris.stable`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// A fault found after parsing, which [`parse`] turns into a [`YamlError`] by adding the file.
#[derive(Debug)]
pub struct Fault {
    line: u64,
    field: String,
    problem: String,
}

impl Fault {
    /// A fault of `value`, which stands in the file at `field`.
    pub fn at<T>(value: &Spanned<T>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { line: value.referenced.line(), field: field.into(), problem: problem.into() }
    }
}

/// Parses `text`, the content of `file`, as a `Raw` and validates it.
///
/// Refuses unknown and duplicate fields, more than one document, and YAML that would expand beyond
/// its size: anchors and aliases are refused outright, since no file of ours needs them.
pub fn parse<Raw, T>(file: &str, text: &[u8], validate: impl FnOnce(Raw) -> Result<T, Fault>) -> Result<T, YamlError>
where
    Raw: DeserializeOwned,
{
    let whole = |problem: String| YamlError { file: file.to_owned(), line: 0, field: String::new(), problem };
    if text.len() > FILE_BYTES_MAX {
        return Err(whole(format!("the file has {} bytes, more than the {FILE_BYTES_MAX} allowed", text.len())));
    }
    let text =
        std::str::from_utf8(text).map_err(|e| whole(format!("the file is not UTF-8 at byte {}", e.valid_up_to())))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_aliases: 0, max_anchors: 0, max_depth: 16 },
        with_snippet: false,
    };
    let mut field = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize::<_, Raw>(deserializer).map_err(|e| {
            field = field_path(e.path());
            e.into_inner()
        })
    });
    let raw = parsed.map_err(|e| YamlError {
        file: file.to_owned(),
        line: e.location().map_or(0, |l| l.line()),
        field: std::mem::take(&mut field),
        problem: sentence(e.without_snippet()),
    })?;
    validate(raw).map_err(|fault| YamlError {
        file: file.to_owned(),
        line: fault.line,
        field: fault.field,
        problem: fault.problem,
    })
}

/// The path as the file's author knows it: [`Spanned`] puts a segment `value` of its own before what it holds.
fn field_path(path: &serde_path_to_error::Path) -> String {
    let mut field = String::new();
    let mut dropped = false;
    for segment in path {
        dropped = !dropped && segment.to_string() == "value";
        if !dropped {
            let dot = if field.is_empty() || segment.to_string().starts_with('[') { "" } else { "." };
            field = format!("{field}{dot}{segment}");
        }
    }
    field
}

/// The one version of our files' format.
pub fn check_api_version(version: &Spanned<String>) -> Result<(), Fault> {
    if version.value == "mainstay/v1" {
        return Ok(());
    }
    let got: String = version.value.chars().take(40).collect();
    Err(Fault::at(version, "apiVersion", format!("`{got}` is not known; write `mainstay/v1`")))
}

/// The parser's message on one line and without its own location, which the error already carries.
fn sentence(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.split(" at line ").next().unwrap_or(text);
    text.trim_start_matches("error: ").to_owned()
}
