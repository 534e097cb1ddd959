//! One case with real processes, and what became of the VM.

use std::{collections::BTreeMap, mem, thread};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::case::{Case, Fault};
use crate::{Bench, Guest, Link, Migration, Usage, Vm, Way, try_until, wait_until};

/// What came of a case. Each is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The VM runs at the destination, all of it.
    Moved,
    /// The same, after `me2 recover`.
    Recovered,
    /// The VM runs on at the source.
    Stayed,
    /// It runs at the source again, as it was when it stopped: by an operator's word that the
    /// destination is dead, which it is.
    TakenBack,
    /// The VM is gone with the process that was killed: it had the only copy of it, or of some pages.
    Died,
}

/// What must never be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "what")]
pub enum Violation {
    /// The VM ran in two processes.
    TwoOwners(String),
    /// The VM runs nowhere, and no process that had the only copy was killed.
    LostVm(String),
    /// The attempt after a failure did not succeed.
    RetryFailed(String),
    /// Anything else: a guest error, a leak, a process that does not answer.
    Other(String),
}

/// Where a case found the migration, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The phase at the source; `end`: the migration was over before.
    pub phase: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether the VM was moved on afterwards.
    pub was_retried: bool,
}

/// A VM that is moved from process to process, case by case.
pub struct Stage {
    bench: Bench,
    vm: Vm,
    /// Bytes of an undisturbed migration, by mode: forth and back.
    traffic: BTreeMap<&'static str, [u64; 2]>,
    /// What the VM's process held after its first failure.
    held: Option<Usage>,
}

/// What a process may hold more after further failures: threads and sockets that are just ending.
const MORE_DESCRIPTORS_MAX: usize = 2;
const MORE_THREADS_MAX: usize = 2;
const MORE_RESIDENT_BYTES_MAX: u64 = 16 << 20;
/// Long enough that an undisturbed migration is over before; shorter than what makes a silent link a
/// broken one.
const TIME_OUT: &str = "3s";

const LOST_ONE_IN: u64 = 20;
const GUEST: &str = "workload=kv fill=16M hot=2M rate=20000";

impl Stage {
    /// Starts a VM, and moves it once in each mode to see what that takes.
    pub fn new(bench: Bench) -> Self {
        let vm = started(&bench);
        let mut stage = Self {
            bench,
            vm,
            traffic: BTreeMap::new(),
            held: None,
        };
        for mode in ["hybrid", "postcopy", "precopy", "stop-and-copy"] {
            let to = stage.bench.receive();
            let link = Link::to(to.address());
            let options = ["--mode", mode];
            let migration = stage.bench.migrate(&stage.vm, link.address(), &options);
            migration.end().completed();
            let bytes = [Way::Forth, Way::Back].map(|way| link.delivered_bytes(way));
            stage.traffic.insert(mode, bytes);
            assert_eq!(stage.take(to), Ok(()), "{mode}");
        }
        stage
    }

    /// Lets a case happen. After a violation the stage must not be used again.
    pub fn play(&mut self, case: &Case) -> Result<Found, Violation> {
        let mut to = self.bench.receive();
        let link = Link::to(to.address());
        let bytes = self.traffic[case.mode][case.way as usize] as f64 * case.share;
        link.cut_after(case.way, bytes as u64);
        let mut options = vec!["--mode", case.mode];
        if case.fault == Fault::TimeOut {
            options.extend(["--timeout", TIME_OUT]);
        }
        let earlier = self.migration();
        let mut migration = self.bench.migrate(&self.vm, link.address(), &options);
        wait_until("cut, or end of the client", || {
            (link.is_cut() || migration.has_ended()).then_some(())
        });
        let phase = match migration.has_ended() {
            true => "end".to_owned(),
            false => {
                let phase = self.phase(&earlier);
                self.inflict(case.fault, &mut to, &link, &mut migration);
                phase
            }
        };
        let outcome = self.settle(case.fault, &mut to)?;
        self.check_one_owner(&to, outcome)?;
        let is_here = matches!(outcome, Outcome::Stayed | Outcome::TakenBack);
        let was_retried = is_here && case.moves_on;
        match outcome {
            Outcome::Moved | Outcome::Recovered => self.take(to)?,
            Outcome::Stayed | Outcome::TakenBack if was_retried => self.retry(to)?,
            Outcome::Stayed | Outcome::TakenBack => self.check_nothing_leaks()?,
            Outcome::Died => self.start_anew(),
        }
        Ok(Found {
            phase,
            outcome,
            was_retried,
        })
    }

