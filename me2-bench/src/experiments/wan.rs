//! me2 and one rival over links of all kinds, within a given time.

use std::time::Duration;

use anyhow::Context;

use super::{
    against_precopy::hybrid,
    guests::Catalog,
    options::{WanArgs, memory},
};
use crate::{
    guest::Guest,
    network::{LinkLoss, LinkName, LinkParameters},
    run::{Cell, Order, Plan},
    schemes::{Programs, QemuMode, Scheme, qemu_version},
};

/// The sweep. Of each axis the values that tell most come first, then what lies between.
const ROUND_TRIPS_MS: [u32; 5] = [100, 1, 200, 20, 50];
pub(crate) const RATES_MBIT: [u32; 3] = [200, 50, 1000];
const LOSSES: [LinkLoss; 4] = [
    LinkLoss::NONE,
    LinkLoss::Random { ppm: 10_000 },
    LinkLoss::Random { ppm: 1000 },
    LinkLoss::Bursts { ppm: 10_000 },
];

/// Links of which more is measured: those with a name, a long one with room for much, a slow one that
/// loses packets in bursts.
const CLOSELY: [LinkName; 5] = [
    LinkName::A,
    LinkName::B,
    LinkName::C,
    LinkName::Other(LinkParameters {
        rtt_ms: 200,
        rate_mbit: 1000,
        loss: LinkLoss::NONE,
    }),
    LinkName::Other(LinkParameters {
        rtt_ms: 50,
        rate_mbit: 50,
        loss: LinkLoss::Bursts { ppm: 10_000 },
    }),
];
/// Those that have targets.
const WITH_TARGETS: [LinkName; 3] = [LinkName::A, LinkName::B, LinkName::C];

const PRECOPY: &str = "me2-precopy";
const POSTCOPY: &str = "me2-postcopy";
const RIVAL: QemuMode = QemuMode::PostcopyPreempt;

const BUDGET_MINUTES: u64 = 60;
const BUDGET_MINUTES_QUICK: u64 = 4;
/// What is given up has had the time for what is filled, so many times.
const TIME_LIMIT: Duration = Duration::from_secs(20);
const TIMES_FILLED_MAX: f64 = 3.0;

/// Of these links those that are looked at closely: the five, or all if there are no more.
pub(crate) fn closely(links: &[LinkName]) -> Vec<LinkName> {
    let is_close = |link: &&LinkName| links.len() <= CLOSELY.len() || CLOSELY.contains(link);
    links.iter().filter(is_close).copied().collect()
}

pub(super) fn plan(args: &WanArgs, catalog: &mut Catalog) -> anyhow::Result<Plan> {
    let common = &args.common;
    let rival = rival(args.rival.as_deref(), &common.programs())?;
    let mut guests = Vec::new();
    for name in &args.guests {
        guests.push(catalog.guest(name, memory(common.quick))?);
    }
    let links = common.links(&match common.quick {
        true => CLOSELY.to_vec(),
        false => sweep(),
    });
    let mut cells = cells(&links, &guests, &rival);
    cells.retain(|cell| common.wants(&cell.scheme.name));
    let default = match common.quick {
        true => BUDGET_MINUTES_QUICK,
        false => BUDGET_MINUTES,
    };
    let minutes = args.budget_minutes.unwrap_or(default);
    Ok(Plan {
        cells,
        runs: common.runs_or(1),
        repeat_under: common.repeat_under(),
        seed: common.seed,
        order: Order::Listed,
        budget: Some(Duration::from_secs(minutes * 60)),
    })
}

/// The one that was asked for. Without a wish QEMU's post-copy, or me2's own where there is no QEMU.
fn rival(asked: Option<&str>, programs: &Programs) -> anyhow::Result<Scheme> {
    let Some(name) = asked else {
        return Ok(match qemu_version(programs) {
            Ok(_) => Scheme::qemu(RIVAL),
            Err(_) => {
                eprintln!("there is no QEMU: the rival is {POSTCOPY}");
                postcopy()
            }
        });
    };
    let known = || QemuMode::ALL.map(Scheme::qemu).into_iter();
    let mut all = known().chain([postcopy(), precopy()]);
    all.find(|scheme| scheme.name == name).with_context(|| {
        let names: Vec<String> = known().map(|scheme| scheme.name).collect();
        let names = names.join(", ");
        format!("no rival called {name}, there are: {names}, {POSTCOPY}, {PRECOPY}")
    })
}

fn precopy() -> Scheme {
    Scheme::me2(PRECOPY, "--mode precopy")
}

fn postcopy() -> Scheme {
    Scheme::me2(POSTCOPY, "--mode postcopy")
}

/// All links: those of the sweep, coarsely first, and those that are looked at closely.
fn sweep() -> Vec<LinkName> {
    let mut links = Vec::new();
    for (round_trip, rtt_ms) in ROUND_TRIPS_MS.into_iter().enumerate() {
        for (rate, rate_mbit) in RATES_MBIT.into_iter().enumerate() {
            for (which, loss) in LOSSES.into_iter().enumerate() {
                let link = LinkName::of(LinkParameters {
                    rtt_ms,
                    rate_mbit,
                    loss,
                });
                links.push((round_trip + rate + which, link));
            }
        }
    }
    links.sort_by_key(|(finely, _)| *finely);
    let mut links: Vec<LinkName> = links.into_iter().map(|(_, link)| link).collect();
    let others = CLOSELY.iter().filter(|link| !links.contains(link));
    links.extend(others.copied().collect::<Vec<_>>());
    links
}

