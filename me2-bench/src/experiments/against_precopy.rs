//! me2 against plain pre-copy by itself; and that pre-copy against QEMU's.

use std::time::Duration;

use super::{guests::Catalog, options::Me2Args};
use crate::{
    guest::Guest,
    network::LinkName,
    run::{Cell, Order, Plan},
    schemes::{QemuMode, Scheme},
};

/// (i) All memory, raw, stopped by Xen's rule.
pub(crate) const ALL: &str = "me2-precopy-all";
/// (ii) The same without zero and untouched pages.
pub(crate) const USEFUL: &str = "me2-precopy-useful";
/// What is measured against these.
pub(crate) const HYBRID: &str = "me2-hybrid";
/// (ii) with QEMU's rule to stop, to be compared with QEMU's.
pub(crate) const PLAIN: &str = "me2-precopy-plain";

const ALL_ARGUMENTS: &str = "--mode precopy --codec raw --without holes --stop-below-pages 50";
const USEFUL_ARGUMENTS: &str =
    "--mode precopy --without rle,delta,duplicates,zstd --stop-below-pages 50";
const PLAIN_ARGUMENTS: &str =
    "--mode precopy --without rle,delta,duplicates,zstd --downtime-limit 300ms";

const WORKLOADS: [&str; 5] = ["idle", "kv", "stream", "churn", "graph"];
const WORKLOADS_QUICK: [&str; 2] = ["kv", "graph"];
/// Guests for which pre-copy converges by a downtime limit.
const CHECKED: [&str; 2] = ["idle", "calm"];
const CHECKED_QUICK: [&str; 1] = ["calm"];

pub(super) fn plan(args: &Me2Args, catalog: &mut Catalog) -> anyhow::Result<Plan> {
    let common = &args.common;
    let (workloads, checked) = match common.quick {
        true => (&WORKLOADS_QUICK[..], &CHECKED_QUICK[..]),
        false => (&WORKLOADS[..], &CHECKED[..]),
    };
    let compared = [
        Scheme::me2(ALL, ALL_ARGUMENTS),
        Scheme::me2(USEFUL, USEFUL_ARGUMENTS),
        hybrid(),
    ];
    let check = [
        Scheme::me2(PLAIN, PLAIN_ARGUMENTS),
        Scheme::qemu(QemuMode::Precopy),
    ];
    let mut sets = vec![(args.workloads(workloads), &compared[..])];
    if !args.no_baseline_check {
        sets.push((checked.to_vec(), &check[..]));
    }
    let mut cells = Vec::new();
    for (names, schemes) in sets {
        for name in names {
            let guest = catalog.guest(name, args.memory())?;
            for link in common.links(&[LinkName::A, LinkName::B]) {
                let wanted = schemes.iter().filter(|scheme| common.wants(&scheme.name));
                cells.extend(wanted.map(|scheme| cell(link, &guest, scheme)));
            }
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

/// me2 as it is without any argument.
pub(super) fn hybrid() -> Scheme {
    Scheme::me2(HYBRID, "--mode hybrid")
}

/// With time for four times the memory: Xen's rule ends at three.
pub(super) fn cell(link: LinkName, guest: &Guest, scheme: &Scheme) -> Cell {
    let rate = link
        .rate()
        .filter(|rate| *rate > 0)
        .unwrap_or(1_000_000_000);
    let once = Duration::from_secs(guest.memory_bytes * 8 / rate);
    Cell {
        link,
        guest: guest.clone(),
        scheme: scheme.clone(),
        time_limit: Duration::from_secs(60) + 4 * once,
    }
}
