//! Records in which nothing is unusual: every feature in the model's order, as a program writes them.
//!
//! That is what nearly all bodies are, so they are read in one pass against what each feature's name looks like, which costs a
//! tenth of a parser. Whatever is unusual, be it allowed or a fault (another order, a default, an escape, a name that is
//! none), is not read here: [`super::records`] then reads the body with all care, and says what is wrong. So this never
//! decides anything: it accepts nothing that `records` does not, with the same values. Only for models of one float32 matrix.

use mainstay_models::spec::{Domain, Feature};
use ndarray::Array2;

use super::cursor::Cursor;
use crate::rows::{Layout, Rows};

/// Where a body may have its records.
const INSTANCES: &[u8] = b"\"instances\"";
/// What means something else than a feature in a body's object.
const RESERVED: [&str; 2] = ["instances", "parameters"];

/// The features of a model as they look in a body.
#[derive(Debug)]
pub(super) struct Plain(Box<[Field]>);

#[derive(Debug)]
struct Field {
    /// In quotes.
    name: Box<[u8]>,
    /// Its place in a row.
    column: usize,
    /// In quotes, in the order of their indices; none where it is a number.
    categories: Box<[Box<[u8]>]>,
}

impl Plain {
    /// What `features` look like; nothing where that cannot be said, or where they do not lie in one matrix.
    pub(super) fn new(features: &[Feature], layout: &Layout) -> Option<Self> {
        let field = |(index, feature): (usize, &Feature)| {
            let categories = match &feature.domain {
                Domain::Number { .. } => Box::default(),
                Domain::Category(categories) => categories.iter().map(|name| quoted(name)).collect::<Option<_>>()?,
                Domain::Text | Domain::Truth => return None,
            };
            let name = quoted(&feature.name).filter(|_| !RESERVED.contains(&feature.name.as_str()))?;
            Some(Field { name, column: layout.place(index).1, categories })
        };
        layout.is_matrix().then(|| features.iter().enumerate().map(field).collect::<Option<_>>().map(Self))?
    }

    /// The rows of `body`, at most `rows_max` of them; nothing where anything is unusual.
    pub(super) fn decode(&self, body: &[u8], rows_max: usize) -> Option<Rows> {
        let mut cursor = Cursor::new(body);
        let mut values = Vec::new();
        let mut inside = cursor;
        let is_wrapped =
            inside.take(b'{').and_then(|()| inside.literal(INSTANCES)).and_then(|()| inside.take(b':')).is_some();
        if is_wrapped {
            cursor = inside;
        }
        let mut rows = 1;
        if is_wrapped || cursor.next()? == b'[' {
            cursor.take(b'[')?;
            self.row(&mut cursor, &mut values)?;
            while cursor.next()? == b',' {
                cursor.take(b',')?;
                self.row(&mut cursor, &mut values)?;
                rows += 1;
                if rows > rows_max {
                    return None;
                }
            }
            cursor.take(b']')?;
        } else {
            self.row(&mut cursor, &mut values)?;
        }
        if is_wrapped {
            cursor.take(b'}')?;
        }
        let is_whole = cursor.next().is_none() && rows <= rows_max;
        is_whole.then(|| Array2::from_shape_vec((rows, self.0.len()), values).ok().map(Rows::Matrix))?
    }

    /// Appends one record, an object or a list.
    fn row(&self, cursor: &mut Cursor<'_>, values: &mut Vec<f32>) -> Option<()> {
        let is_named = cursor.next()? == b'{';
        cursor.take(if is_named { b'{' } else { b'[' })?;
        let begin = values.len();
        values.resize(begin + self.0.len(), 0.0);
        let row = &mut values[begin..];
        for (index, field) in self.0.iter().enumerate() {
            if index > 0 {
                cursor.take(b',')?;
            }
            if is_named {
                cursor.literal(&field.name)?;
                cursor.take(b':')?;
            }
            row[field.column] = field.value(cursor)?;
        }
        cursor.take(if is_named { b'}' } else { b']' })
    }
}

impl Field {
    #[inline]
    fn value(&self, cursor: &mut Cursor<'_>) -> Option<f32> {
        if self.categories.is_empty() {
            let number = cursor.number()? as f32;
            return number.is_finite().then_some(number);
        }
        self.categories.iter().position(|category| cursor.literal(category).is_some()).map(|index| index as f32)
    }
}

