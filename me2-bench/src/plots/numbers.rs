//! Round numbers for axes, and numbers for people.

/// Round numbers from 0 to at least `max`: some 4 steps.
pub(crate) fn ticks(max: f64) -> Vec<f64> {
    let rough = (max / 4.0).max(1e-6);
    let power = 10_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = factors
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let count = (max / step).ceil().max(1.0) as u32;
    (0..=count).map(|index| f64::from(index) * step).collect()
}

/// 1, 2 and 5 times powers of ten, from at most `min` to at least `max`, both above 0; powers alone
/// where that would be many. At least two.
pub(crate) fn ticks_of_powers(min: f64, max: f64) -> Vec<f64> {
    const TICKS_MAX: usize = 9;
    let first = min.log10().floor() as i32;
    let last = max.log10().ceil() as i32;
    let within = |factors: &[f64]| {
        let powers = (first..=last).map(|power| 10_f64.powi(power));
        let all: Vec<f64> = powers
            .flat_map(|power| factors.iter().map(move |factor| factor * power))
            .collect();
        let from = all.iter().rposition(|tick| *tick <= min).unwrap_or(0);
        let until = all.iter().position(|tick| *tick >= max);
        let until = until.unwrap_or(all.len() - 1).max(from + 1);
        all[from..=until.min(all.len() - 1)].to_vec()
    };
    let fine = within(&[1.0, 2.0, 5.0]);
    match fine.len() > TICKS_MAX {
        true => within(&[1.0]),
        false => fine,
    }
}

/// A number with as many digits as it needs: 0.25, 3.5, 140.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 1.0 => 2,
        middle if middle < 20.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A measured value, with three digits: 0.25, 7.03, 140.
pub(crate) fn value(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_maximum() {
        assert_eq!(ticks(4.0), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(95.0), [0.0, 25.0, 50.0, 75.0, 100.0]);
        for max in [0.0, 1e-9, 0.3, 7.7, 12345.0] {
            let ticks = ticks(max);
            assert!(ticks.last().is_some_and(|last| *last >= max), "{max}");
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn ticks_of_powers_enclose_what_is_shown() {
        assert_eq!(ticks_of_powers(3.0, 40.0), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(
            ticks_of_powers(30.0, 80_000.0),
            [10.0, 100.0, 1e3, 1e4, 1e5]
        );
        for (min, max) in [(1.0, 1.0), (0.02, 0.03), (999.0, 1001.0), (7.0, 7.0)] {
            let ticks = ticks_of_powers(min, max);
            assert!(ticks.len() >= 2, "{ticks:?}");
            assert!(
                ticks[0] <= min && ticks[ticks.len() - 1] >= max,
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.25, 3.5, 140.4, 2.0].map(number);
        assert_eq!(texts, ["0", "0.25", "3.5", "140", "2"]);
        let texts = [0.0, 7.0, 9.999, 62.64, 717.2].map(value);
        assert_eq!(texts, ["0.00", "7.00", "10.0", "62.6", "717"]);
    }
}
