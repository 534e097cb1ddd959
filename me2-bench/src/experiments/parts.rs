//! What each part of me2 is worth: switched off in turn, or fixed rather than chosen.

use super::{
    against_precopy::{HYBRID, cell, hybrid},
    guests::Catalog,
    options::Me2Args,
};
use crate::{
    network::LinkName,
    run::{Order, Plan},
    schemes::Scheme,
};

/// As `--without` takes them.
const PARTS: [&str; 9] = [
    "holes",
    "zero",
    "rle",
    "delta",
    "duplicates",
    "zstd",
    "adaptive",
    "heat",
    "probes",
];
/// As `--codec` takes them; the first is me2's own choice.
const CODECS: [&str; 6] = ["auto", "raw", "rle", "zstd:1", "zstd:3", "zstd:9"];
/// The first alone with `--quick`.
const WORKLOADS: [&str; 2] = ["kv", "graph"];
/// Only where there are zeros and repeats it shows what their codecs are worth.
const WORKLOADS_OF_PARTS: [&str; 3] = ["kv", "repeats", "graph"];

/// The scheme that has everything on, and those that have not.
pub(crate) const WHOLE: &str = HYBRID;
/// The codec that is chosen as it goes.
pub(crate) const AUTO: &str = "me2-hybrid-codec-auto";

pub(super) fn ablation(args: &Me2Args, catalog: &mut Catalog) -> anyhow::Result<Plan> {
    let mut schemes = vec![hybrid()];
    schemes.extend(PARTS.map(|part| {
        let arguments = format!("--mode hybrid --without {part}");
        Scheme::me2(&format!("me2-hybrid-without-{part}"), &arguments)
    }));
    let workloads = match args.common.quick {
        true => &WORKLOADS_OF_PARTS[..2],
        false => &WORKLOADS_OF_PARTS[..],
    };
    plan(
        args,
        catalog,
        &[LinkName::A, LinkName::B],
        workloads,
        schemes,
    )
}

pub(super) fn codecs(args: &Me2Args, catalog: &mut Catalog) -> anyhow::Result<Plan> {
    let schemes = CODECS.map(|codec| {
        let name = format!("me2-hybrid-codec-{}", codec.replace(':', "-"));
        Scheme::me2(&name, &format!("--mode hybrid --codec {codec}"))
    });
    let links = [LinkName::A, LinkName::B, LinkName::Unlimited];
    let workloads = match args.common.quick {
        true => &WORKLOADS[..1],
        false => &WORKLOADS[..],
    };
    plan(args, catalog, &links, workloads, schemes.into())
}

fn plan(
    args: &Me2Args,
    catalog: &mut Catalog,
    links: &[LinkName],
    workloads: &[&str],
    schemes: Vec<Scheme>,
) -> anyhow::Result<Plan> {
    let common = &args.common;
    let mut cells = Vec::new();
    for name in args.workloads(workloads) {
        let guest = catalog.guest(name, args.memory())?;
        for link in common.links(links) {
            let wanted = schemes.iter().filter(|scheme| common.wants(&scheme.name));
            cells.extend(wanted.map(|scheme| cell(link, &guest, scheme)));
        }
    }
    Ok(Plan {
        cells,
        runs: common.runs(),
        repeat_under: common.repeat_under(),
        seed: common.seed,
        order: Order::Shuffled,
        budget: None,
    })
}
