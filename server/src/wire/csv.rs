//! CSV with a line of feature names first: what spreadsheets, databases and data frames write.
//!
//! RFC 4180, UTF-8 with or without a byte order mark, lines ended by CRLF or LF. The names may stand in any order. An
//! empty cell leaves the feature out, as a key that is not there does in a record.

use csv::{ByteRecord, ReaderBuilder};

use super::{DecodeError, RowsBuilder, Signature, excerpt};
use crate::rows::{Cell, Rows};

/// The rows that `body` asks about, at most `rows_max` of them. Without a header, cells stand in the features' order.
pub fn decode(signature: &Signature, body: &[u8], has_header: bool, rows_max: usize) -> Result<Rows, DecodeError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut rows = RowsBuilder::new(signature, rows_max);
    let mut record = ByteRecord::new();
    let mut columns: Vec<usize> = (0..signature.features.len()).collect();
    if has_header {
        if !read(&mut reader, &mut record) {
            let problem = "the body has no line; its first names the features, each further one is a row";
            return Err(DecodeError::malformed(problem));
        }
        columns = header(&mut rows, &record, line_of(body, &record))?;
    }
    while read(&mut reader, &mut record) {
        if !rows.begin_row() {
            return Err(DecodeError::TooManyRows { rows_max });
        }
        let faults = rows.details.len();
        for (&column, cell) in columns.iter().zip(&record) {
            match std::str::from_utf8(cell) {
                Ok("") => {}
                Ok(text) => rows.set(column, &Cell::written(text, &signature.features[column])),
                Err(_) => rows.set(column, &Cell::Other("bytes that are not UTF-8")),
            }
        }
        if record.len() > columns.len() {
            let (has, may) = (record.len(), columns.len());
            rows.fault(format!("[{may}]"), format!("{may} cells, one per feature"), format!("{has} cells"));
        }
        rows.end_row();
        if rows.details.len() > faults {
            let line = line_of(body, &record);
            rows.details[faults..].iter_mut().for_each(|detail| detail.line = Some(line));
        }
    }
    rows.finish()
}

/// Whether the first line of `body` names one of the features, so that it is no row.
pub fn names_columns(signature: &Signature, body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut record = ByteRecord::new();
    let names = |cell: &[u8]| std::str::from_utf8(cell).is_ok_and(|name| signature.column_of.contains_key(name.trim()));
    read(&mut reader, &mut record) && record.iter().any(names)
}

/// Which feature each cell of a row belongs to, or what is wrong with the names in `record`, at `line`.
fn header(rows: &mut RowsBuilder<'_>, record: &ByteRecord, line: usize) -> Result<Vec<usize>, DecodeError> {
    let signature = rows.signature;
    let mut columns = Vec::with_capacity(record.len().min(signature.features.len()));
    for name in record {
        let name = String::from_utf8_lossy(name);
        let name = name.trim();
        match signature.column_of.get(name) {
            None => rows.fault(excerpt(name), signature.names(), "an unknown feature".to_owned()),
            Some(&column) if std::mem::replace(&mut rows.seen[column], true) => {
                rows.fault(name.to_owned(), "each feature once".to_owned(), "it twice".to_owned());
            }
            Some(&column) => columns.push(column),
        }
    }
    if columns.is_empty() {
        let problem = format!("line {line} must name features, separated by commas; it names none of the model's");
        return Err(DecodeError::malformed(problem));
    }
    for (column, feature) in signature.features.iter().enumerate() {
        if !rows.seen[column] && feature.default.is_none() {
            rows.fault(feature.name.clone(), "its name in the first line".to_owned(), "nothing".to_owned());
        }
    }
    if rows.details.is_empty() {
        return Ok(columns);
    }
    let mut details = std::mem::take(&mut rows.details);
    details.iter_mut().for_each(|detail| detail.line = Some(line));
    Err(DecodeError::Invalid(details))
}

/// Whether there was another record. Bytes in memory, read as records of any length, do not fail.
fn read(reader: &mut csv::Reader<&[u8]>, record: &mut ByteRecord) -> bool {
    reader.read_byte_record(record).expect("bytes in memory can be read")
}