/// What is measured, in the order of its worth; each once.
fn cells(links: &[LinkName], guests: &[Guest], rival: &Scheme) -> Vec<Cell> {
    let mut closely = closely(links);
    // In an order that does not depend on that of the sweep.
    closely.sort();
    let [first, ..] = guests else {
        return Vec::new();
    };
    let ours = std::slice::from_ref(first);
    let with_targets: Vec<LinkName> = closely
        .iter()
        .filter(|link| WITH_TARGETS.contains(link))
        .copied()
        .collect();
    // Who goes first changes from link to link.
    let pair = [hybrid(), rival.clone()];
    let modes = [precopy(), postcopy()];
    let all = [&pair[..], &modes].concat();
    let stages: [(&[LinkName], &[Guest], &[Scheme]); 5] = [
        (&with_targets, guests, &pair[..1]),
        (&closely, ours, &pair),
        (&closely, ours, &modes),
        (links, ours, &pair),
        (&closely, guests, &all),
    ];
    let mut cells: Vec<Cell> = Vec::new();
    for (links, guests, schemes) in stages {
        for guest in guests {
            for (index, link) in links.iter().enumerate() {
                let mut schemes: Vec<&Scheme> = schemes.iter().collect();
                if index % 2 == 1 {
                    schemes.reverse();
                }
                for scheme in schemes {
                    let cell = cell(*link, guest, scheme);
                    if !cells.iter().any(|other| is_same(other, &cell)) {
                        cells.push(cell);
                    }
                }
            }
        }
    }
    cells
}

fn is_same(one: &Cell, other: &Cell) -> bool {
    let key = |cell: &Cell| (cell.link, cell.guest.name.clone(), cell.scheme.name.clone());
    key(one) == key(other)
}

fn cell(link: LinkName, guest: &Guest, scheme: &Scheme) -> Cell {
    let rate = link.rate().unwrap_or(1_000_000_000);
    let once = guest.filled_bytes as f64 * 8.0 / rate as f64;
    Cell {
        link,
        guest: guest.clone(),
        scheme: scheme.clone(),
        time_limit: TIME_LIMIT + Duration::from_secs_f64(once * TIMES_FILLED_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{experiments::HYBRID, units::MIB};

    fn guest(name: &str) -> Guest {
        Guest {
            name: name.into(),
            memory_bytes: 1024 * MIB,
            cpus: 1,
            cmdline: String::new(),
            module: None,
            filled_bytes: 256 * MIB,
            hot_bytes: 0,
            filled_percent_min: 0,
        }
    }

    fn planned(links: &[LinkName], rival: &Scheme) -> Vec<String> {
        let guests = ["mixed", "heavy", "kv"].map(guest);
        let cells = cells(links, &guests, rival);
        cells.iter().map(Cell::describe).collect()
    }

    #[test]
    fn hybrid_and_rival_are_everywhere_and_nothing_twice() {
        let links = sweep();
        // A and C are in it, B is not.
        assert_eq!(links.len(), 5 * 3 * 4 + 1);
        let cells = planned(&links, &Scheme::qemu(RIVAL));
        for link in &links {
            for scheme in [HYBRID, "qemu-postcopy-preempt"] {
                let wanted = format!("{link} mixed {scheme}");
                assert!(cells.contains(&wanted), "{wanted}");
            }
        }
        // On five links: three guests, four schemes.
        assert_eq!(cells.len(), (links.len() - 5) * 2 + 5 * 3 * 4);
        let mut once = cells.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), cells.len());
    }

    #[test]
    fn what_has_targets_comes_first() {
        let cells = planned(&sweep(), &Scheme::qemu(RIVAL));
        let first: Vec<&str> = cells[..9].iter().map(String::as_str).collect();
        assert_eq!(
            first[..4],
            [
                "A mixed me2-hybrid",
                "B mixed me2-hybrid",
                "C mixed me2-hybrid",
                "A heavy me2-hybrid"
            ]
        );
        assert!(first.iter().all(|cell| cell.ends_with(HYBRID)), "{first:?}");
        let at = |wanted: &str| cells.iter().position(|cell| cell == wanted);
        // The ends of the sweep come before what lies between.
        let end = at("rtt200-rate200-loss0 mixed me2-hybrid");
        assert!(end < at("rtt20-rate50-loss0.1 mixed me2-hybrid"));
        assert!(end < at("B heavy me2-precopy"));
    }

    #[test]
    fn a_rival_of_our_own_is_not_measured_twice() {
        let cells = planned(&[LinkName::A], &postcopy());
        let own = cells.iter().filter(|cell| cell.ends_with(POSTCOPY)).count();
        assert_eq!(own, 3, "{cells:?}");
    }

    #[test]
    fn few_links_are_all_looked_at_closely() {
        let few = [LinkName::C, "rtt20-rate50-loss0".parse().unwrap()];
        assert_eq!(closely(&few), few);
        assert_eq!(closely(&sweep()).len(), CLOSELY.len());
    }

    #[test]
    fn only_known_rivals_are_taken() {
        let programs = Programs {
            me2: "me2".into(),
            guest: "guest".into(),
            qemu: "/there/is/no/qemu".into(),
        };
        assert_eq!(rival(None, &programs).unwrap(), postcopy());
        let asked = rival(Some("qemu-hybrid"), &programs).unwrap();
        assert_eq!(asked, Scheme::qemu(QemuMode::Hybrid));
        assert!(rival(Some("xen"), &programs).is_err());
    }
}