    /// The migration that the process tells of: the one under way, or the last one.
    fn migration(&self) -> Value {
        let status = self.vm.try_status();
        status.map_or(Value::Null, |mut status| status["migration"].take())
    }

    fn phase(&self, earlier: &Value) -> String {
        let now = self.migration();
        // The process tells of the one that brought it here, until the next one has begun.
        let has_begun = now["id"] != earlier["id"] || now["phase"] != earlier["phase"];
        let phase = now["phase"].as_str().filter(|_| has_begun);
        phase.unwrap_or("setup").to_owned()
    }

    /// Returns when the migration has come to an end or to a broken link, unless nobody is told.
    fn inflict(&mut self, fault: Fault, to: &mut Vm, link: &Link, migration: &mut Migration) {
        match fault {
            Fault::KillClient => {
                migration.kill();
                return link.mend();
            }
            Fault::Cut | Fault::TimeOut => {
                self.wait_broken(migration);
                return link.mend();
            }
            Fault::KillSource => self.vm.kill(),
            Fault::KillDestination => to.kill(),
            Fault::Silence(time) => thread::sleep(time),
            Fault::FreezeSource(time) => {
                link.mend();
                self.vm.freeze(time);
            }
            Fault::FreezeDestination(time) => {
                link.mend();
                to.freeze(time);
            }
            Fault::Cancel => {
                // Refused where it is too late.
                self.bench.run(&["cancel", "--vm", self.vm.name()]);
            }
            Fault::Lose => link.lose_one_in(LOST_ONE_IN),
        }
        link.mend();
        self.wait_broken(migration);
    }

    /// Waits until the client has ended, or the source has found the link broken.
    fn wait_broken(&self, migration: &mut Migration) {
        wait_until("end of the migration, or a broken link", || {
            let is_over = migration.has_ended() || self.vm_state()? == "postcopy_paused";
            is_over.then_some(())
        });
    }

    fn vm_state(&self) -> Option<String> {
        Some(self.vm.try_status()?["vm_state"].as_str()?.to_owned())
    }

    /// Waits until it is clear where the VM is, with what an operator would do for it.
    fn settle(&mut self, fault: Fault, to: &mut Vm) -> Result<Outcome, Violation> {
        let mut has_recovered = false;
        let settled = try_until(|| match (self.vm.is_running(), to.is_running()) {
            (false, _) if fault == Fault::KillSource => without_source(to),
            (false, true) => {
                let is_whole = to.try_status()?["role"] == "source";
                is_whole.then_some(match has_recovered {
                    true => Outcome::Recovered,
                    false => Outcome::Moved,
                })
            }
            (false, false) if fault == Fault::KillDestination => Some(Outcome::Died),
            (false, false) => None,
            (true, is_there) => match self.vm_state()?.as_str() {
                // Without its client, the migration goes on.
                "running" if fault != Fault::KillClient => Some(Outcome::Stayed),
                "postcopy_paused" if is_there => {
                    has_recovered = true;
                    self.bench.recover(&self.vm).code();
                    None
                }
                "postcopy_paused" => self.take_back().then_some(Outcome::TakenBack),
                _ => None,
            },
        });
        settled.ok_or_else(|| {
            let states = [&self.vm, to].map(|vm| vm.try_status());
            Violation::LostVm(format!("source and destination say {states:?}"))
        })
    }

    /// The destination is dead, and an operator says so.
    fn take_back(&self) -> bool {
        let word = ["--resume-here", "--destination-is-fenced"];
        let words = [&["recover", "--vm", self.vm.name()], &word[..]].concat();
        self.bench.run(&words).status.success()
    }

