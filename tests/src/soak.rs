//! A VM that moves on and on, and what its process holds: nothing may grow.

use serde::Serialize;

use crate::{Bench, Guest, Usage, Vm};

/// By then everything that is made once has been made.
const SETTLED_AFTER: usize = 3;
/// Moves looked at together, at the beginning and at the end: the least of each count, since what
/// an allocator keeps varies.
const WINDOW: usize = 5;
/// The fewest moves that say something.
pub const MOVES_MIN: usize = SETTLED_AFTER + 2 * WINDOW;

/// What many moves left behind.
#[derive(Debug, Serialize)]
pub struct Soak {
    /// 1.
    pub schema_version: u32,
    /// Moves, each verified, the guest's errors 0.
    pub moves: usize,
    /// What the VM's process held.
    pub held: Vec<Held>,
    /// Sockets that were left in the runtime folder when the VM had ended.
    pub sockets_left: usize,
}

/// One kind of thing that a process holds.
#[derive(Debug, Serialize)]
pub struct Held {
    /// What, with its unit.
    pub what: &'static str,
    /// After the first moves.
    pub at_first: u64,
    /// After the last ones.
    pub at_last: u64,
    /// How much more is no growth.
    pub slack: u64,
}

impl Soak {
    /// Whether nothing is left behind.
    pub fn is_clean(&self) -> bool {
        let has_grown = |held: &Held| held.at_last > held.at_first + held.slack;
        self.sockets_left == 0 && !self.held.iter().any(has_grown)
    }
}

/// Moves a VM so often, from process to process, one after another in each mode of `modes`; `tell`
/// gets the number of each move that was made.
///
/// # Panics
/// If a move does not succeed, the guest finds a wrong byte, or there are fewer than [`MOVES_MIN`].
pub fn run(moves: usize, modes: &[&str], mut tell: impl FnMut(usize)) -> Soak {
    assert!(moves >= MOVES_MIN, "at least {MOVES_MIN} moves");
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("128M", "workload=kv rate=0"));
    vm.wait_ready();
    let mut operations = vm.works();
    let mut usages = Vec::new();
    for (number, mode) in (1..=moves).zip(modes.iter().cycle()) {
        let to = bench.receive();
        let migration = bench.migrate(&vm, to.address(), &["--mode", mode]);
        migration.end().completed();
        operations = vm.moved_to(&to, operations);
        vm = to;
        vm.wait_log("the VM is here, all of it");
        usages.push(vm.usage());
        tell(number);
    }
    let own_socket = format!("{}.sock", vm.name());
    assert_eq!(bench.sockets(), [own_socket], "sockets");
    Vm::stop(vm);
    Soak {
        schema_version: 1,
        moves,
        held: held(&usages),
        sockets_left: bench.sockets().len(),
    }
}

fn held(usages: &[Usage]) -> Vec<Held> {
    let of = |what, slack, value: fn(&Usage) -> u64| {
        let least = |window: &[Usage]| window.iter().map(value).min().expect("not empty");
        Held {
            what,
            at_first: least(&usages[SETTLED_AFTER..][..WINDOW]),
            at_last: least(&usages[usages.len() - WINDOW..]),
            slack,
        }
    };
    vec![
        // A runtime's threads that do blocking work come and go; a few mappings go with each.
        of("threads", 4, |usage| usage.threads as u64),
        of("mappings", 30, |usage| usage.mappings as u64),
        // A connection to the API may not be closed yet.
        of("descriptors", 2, |usage| usage.descriptors as u64),
        of("bytes of guest memory", 1 << 20, |usage| {
            usage.largest_mapping_bytes
        }),
        of("bytes", 16 << 20, |usage| usage.anonymous_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(descriptors: usize) -> Usage {
        Usage {
            descriptors,
            threads: 8,
            anonymous_bytes: 1 << 27,
            resident_bytes: 1 << 27,
            address_bytes: 1 << 30,
            mappings: 100,
            largest_mapping_bytes: 1 << 27,
            large_page_bytes: 0,
        }
    }

    fn soak(usages: &[Usage]) -> Soak {
        Soak {
            schema_version: 1,
            moves: usages.len(),
            held: held(usages),
            sockets_left: 0,
        }
    }

    #[test]
    fn a_descriptor_a_move_is_noticed() {
        let same: Vec<Usage> = (0..20).map(|_| usage(30)).collect();
        assert!(soak(&same).is_clean());
        let more: Vec<Usage> = (0..20).map(|moves| usage(30 + moves)).collect();
        assert!(!soak(&more).is_clean(), "{:?}", soak(&more));
    }
}