/// A text as JSON has it, where it has it as it is.
fn quoted(text: &str) -> Option<Box<[u8]>> {
    let is_plain = !text.contains(|c: char| c.is_control() || c == '"' || c == '\\');
    is_plain.then(|| format!("\"{text}\"").into_bytes().into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::records;
    use super::super::test_signatures::shipped;
    use super::*;

    const ROWS_MAX: usize = 3;

    fn plain(model: &str, body: &str) -> Option<Rows> {
        shipped(model).plain.as_ref().unwrap().decode(body.as_bytes(), ROWS_MAX)
    }

    const FLOWER: &str =
        r#"{"sepal length (cm)": 5.1, "sepal width (cm)":3.5 ,"petal length (cm)": 1e0, "petal width (cm)": -0}"#;
    const MACHINE: &str = r#"{"type": "M", "air temperature [K]": 300, "process temperature [K]": 310.25,
        "rotational speed [rpm]": 1500, "torque [Nm]": 4.0e+1, "tool wear [min]": 0}"#;

    #[test]
    fn what_programs_write_is_read() {
        let list = "[5.1,3.5,1.0,-0.0]";
        for body in [
            FLOWER.to_owned(),
            format!("[{FLOWER}]"),
            format!(" [\n{FLOWER} ,\r{list}\t]"),
            format!("{{\"instances\": [{list}, {list}, {list}]}}"),
            list.to_owned().replace('[', "[[").replace(']', "]]"),
        ] {
            let rows = plain("iris", &body).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(rows, records::decode_carefully(&shipped("iris"), body.as_bytes(), ROWS_MAX).unwrap());
            let Rows::Matrix(matrix) = rows else { panic!("no matrix") };
            assert!(
                matrix.rows().into_iter().all(|row| row.to_vec() == [5.1, 3.5, 1.0, 0.0] && row[3].is_sign_negative())
            );
        }
        let Some(Rows::Matrix(matrix)) = plain("pred-main", MACHINE) else { panic!("not read") };
        assert_eq!(matrix, ndarray::array![[1.0, 300.0, 310.25, 1500.0, 40.0, 0.0]]);
    }

    #[test]
    fn what_is_unusual_is_left_to_a_parser() {
        for body in [
            "",
            "[]",
            "[[]]",
            "[[1,2,3]]",
            "[[1,2,3,4,5]]",
            "[[1,2,3,4],]",
            "[[1,2,3,4]",
            "[[1,2,3,4]] x",
            "[1,2,3,4]",
            "[[1,2,3,4.]]",
            "[[1,2,3,.4]]",
            "[[1,2,3,04]]",
            "[[1,2,3,+4]]",
            "[[1,2,3,-]]",
            "[[1,2,3,4e]]",
            "[[1,2,3,NaN]]",
            "[[1,2,3,1e39]]",
            "[[1,2,3,1e400]]",
            "[[1,2,3,\"4\"]]",
            "[[1,2,3,null]]",
            "{\"instances\": [[1,2,3,4]]",
            "{\"instances\": [[1,2,3,4]], \"parameters\": {}}",
            "{\"instances\": []}",
            "{\"instances\"",
            "{",
            "[{",
            "[[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4]]",
        ] {
            assert_eq!(plain("iris", body), None, "{body}");
        }
        assert_eq!(plain("iris", &FLOWER.replace("sepal length (cm)", "sepal width (cm)")), None);
        assert_eq!(plain("pred-main", &MACHINE.replace("\"M\"", "\"X\"")), None);
        assert_eq!(plain("pred-main", &MACHINE.replace("\"M\"", "1")), None);
    }

    /// Numbers as programs write them, and as none should.
    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<f64>().prop_map(|number| number.to_string()),
            any::<f32>().prop_map(|number| format!("{number:e}")),
            any::<i64>().prop_map(|number| number.to_string()),
            "-?[0-9]{1,25}(\\.[0-9]{0,25})?([eE][+-]?[0-9]{0,3})?",
        ]
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_parser_reads(
            numbers in proptest::collection::vec(number(), 8),
            named in any::<bool>(),
            cut in proptest::option::of((0_usize..300, "[\\PC]{0,2}")),
        ) {
            let names = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"];
            let row = |numbers: &[String]| {
                let fields = numbers.iter().zip(names).map(|(number, name)| match named {
                    true => format!("\"{name}\": {number}"),
                    false => number.clone(),
                });
                let fields = fields.collect::<Vec<_>>().join(", ");
                if named { format!("{{{fields}}}") } else { format!("[{fields}]") }
            };
            let mut body = format!("[{}, {}]", row(&numbers[..4]), row(&numbers[4..]));
            if let Some((at, text)) = cut
                && at < body.len()
            {
                body.replace_range(at..=at, &text);
            }
            let careful = records::decode_carefully(&shipped("iris"), body.as_bytes(), ROWS_MAX);
            match plain("iris", &body) {
                Some(rows) => prop_assert_eq!(Ok(rows), careful),
                // A body of numbers in the usual form is not left to the parser.
                None => prop_assert!(careful.is_err() || body.contains('"') || !body.starts_with("[["), "{}", body),
            }
        }
    }
}
