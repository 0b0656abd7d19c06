//! The training data: rows of a CSV file as the model gets them, and what they look like.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use mainstay_models::Blob;
use ndarray::Array2;

use super::facts::{Facts, Feature};

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// How many bins a histogram has.
const BINS: usize = 20;

/// Why the data is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// It is too large.
    #[error("{} has more than {} MiB: give a sample of the training data", path.display(), FILE_BYTES_MAX >> 20)]
    Large { path: PathBuf },
    /// It is no table.
    #[error("{} is no CSV with a line of names first", path.display())]
    Malformed { path: PathBuf, source: csv::Error },
    /// A feature is not among its columns.
    #[error("{} has no column `{feature}`", path.display())]
    Column { path: PathBuf, feature: String },
    /// A cell is not a value.
    #[error("{}:{line}: `{cell}` is no value of `{feature}`: {expected}", path.display())]
    Cell { path: PathBuf, line: u64, feature: String, cell: String, expected: String },
    /// There is nothing in it.
    #[error("{} has no rows", path.display())]
    Empty { path: PathBuf },
}

/// Rows, and the file that they are from.
pub struct Rows {
    pub file: Blob,
    /// The file's name.
    pub name: String,
    /// A column per feature, as the model gets them.
    pub values: Array2<f32>,
}

/// How often values lie between edges.
#[derive(Debug, PartialEq)]
pub struct Histogram {
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

impl Rows {
    pub fn read(path: &Path, facts: &Facts) -> Result<Self, RowsError> {
        let fail = |source| RowsError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(fail)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(RowsError::Large { path: path.to_owned() });
        }
        let malformed = |source| RowsError::Malformed { path: path.to_owned(), source };
        let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&*bytes);
        let header = table.headers().map_err(malformed)?.clone();
        let column = |feature: &Feature| {
            let at = header.iter().position(|name| name == feature.name);
            at.ok_or_else(|| RowsError::Column { path: path.to_owned(), feature: feature.name.clone() })
        };
        let columns = facts.features.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let mut values = Vec::new();
        let mut count = 0;
        for record in table.records() {
            let record = record.map_err(malformed)?;
            for (feature, column) in facts.features.iter().zip(&columns) {
                let cell = record.get(*column).unwrap_or_default();
                values.push(encode(feature, cell).map_err(|expected| RowsError::Cell {
                    path: path.to_owned(),
                    line: record.position().map_or(0, csv::Position::line),
                    feature: feature.name.clone(),
                    cell: cell.chars().take(40).collect(),
                    expected,
                })?);
            }
            count += 1;
        }
        if count == 0 {
            return Err(RowsError::Empty { path: path.to_owned() });
        }
        let values = Array2::from_shape_vec((count, facts.features.len()), values).expect("each row has every feature");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file: Blob::of(&bytes), name, values })
    }

    /// The values of a feature, in order.
    pub fn sorted(&self, feature: usize) -> Vec<f32> {
        let mut values = self.values.column(feature).to_vec();
        values.sort_by(f32::total_cmp);
        values
    }
}

impl Histogram {
    /// Of numbers between their least and greatest, in bins of one width.
    pub fn of(sorted: &[f32]) -> Self {
        let (least, greatest) = (f64::from(sorted[0]), f64::from(sorted[sorted.len() - 1]));
        if least < greatest {
            Self::between(least, greatest, sorted)
        } else {
            Self::between(least - 0.5, least + 0.5, sorted)
        }
    }

    /// Of numbers between two edges, in bins of one width.
    pub fn between(least: f64, greatest: f64, values: &[f32]) -> Self {
        let edge =
            |bin: usize| if bin == BINS { greatest } else { least + (greatest - least) * bin as f64 / BINS as f64 };
        let mut edges: Vec<f64> = (0..=BINS).map(edge).collect();
        // A range of a few bits has fewer edges than bins.
        edges.dedup();
        let mut counts = vec![0; edges.len() - 1];
        for value in values {
            let bin = edges.partition_point(|edge| *edge <= f64::from(*value)).saturating_sub(1);
            counts[bin.min(edges.len() - 2)] += 1;
        }
        Self { edges, counts }
    }
}

/// A cell as the model gets it; what would be right otherwise.
pub fn encode(feature: &Feature, cell: &str) -> Result<f32, String> {
    let number = cell.parse::<f32>().ok().filter(|number| number.is_finite());
    match &feature.categories {
        None => number.ok_or_else(|| "write a finite number".to_owned()),
        Some(categories) => match categories.iter().position(|category| category == cell) {
            Some(index) => Ok(index as f32),
            // Encoded already.
            None => number
                .filter(|number| number.fract() == 0.0 && *number >= 0.0 && (*number as usize) < categories.len())
                .ok_or_else(|| format!("write one of {}", categories.join(", "))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts::parse(
            "card.yaml",
            b"description: d\nfeatures:\n  - {name: size, description: s, categories: [S, M]}\n  - {name: wear, description: w, unit: min}\nclasses: [a, b]\n",
        )
        .unwrap()
    }

    fn read(text: &str) -> Result<Rows, RowsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.csv");
        std::fs::write(&path, text).unwrap();
        Rows::read(&path, &facts())
    }

    #[test]
    fn columns_are_found_by_name_and_texts_become_their_index() {
        let rows = read("wear,label,size\n1.5,x,M\n2,y,S\n\"3\", z ,1\n").unwrap();
        assert_eq!(rows.values, ndarray::array![[1.0, 1.5], [0.0, 2.0], [1.0, 3.0]]);
        assert_eq!(rows.name, "data.csv");
    }

    #[test]
    fn what_is_no_value_is_said_with_its_line() {
        let say = |text: &str| read(text).err().unwrap().to_string();
        assert!(say("size\nM\n").contains("has no column `wear`"));
        assert!(say("size,wear\nM,1\nM,\n").ends_with("data.csv:3: `` is no value of `wear`: write a finite number"));
        assert!(say("size,wear\nXL,1\n").contains("write one of S, M"));
        assert!(say("size,wear\n2,1\n").contains("write one of S, M"));
        assert!(say("size,wear\nM,nan\n").contains("write a finite number"));
        assert!(say("size,wear\n").contains("has no rows"));
        assert!(say("size,wear\nM\n").contains("is no CSV"));
    }

    #[test]
    fn a_histogram_counts_every_value_once_and_has_edges_that_rise() {
        for values in [vec![1.0, 1.0, 1.0], vec![0.0, 0.1, 0.2, 1.0], vec![1.0, 1.0 + f32::EPSILON], vec![-1e30, 1e30]]
        {
            let histogram = Histogram::of(&values);
            assert_eq!(histogram.counts.iter().sum::<u64>(), values.len() as u64);
            assert_eq!(histogram.edges.len(), histogram.counts.len() + 1);
            assert!(histogram.edges.is_sorted_by(|a, b| a < b), "{histogram:?}");
        }
    }
}