    /// The guest has not run on where it is no more, nor run where it is not yet.
    fn check_one_owner(&mut self, to: &Vm, outcome: Outcome) -> Result<(), Violation> {
        if matches!(outcome, Outcome::Stayed | Outcome::TakenBack) {
            self.vm.works();
        }
        let (here, there) = (beats(&self.vm.console()), beats(&to.console()));
        let is_one = match outcome {
            Outcome::Stayed => there.is_empty(),
            // It may have run there, and goes back: the destination is dead.
            Outcome::TakenBack => true,
            Outcome::Moved | Outcome::Recovered | Outcome::Died => follow(&here, &there),
        };
        let (last, first) = (here.last(), there.first());
        is_one.then_some(()).ok_or_else(|| {
            Violation::TwoOwners(format!(
                "{outcome:?}, but the guest told of {last:?} operations at the source last, and of \
                 {first:?} at the destination first"
            ))
        })
    }

    /// The VM has moved there.
    fn take(&mut self, to: Vm) -> Result<(), Violation> {
        let from = mem::replace(&mut self.vm, to);
        self.held = None;
        self.vm.works();
        let is_one = follow(&beats(&from.console()), &beats(&self.vm.console()));
        is_one
            .then_some(())
            .ok_or_else(|| Violation::TwoOwners("the guest ran on at the source".to_owned()))
    }

    /// The next attempt succeeds.
    fn retry(&mut self, mut to: Vm) -> Result<(), Violation> {
        if !to.is_running() {
            to = self.bench.receive();
        }
        to.wait_state("waiting");
        let ended = self.bench.migrate(&self.vm, to.address(), &[]).end();
        if ended.code != Some(0) {
            return Err(Violation::RetryFailed(ended.stderr));
        }
        ended.completed();
        self.vm.wait_exit();
        self.take(to)
    }

    fn check_nothing_leaks(&mut self) -> Result<(), Violation> {
        let mut now = self.vm.usage();
        let held = *self.held.get_or_insert(now);
        // What is just ending is given its time.
        let is_calm = try_until(|| {
            now = self.vm.usage();
            let is_calm = now.descriptors <= held.descriptors + MORE_DESCRIPTORS_MAX
                && now.threads <= held.threads + MORE_THREADS_MAX
                && now.resident_bytes <= held.resident_bytes + MORE_RESIDENT_BYTES_MAX;
            is_calm.then_some(())
        });
        is_calm.ok_or_else(|| Violation::Other(format!("after a failure {held:?}, now {now:?}")))
    }

    fn start_anew(&mut self) {
        self.vm = started(&self.bench);
        self.held = None;
    }
}

fn started(bench: &Bench) -> Vm {
    let vm = bench.start(&Guest::new("64M", GUEST));
    vm.wait_ready();
    vm
}

/// The source was killed: what the destination has then; `None`: it has not noticed.
fn without_source(to: &Vm) -> Option<Outcome> {
    let status = to.try_status()?;
    match status["vm_state"].as_str()? {
        _ if status["role"] == "source" => Some(Outcome::Moved),
        "waiting" | "postcopy_paused" => Some(Outcome::Died),
        _ => None,
    }
}

/// The operations that the guest tells of, line by line.
fn beats(console: &str) -> Vec<u64> {
    let whole_lines = console.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let of_line = |line: &str| {
        // Heartbeats, of single bytes, may stand before it.
        let (_, report) = line.split_once("me2-guest cpu=")?;
        let (_, operations) = report.split_once(" ops=")?;
        operations.split_ascii_whitespace().next()?.parse().ok()
    };
    whole_lines.lines().filter_map(of_line).collect()
}

/// Whether nothing was told at the source that the destination told before.
fn follow(here: &[u64], there: &[u64]) -> bool {
    match (here.last(), there.first()) {
        (Some(last), Some(first)) => last <= first,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_from_whole_lines() {
        let console = "me2-guest ready cpus=1\n\u{fffd}me2-guest cpu=0 t_ms=1 ops=5 errors=0\n\
                       me2-guest cpu=0 t_ms=2 ops=70 errors=0\nme2-guest cpu=0 t_ms=3 ops=8";
        assert_eq!(beats(console), [5, 70]);
        assert_eq!(beats(""), [0_u64; 0]);
    }

    #[test]
    fn a_guest_that_ran_in_both_is_noticed() {
        assert!(follow(&[1, 5], &[5, 6]));
        assert!(follow(&[1, 5], &[]));
        assert!(follow(&[], &[1]));
        assert!(!follow(&[1, 6], &[5, 7]));
    }
}
