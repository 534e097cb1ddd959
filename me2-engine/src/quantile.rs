//! A histogram of durations with bounded memory: 8 buckets an octave, so 9% wide.

/// Counts of durations in microseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

/// Buckets of an octave.
const PER_OCTAVE: u64 = 8;

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; 64 * PER_OCTAVE as usize],
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, micros: u64) {
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(micros);
        self.max = self.max.max(micros);
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all, in microseconds.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Durations of less than so many microseconds; exact for powers of two, else to within 9%.
    pub fn count_under(&self, micros: u64) -> u64 {
        self.buckets[..bucket(micros)].iter().sum()
    }

    /// The longest, in microseconds; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// All that were counted: for each bucket that is not empty the longest duration that it is for,
    /// ascending, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.buckets.iter().enumerate();
        let filled = all.filter(|(_, count)| **count > 0);
        filled.map(|(index, count)| (upper_edge(index).min(self.max), *count))
    }

    /// The duration that `quantile` (0 to 1) of all do not exceed, to within 9%; 0 if there is none.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max);
            }
        }
        0
    }
}

fn bucket(micros: u64) -> usize {
    if micros < PER_OCTAVE {
        return micros as usize;
    }
    let octave = u64::from(micros.ilog2());
    let within = micros >> (octave - 3) & (PER_OCTAVE - 1);
    ((octave - 2) * PER_OCTAVE + within) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PER_OCTAVE {
        return bucket;
    }
    let (octave, within) = (bucket / PER_OCTAVE + 2, bucket % PER_OCTAVE);
    // Written so that the last bucket does not overflow.
    ((PER_OCTAVE + within) << (octave - 3)) + ((1 << (octave - 3)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|micros| histogram.record(micros));
        for (quantile, exact) in [(0.5, 5000.0), (0.99, 9900.0)] {
            let found = histogram.quantile(quantile) as f64;
            assert!(
                (exact..exact * 1.13).contains(&found),
                "{quantile}: {found}"
            );
        }
        assert_eq!(
            (histogram.max(), histogram.count(), histogram.quantile(1.0)),
            (10_000, 10_000, 10_000)
        );
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }

    #[test]
    fn counts_are_exact_at_powers_of_two() {
        let mut histogram = Histogram::default();
        (0..4096).for_each(|micros| histogram.record(micros));
        for edge in (0..12).map(|bit| 1 << bit) {
            assert_eq!(histogram.count_under(edge), edge);
        }
        assert_eq!(histogram.count_under(0), 0);
    }

    #[test]
    fn buckets_hold_all_and_ascend() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.buckets().count(), 0);
        for micros in [3, 3, 100, 101, 5000] {
            histogram.record(micros);
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(3, 2), (103, 2), (5000, 1)]);
        (0..64).for_each(|bit| histogram.record(1 << bit));
        let edges = || histogram.buckets().map(|(edge, _)| edge);
        assert!(edges().is_sorted_by(|one, next| one < next));
        assert_eq!(edges().last(), Some(1 << 63));
        let counted: u64 = histogram.buckets().map(|(_, count)| count).sum();
        assert_eq!(counted, histogram.count());
    }

    #[test]
    fn every_value_has_a_bucket() {
        let mut histogram = Histogram::default();
        for value in (0..64).map(|bit| 1u64 << bit).chain([0, u64::MAX]) {
            histogram.record(value);
            assert!(upper_edge(bucket(value)) >= value);
        }
    }
}
