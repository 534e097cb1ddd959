//! What is at stake while pages are missing at the destination: told at both ends, and warned of when
//! it takes longer than it should.

use std::time::Instant;

use me2_engine::forecast::Forecast;

use crate::control::types::Risk;

/// Watches the missing pages of one migration, from when its VM runs at the destination.
pub struct RiskWatch {
    begun: Instant,
    forecast: Forecast,
    useful_pages: u64,
    is_late: bool,
}

impl RiskWatch {
    /// Begins with so many pages missing, of those that the VM uses.
    pub fn begin(missing: u64, useful_pages: u64) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            forecast: Forecast::new(begun.elapsed(), missing),
            useful_pages,
            is_late: false,
        }
    }

    /// So many are missing now, and vCPUs wait for so many. `None`: there is no risk any more.
    pub fn observe(&mut self, missing: u64, waiting_pages: Option<u64>) -> Option<Risk> {
        let now = self.begun.elapsed();
        self.forecast.observe(now, missing);
        let expected = self.forecast.left();
        let was_late = std::mem::replace(&mut self.is_late, self.forecast.is_late(now));
        if self.is_late && !was_late {
            tracing::warn!(
                source_only_pages = missing,
                useful_pages = self.useful_pages,
                expected_s = expected.map(|expected| expected.as_secs()),
                "post-copy takes longer than it should: the VM needs both hosts until these pages are there"
            );
        }
        (missing > 0).then(|| Risk {
            source_only_pages: missing,
            useful_pages: self.useful_pages,
            waiting_pages,
            expected_ms: expected.map(|expected| expected.as_millis() as u64),
            is_late: self.is_late,
        })
    }

    /// In words.
    pub fn told(&self, missing: u64) -> String {
        let percent = 100.0 * missing as f64 / self.useful_pages.max(1) as f64;
        format!("{missing} pages ({percent:.1} % of what the VM uses) exist only at the source")
    }
}
