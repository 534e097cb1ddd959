//! Medians with their spread, and means of ratios.

use serde::{Deserialize, Serialize};

/// The median of some values, and the smallest and largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many values there were.
    pub(crate) count: usize,
}

impl Spread {
    /// `None` without values. Values are finite.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
            count: values.len(),
        })
    }
}

/// The geometric mean of ratios; `None` without any, or if one is not above 0.
pub(crate) fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sum = 0.0;
    let mut count = 0_u32;
    for ratio in ratios {
        if !(ratio > 0.0 && ratio.is_finite()) {
            return None;
        }
        sum += ratio.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// What a ratio of new to old saves, in percent; negative if it costs.
pub(crate) fn reduction_percent(ratio: f64) -> f64 {
    (1.0 - ratio) * 100.0
}

/// A ratio; `None` if what it is taken of is not above 0.
pub(crate) fn ratio(new: f64, old: f64) -> Option<f64> {
    (old > 0.0).then(|| new / old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_even_and_odd_counts() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn geometric_means() {
        let mean = geometric_mean([0.5, 2.0]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12);
        let mean = geometric_mean([0.1, 0.1, 0.1]).unwrap();
        assert!((reduction_percent(mean) - 90.0).abs() < 1e-9);
        assert_eq!(geometric_mean([]), None);
        assert_eq!(geometric_mean([1.0, 0.0]), None);
        assert_eq!(geometric_mean([1.0, f64::NAN]), None);
        assert_eq!(ratio(1.0, 0.0), None);
    }
}
