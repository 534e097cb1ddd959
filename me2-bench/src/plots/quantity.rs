//! What is drawn of each scheme, cell by cell.

use crate::{statistics::Spread, summary::Figures};

/// What bars and lines show.
pub(crate) struct Quantity {
    pub(super) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// From the unit of the figures to that of the plot.
    pub(crate) scale: f64,
    pub(crate) of: fn(&Figures) -> Option<Spread>,
}

impl Quantity {
    /// In the unit of the plot.
    pub(crate) fn spread(&self, figures: &Figures) -> Option<Spread> {
        let spread = (self.of)(figures)?;
        Some(Spread {
            median: spread.median * self.scale,
            min: spread.min * self.scale,
            max: spread.max * self.scale,
            count: spread.count,
        })
    }
}

/// What there are bars of, one plot each.
pub(crate) const QUANTITIES: [Quantity; 4] = [
    Quantity {
        file: "total-time.svg",
        title: "Total time of a migration, seconds",
        unit: "s",
        scale: 1e-3,
        of: |figures: &Figures| figures.total_time_ms,
    },
    Quantity {
        file: "data.svg",
        title: "Data on the link, both ways, MiB",
        unit: "MiB",
        scale: 1.0 / (1 << 20) as f64,
        of: |figures: &Figures| figures.sent_bytes,
    },
    Quantity {
        file: "silence.svg",
        title: "Longest silence of the guest around the move, ms",
        unit: "ms",
        scale: 1.0,
        of: |figures: &Figures| figures.guest_silence_ms_max,
    },
    Quantity {
        file: "recovery.svg",
        title: "From the stop until the guest works at 90% of its speed again, seconds",
        unit: "s",
        scale: 1.0,
        of: |figures: &Figures| figures.recovered_90_percent_s,
    },
];

/// The same over round trips.
pub(super) const OVER_ROUND_TRIPS: [Quantity; 4] = [
    Quantity {
        file: "total-time-over-round-trip.svg",
        ..QUANTITIES[0]
    },
    Quantity {
        file: "data-over-round-trip.svg",
        ..QUANTITIES[1]
    },
    Quantity {
        file: "longest-gap-over-round-trip.svg",
        ..QUANTITIES[2]
    },
    Quantity {
        file: "recovery-over-round-trip.svg",
        ..QUANTITIES[3]
    },
];
