//! me2 against QEMU.

use std::time::Duration;

use super::{against_precopy::hybrid, guests::Catalog, options::QemuArgs};
use crate::{
    network::LinkName,
    run::{Cell, Order, Plan},
    schemes::{QemuMode, Scheme},
};

const GUESTS: [&str; 2] = ["mixed", "heavy"];
const GUESTS_QUICK: [&str; 1] = ["mixed"];
const LINKS: [LinkName; 3] = [LinkName::A, LinkName::B, LinkName::C];
const LINKS_QUICK: [LinkName; 2] = [LinkName::A, LinkName::B];

pub(super) fn plan(args: &QemuArgs, catalog: &mut Catalog) -> anyhow::Result<Plan> {
    let common = &args.common;
    let (guests, links) = match common.quick {
        true => (&GUESTS_QUICK[..], &LINKS_QUICK[..]),
        false => (&GUESTS[..], &LINKS[..]),
    };
    let asked: Vec<&str> = args.guests.iter().map(String::as_str).collect();
    let names = if asked.is_empty() {
        guests.to_vec()
    } else {
        asked
    };
    let mut schemes = vec![hybrid()];
    schemes.extend(QemuMode::ALL.map(Scheme::qemu));
    schemes.retain(|scheme| common.wants(&scheme.name));
    let mut cells = Vec::new();
    for name in names {
        let guest = catalog.guest(name, 0)?;
        for link in common.links(links) {
            let each = schemes.iter().map(|scheme| Cell {
                link,
                guest: guest.clone(),
                scheme: scheme.clone(),
                time_limit: time_limit(link, guest.memory_bytes),
            });
            cells.extend(each);
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

/// What has not converged when the whole memory could have been sent once and a half does not.
fn time_limit(link: LinkName, memory_bytes: u64) -> Duration {
    let rate = link
        .rate()
        .filter(|rate| *rate > 0)
        .unwrap_or(1_000_000_000);
    let once = Duration::from_secs(memory_bytes * 8 / rate);
    Duration::from_secs(15) + once * 3 / 2
}
