//! A record in the query of a URL or in a form's body: the dialect of a browser's address bar and of an HTML form.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{DecodeError, RowsBuilder, Signature};
use crate::rows::{Cell, Rows};

/// The one row that `query` (without `?`) asks about.
///
/// `version` is the one reserved name; every other parameter is a feature, its value written as a person writes it.
pub fn decode(signature: &Signature, query: &str) -> Result<Rows, DecodeError> {
    row_of(signature, parameters(query).filter(|(name, _)| name != "version"))
}

/// The one row that the form `body` (`application/x-www-form-urlencoded`) asks about; every field is a feature.
pub fn decode_form(signature: &Signature, body: &[u8]) -> Result<Rows, DecodeError> {
    let body = std::str::from_utf8(body);
    let body = body.map_err(|_| DecodeError::malformed("the form in the body is not UTF-8"))?;
    row_of(signature, parameters(body))
}

fn row_of<'q>(
    signature: &Signature,
    fields: impl Iterator<Item = (Cow<'q, str>, Cow<'q, str>)>,
) -> Result<Rows, DecodeError> {
    let mut rows = RowsBuilder::new(signature, 1);
    rows.begin_row();
    for (name, value) in fields {
        let feature = signature.column_of.get(name.as_ref()).map(|&column| &signature.features[column]);
        // A form sends its empty fields too.
        if value.is_empty() && feature.is_some_and(|feature| feature.default.is_some()) {
            continue;
        }
        let cell = feature.map_or(Cell::Text(&value), |feature| Cell::written(&value, feature));
        rows.set_named(&name, &cell);
    }
    rows.end_row();
    rows.finish()
}

/// The value of the parameter `name`, where the query has it.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    parameters(query).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Names and values of a query, decoded as HTML forms encode them (WHATWG URL, application/x-www-form-urlencoded).
fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_signatures::shipped;

    #[test]
    fn an_address_bar_is_enough() {
        let expected = Rows::Matrix(ndarray::array![[5.1, 3.5, 1.1, 0.2]]);
        for query in [
            "sepal length (cm)=5.1&sepal width (cm)=3.5&petal length (cm)=1.1&petal width (cm)=0.2",
            "sepal+length+%28cm%29=5.1&sepal%20width%20(cm)=3.5&petal+length+(cm)=+1.1&petal+width+(cm)=.2&version=1.0.0&",
        ] {
            assert_eq!(decode(&shipped("iris"), query).unwrap(), expected);
        }
        assert_eq!(parameter("a=1&version=1.0.0%2Dx", "version").as_deref(), Some("1.0.0-x"));
        assert_eq!(parameter("a=1", "version"), None);
    }

    #[test]
    fn a_form_is_a_row_in_the_body() {
        let body = b"sepal+length+%28cm%29=5.1&sepal+width+%28cm%29=3.5&petal+length+%28cm%29=1.1&petal+width+(cm)=0.2";
        assert_eq!(decode_form(&shipped("iris"), body).unwrap(), Rows::Matrix(ndarray::array![[5.1, 3.5, 1.1, 0.2]]));
        let with_version = [&body[..], b"&version=1.0.0"].concat();
        let Err(DecodeError::Invalid(details)) = decode_form(&shipped("iris"), &with_version) else {
            panic!("a version in the body was passed over")
        };
        assert_eq!(details[0].feature, "version");
        assert!(matches!(decode_form(&shipped("iris"), b"a=\xff"), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn what_is_no_number_is_named() {
        let base = "sepal length (cm)=5.1&sepal width (cm)=3.5&petal length (cm)=1.1&petal width (cm)=";
        for (value, got) in
            [("NaN", "NaN"), ("inf", "inf"), ("1e39", ""), ("x", "the text \"x\""), ("", "the text \"\"")]
        {
            let Err(DecodeError::Invalid(details)) = decode(&shipped("iris"), &format!("{base}{value}")) else {
                panic!("{value} was taken")
            };
            assert_eq!(details[0].feature, "petal width (cm)");
            assert!(got.is_empty() || details[0].got == got, "{details:?}");
        }
        let Err(DecodeError::Invalid(details)) = decode(&shipped("iris"), "") else { panic!("nothing was taken") };
        assert_eq!(details.len(), 4);
    }

    proptest! {
        #[test]
        fn no_query_makes_the_decoder_panic(query in "\\PC{0,60}") {
            let _ = decode(&shipped("iris"), &query);
        }
    }
}
