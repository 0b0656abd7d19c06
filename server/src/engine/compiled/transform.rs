//! What scores become: probabilities, as ONNX Runtime computes them.

/// What becomes of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    /// In place, of two scores or more.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Self::Softmax => {
                let max = max(scores);
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    *score = (*score - max).exp();
                    sum += *score;
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            Self::SoftmaxZero => {
                let max = max(scores);
                let low = (-max).exp();
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    // ONNX Runtime's idea of zero.
                    if *score > 0.000_000_1 || *score < -0.000_000_1 {
                        *score = (*score - max).exp();
                        sum += *score;
                    } else {
                        *score *= low;
                    }
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }
}

fn max(scores: &[f32]) -> f32 {
    scores.iter().fold(f32::MIN, |max, &score| if score > max { score } else { max })
}

pub(super) fn logistic(value: f32) -> f32 {
    let v = 1.0 / (1.0 + (-value.abs()).exp());
    if value < 0.0 { 1.0 - v } else { v }
}

/// ONNX Runtime's approximation of the inverse of the normal distribution.
pub(super) fn probit(value: f32) -> f32 {
    let x = 2.0 * value - 1.0;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let v2 = 1.0 / 0.147 * log;
    std::f32::consts::SQRT_2 * (sign * (-v + (v * v - v2).sqrt()).sqrt())
}

/// Transforms scores that lie `R` apart.
#[inline(always)]
pub(super) fn transform_apart<const R: usize>(transform: Transform, scores: &mut [f32], classes: usize) {
    if R == 1 {
        return transform.apply(&mut scores[..classes]);
    }
    if transform == Transform::None {
        return;
    }
    // Few models have more classes; a longer row is done in the loop's own memory.
    let mut few = [0.0; 64];
    let mut many = Vec::new();
    let row = if classes <= few.len() {
        &mut few[..classes]
    } else {
        many.resize(classes, 0.0);
        many.as_mut_slice()
    };
    for class in 0..classes {
        row[class] = scores[class * R];
    }
    transform.apply(row);
    for class in 0..classes {
        scores[class * R] = row[class];
    }
}
