//! The plot of such an experiment: what has a target, as a part of it.

use std::path::Path;

use super::Kept;
use crate::plots::{Held, draw_held};

pub(super) fn draw(path: &Path, kept: &Kept) -> anyhow::Result<()> {
    let held = kept.cases.iter().flat_map(|case| {
        let told = kept.told(case).into_iter();
        told.filter_map(move |(figure, told)| {
            Some(Held {
                name: format!("{}: {figure}", case.name),
                spread: told.spread,
                target_max: told.target_max.filter(|max| *max > 0.0)?,
            })
        })
    });
    draw_held(path, &held.collect::<Vec<_>>())
}
