//! What can go wrong in a pass, sorted by what to do next.

use mainstay_models::YamlError;
use serde::Serialize;

/// Why a pass did not publish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A person must change git: the same commit will be refused again, so it is not tried again.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The next pass may succeed without anybody doing anything.
    #[error("{0}")]
    Retry(String),
}

/// What is wrong with a commit, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}", self.text())]
pub struct Refusal {
    /// The file's path inside the repository; empty where the commit itself is refused, whatever is in it.
    pub file: String,
    /// The line, counted from 1; 0 where the fault is of the file as a whole.
    pub line: u64,
    /// The path of the field, such as `models.iris.stable`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Refusal {
    /// A fault of the commit itself.
    pub(crate) fn commit(problem: impl Into<String>) -> Self {
        Self::whole("", problem)
    }

    /// A fault of `file` as a whole.
    pub(crate) fn whole(file: &str, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, field: String::new(), problem: problem.into() }
    }

    fn text(&self) -> String {
        let Self { file, line, field, problem } = self.clone();
        if file.is_empty() { problem } else { YamlError { file, line, field, problem }.to_string() }
    }
}

impl From<YamlError> for Refusal {
    fn from(error: YamlError) -> Self {
        Self { file: error.file, line: error.line, field: error.field, problem: error.problem }
    }
}

impl From<YamlError> for Trouble {
    fn from(error: YamlError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Trouble {
    /// A failure that the next pass may not meet, with all its causes in one line.
    pub(crate) fn retry(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        Self::Retry(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }
}
