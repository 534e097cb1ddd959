//! Samples of one link, guest and scheme together: medians with their spread.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    network::LinkName,
    results::{Came, Manifest, Sample},
    statistics::Spread,
};

/// Where schemes are compared with each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct CellKey {
    pub(crate) link: LinkName,
    pub(crate) guest: String,
}

impl CellKey {
    pub(crate) fn describe(&self) -> String {
        format!("{} {}", self.link, self.guest)
    }
}

/// What a scheme did there. Spreads are of the migrations that moved.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) samples: usize,
    pub(crate) moved: usize,
    pub(crate) did_not_converge: usize,
    pub(crate) total_time_ms: Option<Spread>,
    /// As the link counted them, both ways.
    pub(crate) sent_bytes: Option<Spread>,
    pub(crate) downtime_ms: Option<Spread>,
    pub(crate) reported_downtime_ms: Option<Spread>,
    pub(crate) guest_silence_ms_max: Option<Spread>,
    pub(crate) recovered_90_percent_s: Option<Spread>,
    pub(crate) speed_during: Option<Spread>,
}

impl Figures {
    fn of(samples: &[&Sample]) -> Self {
        let came = |what| samples.iter().filter(|sample| sample.came == what).count();
        let moved: Vec<_> = samples
            .iter()
            .filter(|sample| sample.came == Came::Moved)
            .collect();
        let spread = |value: &dyn Fn(&Sample) -> Option<f64>| {
            let values = moved.iter().filter_map(|sample| value(sample));
            Spread::of(values.filter(|value| value.is_finite()))
        };
        Self {
            samples: samples.len(),
            moved: moved.len(),
            did_not_converge: came(Came::DidNotConverge),
            total_time_ms: spread(&|sample| Some(sample.total_time_ms)),
            sent_bytes: spread(&|sample| Some(sample.link_bytes.sum() as f64)),
            downtime_ms: spread(&|sample| sample.fared.downtime_ms),
            reported_downtime_ms: spread(&|sample| sample.reported_downtime_ms),
            guest_silence_ms_max: spread(&|sample| sample.fared.guest_silence_ms_max),
            recovered_90_percent_s: spread(&|sample| sample.fared.recovered_90_percent_s),
            speed_during: spread(&|sample| sample.fared.speed_during),
        }
    }

    /// Whether it moved every time.
    pub(crate) fn converges(&self) -> bool {
        self.moved > 0 && self.moved == self.samples
    }

    /// For people.
    pub(crate) fn moved_of(&self) -> String {
        match self.did_not_converge {
            0 => format!("{}/{}", self.moved, self.samples),
            _ => format!("{}/{} NC", self.moved, self.samples),
        }
    }
}

/// All figures of an experiment.
pub(crate) struct Table {
    figures: BTreeMap<CellKey, BTreeMap<String, Figures>>,
    /// Schemes in the order in which they are shown.
    order: Vec<String>,
}

impl Table {
    pub(crate) fn of(manifest: &Manifest, samples: &[Sample]) -> Self {
        let order: Vec<String> = manifest.scheme_names().map(str::to_owned).collect();
        let mut grouped = BTreeMap::<CellKey, BTreeMap<String, Vec<&Sample>>>::new();
        for sample in samples {
            let key = CellKey {
                link: sample.link,
                guest: sample.guest.clone(),
            };
            let cell = grouped.entry(key).or_default();
            cell.entry(sample.scheme.clone()).or_default().push(sample);
        }
        let of_cell = |cell: BTreeMap<String, Vec<&Sample>>| {
            let each = cell
                .into_iter()
                .map(|(scheme, samples)| (scheme, Figures::of(&samples)));
            each.collect()
        };
        let figures = grouped
            .into_iter()
            .map(|(key, cell)| (key, of_cell(cell)))
            .collect();
        Self { figures, order }
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &CellKey> {
        self.figures.keys()
    }

    pub(crate) fn get(&self, cell: &CellKey, scheme: &str) -> Option<&Figures> {
        self.figures.get(cell)?.get(scheme)
    }

    /// The schemes that were measured in a cell, in their order.
    pub(crate) fn schemes(&self, cell: &CellKey) -> impl Iterator<Item = (&String, &Figures)> {
        let figures = self.figures.get(cell);
        let order = self.order.iter();
        order.filter_map(move |scheme| Some((scheme, figures?.get(scheme)?)))
    }

    /// The other scheme that was measured in most cells with this one; of several the first.
    pub(crate) fn rival_of(&self, own: &str) -> Option<&str> {
        let shared = |scheme: &str| {
            let cells = self.figures.values();
            let both = cells.filter(|cell| cell.contains_key(own) && cell.contains_key(scheme));
            both.count()
        };
        let others = self.order.iter().map(String::as_str);
        let others = others.filter(|scheme| *scheme != own && shared(scheme) > 0);
        // Of equals `max_by_key` takes the last.
        others.rev().max_by_key(|scheme| shared(scheme))
    }

    /// All of it, cell by cell.
    pub(crate) fn rows(&self) -> impl Iterator<Item = ((&CellKey, &String), &Figures)> {
        let cells = self.cells();
        cells.flat_map(|cell| {
            self.schemes(cell)
                .map(move |(scheme, figures)| ((cell, scheme), figures))
        })
    }

    /// The same for programs.
    pub(super) fn listed(&self) -> Vec<Value> {
        let rows = self.rows().map(|((cell, scheme), figures)| {
            let mut row = json!(figures);
            row["link"] = json!(cell.link);
            row["guest"] = json!(cell.guest);
            row["scheme"] = json!(scheme);
            row
        });
        rows.collect()
    }
}

/// What is compared as a ratio of medians.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Data,
    TotalTime,
    Downtime,
    Silence,
}

impl Measure {
    fn of(self, figures: &Figures) -> Option<f64> {
        let spread = match self {
            Self::Data => figures.sent_bytes,
            Self::TotalTime => figures.total_time_ms,
            Self::Downtime => figures.downtime_ms,
            Self::Silence => figures.guest_silence_ms_max,
        };
        spread.map(|spread| spread.median)
    }

    /// The ratio of one scheme to another in a cell; `None` unless both moved every time.
    pub(crate) fn ratio(self, new: Option<&Figures>, old: Option<&Figures>) -> Option<f64> {
        let value =
            |figures: Option<&Figures>| self.of(figures.filter(|figures| figures.converges())?);
        crate::statistics::ratio(value(new)?, value(old)?)
    }
}
