//! Hybrid me2 and its rival over round trips, rates and losses.

use std::collections::BTreeMap;

use super::{Quantity, numbers::number};
use crate::{
    experiments::{HYBRID, RATES_MBIT},
    network::LinkLoss,
    statistics::Spread,
    summary::Table,
};

/// Values of one scheme by round trip, in the unit of the plot; `None`: it did not move every time.
pub(crate) type Series = BTreeMap<u32, Option<Spread>>;

/// What small multiples show: a panel for each loss and rate.
pub(crate) struct Sweep {
    pub(crate) rival: String,
    pub(crate) rates_mbit: Vec<u32>,
    pub(crate) losses: Vec<LinkLoss>,
    pub(crate) round_trips_ms: Vec<u32>,
    /// Of all panels; above 0.
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Of hybrid, and of its rival.
    pub(crate) panels: BTreeMap<(LinkLoss, u32), [Series; 2]>,
}

impl Sweep {
    /// `None` without anything to show.
    pub(crate) fn of(quantity: &Quantity, table: &Table, guest: &str) -> Option<Self> {
        let rival = table.rival_of(HYBRID)?;
        let panels = panels(quantity, table, guest, [HYBRID, rival]);
        let mut rates_mbit: Vec<u32> = panels.keys().map(|(_, rate)| *rate).collect();
        rates_mbit.sort_unstable();
        rates_mbit.dedup();
        let mut losses: Vec<LinkLoss> = panels.keys().map(|(loss, _)| *loss).collect();
        losses.dedup();
        let mut round_trips_ms = Vec::new();
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for (rtt_ms, spread) in panels.values().flatten().flatten() {
            round_trips_ms.push(*rtt_ms);
            if let Some(spread) = spread {
                min = min.min(spread.min);
                max = max.max(spread.max);
            }
        }
        round_trips_ms.sort_unstable();
        round_trips_ms.dedup();
        (min > 0.0 && max > 0.0 && min.is_finite() && max.is_finite()).then(|| Self {
            rival: rival.to_owned(),
            rates_mbit,
            losses,
            round_trips_ms,
            min,
            max,
            panels,
        })
    }

    /// Where a round trip lies between the shortest and the longest, logarithmically.
    pub(crate) fn part(&self, rtt_ms: u32) -> f64 {
        let [first, .., last] = self.round_trips_ms[..] else {
            return 0.5;
        };
        let of = |ms: u32| f64::from(ms.max(1)).ln();
        (of(rtt_ms) - of(first)) / (of(last) - of(first)).max(f64::MIN_POSITIVE)
    }
}

fn panels(
    quantity: &Quantity,
    table: &Table,
    guest: &str,
    schemes: [&str; 2],
) -> BTreeMap<(LinkLoss, u32), [Series; 2]> {
    let mut panels = BTreeMap::<(LinkLoss, u32), [Series; 2]>::new();
    for cell in table.cells().filter(|cell| cell.guest == guest) {
        let parameters = cell.link.parameters();
        let Some(link) = parameters.filter(|link| RATES_MBIT.contains(&link.rate_mbit)) else {
            continue;
        };
        let panel = panels.entry((link.loss, link.rate_mbit)).or_default();
        for (series, scheme) in panel.iter_mut().zip(schemes) {
            if let Some(figures) = table.get(cell, scheme) {
                let spread = quantity.spread(figures).filter(|_| figures.converges());
                series.insert(link.rtt_ms, spread);
            }
        }
    }
    panels
}

/// For people.
pub(crate) fn loss_told(loss: LinkLoss) -> String {
    let percent = number(f64::from(loss.ppm()) / 1e4);
    match loss {
        LinkLoss::NONE => "no loss".to_owned(),
        LinkLoss::Random { .. } => format!("{percent}% lost"),
        LinkLoss::Bursts { .. } => format!("{percent}% lost in bursts"),
    }
}