/// The line, counted from 1, on which `record` begins. The reader's own count stands before the blank lines, and within
/// CRLF, that it passes over on its way to a record.
fn line_of(body: &[u8], record: &ByteRecord) -> usize {
    let from = record.position().map_or(0, |position| position.byte() as usize).min(body.len());
    let blank = body[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    1 + body[..from + blank].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Detail;
    use crate::wire::test_signatures::{matrix, shipped};

    const HEADER: &str = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)";

    fn iris(body: &str) -> Result<Array2<f32>, DecodeError> {
        decode(&shipped("iris"), body.as_bytes(), true, 100).map(matrix)
    }

    fn faults(body: &str) -> Vec<(usize, Option<usize>, String, String)> {
        let faults = |Detail { row, line, feature, got, .. }| (row, line, feature, got);
        match iris(body) {
            Err(DecodeError::Invalid(details)) => details.into_iter().map(faults).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_first_line_that_names_a_feature_is_no_row() {
        assert!(names_columns(&shipped("iris"), b"\xef\xbb\xbfsepal length (cm),colour\n1,2\n"));
        assert!(!names_columns(&shipped("iris"), b"5.1,3.5,1.1,0.2\n"));
        assert!(!names_columns(&shipped("pred-main"), b"M,300.1,310.1,1503,40.1,108\n"));
        assert!(!names_columns(&shipped("iris"), b""));
    }

    #[test]
    fn a_table_gives_its_rows_in_whatever_order_its_columns_stand() {
        let expected = ndarray::array![[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.0, 1.8]];
        for body in [
            format!("{HEADER}\n5.1,3.5,1.1,0.2\n6.3,2.9,6,1.8\n"),
            format!("{HEADER}\r\n5.1,3.5,1.1,0.2\r\n\r\n6.3,2.9,6,1.8"),
            format!("\u{feff}{HEADER}\n\"5.1\", 3.5 ,1.1,2e-1\n6.3,2.9,6.0,1.8\n"),
            "petal width (cm),\"sepal length (cm)\", petal length (cm),sepal width (cm)\n.2,5.1,1.1,3.5\n1.8,6.3,6,2.9"
                .to_owned(),
        ] {
            assert_eq!(iris(&body).unwrap(), expected, "{body}");
        }
        let bare = b"5.1,3.5,1.1,0.2\n6.3,2.9,6,1.8\n";
        assert_eq!(decode(&shipped("iris"), bare, false, 2).map(matrix).unwrap(), expected);
    }

    #[test]
    fn a_category_is_its_text() {
        let names =
            "type,air temperature [K],process temperature [K],rotational speed [rpm],torque [Nm],tool wear [min]";
        let row = |kind: &str| {
            decode(&shipped("pred-main"), format!("{names}\n{kind},300,310,1500,40,0").as_bytes(), true, 1)
        };
        assert_eq!(matrix(row("H").unwrap())[[0, 0]], 2.0);
        assert_eq!(matrix(row("\"L\"").unwrap())[[0, 0]], 0.0);
        let Err(DecodeError::Invalid(details)) = row("1") else { panic!("1 was taken") };
        assert_eq!((details[0].expected.as_str(), details[0].got.as_str()), ("one of L, M, H", "the text \"1\""));
    }

    #[test]
    fn every_fault_names_its_row_line_and_feature() {
        let width = || "petal width (cm)".to_owned();
        let at = |row, line, feature: String, got: &str| (row, Some(line), feature, got.to_owned());
        for end in ["\n", "\r\n"] {
            let body = format!("{HEADER}|1,2,3,4||\"1\",2,3,x|1,2,3|1,2,3,|1,2,3,4,5|").replace('|', end);
            let expected = [
                at(1, 4, width(), "the text \"x\""),
                at(2, 5, width(), "nothing"),
                at(3, 6, width(), "nothing"),
                at(4, 7, "[4]".to_owned(), "5 cells"),
            ];
            assert_eq!(faults(&body), expected);
        }
        assert_eq!(faults(&format!("{HEADER}\n1,2,3,NaN")), [at(0, 2, width(), "NaN")]);
        assert_eq!(faults(&format!("\n{HEADER},{HEADER}\n1")).len(), 4);
        let misspelt = HEADER.replace("petal width", "petal wdith");
        let expected = [at(0, 1, "petal wdith (cm)".to_owned(), "an unknown feature"), at(0, 1, width(), "nothing")];
        assert_eq!(faults(&format!("{misspelt}\n1,2,3,4\n1,2,3,x\n")), expected);
        let body = [HEADER.as_bytes(), b"\n1,2,3,\xff"].concat();
        let Err(DecodeError::Invalid(details)) = decode(&shipped("iris"), &body, true, 1) else { panic!("taken") };
        assert_eq!(details[0].got, "bytes that are not UTF-8");
    }

    #[test]
    fn what_is_no_table_of_the_models_features_is_malformed() {
        for body in ["", "\n\n", HEADER, "1,2,3,4\n1,2,3,4", "{\"sepal length (cm)\": 5.1}"] {
            assert!(matches!(iris(body), Err(DecodeError::Malformed { .. })), "{body}: {:?}", iris(body));
        }
        let many = format!("{HEADER}\n{}", "1,2,3,4\n".repeat(101));
        assert_eq!(iris(&many), Err(DecodeError::TooManyRows { rows_max: 100 }));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200), has_header: bool) {
            let _ = decode(&shipped("iris"), &body, has_header, 3);
        }

        #[test]
        fn no_almost_right_body_makes_the_decoder_panic(rows in "[0-9,.\"\r\n -]{0,60}") {
            let _ = iris(&format!("{HEADER}{rows}"));
        }

        #[test]
        fn a_fault_is_on_the_line_where_an_editor_shows_it(before in 0_usize..20, crlf: bool) {
            let end = if crlf { "\r\n" } else { "\n" };
            let body = format!("{HEADER}{end}{}1,2,3,x{end}", format!("1,2,3,4{end}").repeat(before));
            prop_assert_eq!(faults(&body)[0].1, Some(before + 2));
        }
    }
}
