//! A body of JSON as those readers go over it that read only what is usual: each step takes what is expected, or nothing.
//!
//! What is taken is JSON and means what a parser of JSON would say; much of what JSON allows is not taken.

/// A number of so many digits or fewer is a float64, and so is a power of ten that brings them behind the point: one division
/// gives the float64 that is nearest to a decimal fraction.
const DIGITS_MAX: usize = 15;
const POWERS_OF_TEN: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The most digits of a count.
const COUNT_DIGITS_MAX: usize = 9;

/// What is left of a body.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    pub(super) fn new(body: &'b [u8]) -> Self {
        Self(body)
    }

    /// How many bytes are left.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The next byte that is no space.
    #[inline]
    pub(super) fn next(&mut self) -> Option<u8> {
        loop {
            match *self.0.first()? {
                b' ' | b'\n' | b'\r' | b'\t' => self.0 = &self.0[1..],
                byte => return Some(byte),
            }
        }
    }

    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> Option<()> {
        let is_next = self.next()? == byte;
        is_next.then(|| self.0 = &self.0[1..])
    }

    // Where the length is known, so is how to compare.
    #[inline(always)]
    pub(super) fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.next()?;
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    /// What is between two quotation marks, where nothing in it means anything else.
    pub(super) fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.word()?).ok()
    }

    /// The same as bytes, for who compares it with a text: bytes that are none are equal to none.
    #[inline]
    pub(super) fn word(&mut self) -> Option<&'b [u8]> {
        self.take(b'"')?;
        let end = self.0.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..b' '))?;
        let (word, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        Some(word)
    }

    /// A count of few digits.
    pub(super) fn count(&mut self) -> Option<usize> {
        self.next()?;
        let (count, end) = digits(self.0, 0, 0);
        let is_odd = end == 0 || end > COUNT_DIGITS_MAX || end > 1 && self.0[0] == b'0';
        if is_odd || matches!(self.0.get(end), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.0 = &self.0[end..];
        usize::try_from(count).ok()
    }

    /// A number as JSON writes it, to the nearest float64.
    #[inline]
    pub(super) fn number(&mut self) -> Option<f64> {
        self.next()?;
        let text = self.0;
        let is_negative = text.first() == Some(&b'-');
        let first = usize::from(is_negative);
        let (mantissa, point) = digits(text, first, 0);
        let whole = point - first;
        if whole == 0 || whole > 1 && text[first] == b'0' {
            return None;
        }
        let (mut mantissa, mut end, mut fraction) = (mantissa, point, 0);
        if text.get(point) == Some(&b'.') {
            (mantissa, end) = digits(text, point + 1, mantissa);
            fraction = end - point - 1;
            if fraction == 0 {
                return None;
            }
        }
        let has_exponent = matches!(text.get(end), Some(b'e' | b'E'));
        if has_exponent {
            let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
            let from = end + 1 + sign;
            end = digits(text, from, 0).1;
            if end == from {
                return None;
            }
        }
        self.0 = &text[end..];
        if has_exponent || whole + fraction > DIGITS_MAX {
            return std::str::from_utf8(&text[..end]).ok()?.parse().ok();
        }
        let value = mantissa as f64 / POWERS_OF_TEN[fraction];
        Some(if is_negative { -value } else { value })
    }
}

/// The digits of `text` from `at` on, appended to `mantissa`, and where they end. Of more than a `u64` holds, the end alone is right.
#[inline]
fn digits(text: &[u8], mut at: usize, mut mantissa: u64) -> (u64, usize) {
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(digit.into());
        at += 1;
    }
    (mantissa, at)
}
