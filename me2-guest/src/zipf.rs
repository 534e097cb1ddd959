//! Zipf-distributed ranks, s = 0.99: the first rank is asked for most, the k-th about k^-0.99 as often.

use crate::Random;

/// Draws ranks from 1 to a fixed number.
///
/// Inverts the continuous distribution with density x^-0.99 between ½ and n + ½ and rounds. Its
/// distribution function is x^0.01 but for scale, so the inverse is a hundredth power: a few
/// multiplications, no table and no logarithm. Ranks are within 10% of the exact Zipf law.
#[derive(Debug, Clone)]
pub struct Zipf {
    ranks: u64,
    low: f64,
    span: f64,
}

impl Zipf {
    /// Ranks 1 to `ranks`, which is not 0.
    pub fn new(ranks: u64) -> Self {
        assert!(ranks > 0, "there must be a rank to draw");
        let low = hundredth_root(0.5);
        Self {
            ranks,
            low,
            span: hundredth_root(ranks as f64 + 0.5) - low,
        }
    }

    /// The next rank.
    pub fn sample(&self, random: &mut Random) -> u64 {
        let uniform = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = (hundredth_power(self.low + uniform * self.span) + 0.5) as u64;
        rank.clamp(1, self.ranks)
    }
}

fn hundredth_power(x: f64) -> f64 {
    let x4 = (x * x) * (x * x);
    let x16 = (x4 * x4) * (x4 * x4);
    let x32 = x16 * x16;
    x32 * x32 * x32 * x4
}

/// By bisection: made once, and there is no mathematics library here.
fn hundredth_root(x: f64) -> f64 {
    let (mut low, mut high) = (0.5, 2.0);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if hundredth_power(middle) < x {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_law() {
        let ranks = 10_000;
        let samples = 2_000_000;
        let zipf = Zipf::new(ranks);
        let mut random = Random::new(1);
        let mut counts = vec![0u32; ranks as usize + 1];
        for _ in 0..samples {
            counts[zipf.sample(&mut random) as usize] += 1;
        }
        let norm: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-0.99)).sum();
        for rank in [1usize, 2, 3, 5, 10, 30, 100] {
            let expected = samples as f64 * (rank as f64).powf(-0.99) / norm;
            let ratio = f64::from(counts[rank]) / expected;
            assert!((0.9..1.1).contains(&ratio), "rank {rank}: {ratio}");
        }
        let tail: u32 = counts[5001..].iter().sum();
        let expected: f64 = (5001..=ranks).map(|rank| (rank as f64).powf(-0.99)).sum();
        let ratio = f64::from(tail) / (samples as f64 * expected / norm);
        assert!((0.95..1.05).contains(&ratio), "tail: {ratio}");
    }

    #[test]
    fn one_rank_and_very_many_stay_in_bounds() {
        let mut random = Random::new(2);
        for ranks in [1, 2, 1 << 40] {
            let zipf = Zipf::new(ranks);
            assert!((0..10_000).all(|_| (1..=ranks).contains(&zipf.sample(&mut random))));
        }
    }
}
