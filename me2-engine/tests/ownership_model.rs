//! Every state that the ownership machines can reach, with everything that can go wrong between
//! and around them, and what must hold in each.
//!
//! The network is the worst one there is: whatever was ever sent may arrive at any time, in any
//! order, any number of times, or never, as long as the receiving process lives. (So loss,
//! duplication, reordering and delay beyond reconnects need no steps of their own.) Processes die
//! at any point; a dead destination may be followed by a fresh one at the same place.
//!
//! Then the same with one rule broken at a time: the exploration must notice. The rules are broken
//! around the machines, which have no switches.

mod ownership_world;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use ownership_world::{Broken, Failure, Model, Step, World};

#[test]
fn one_destination_three_attempts() {
    let explored = explore(
        Model {
            hosts: 1,
            epochs: 3,
            forgets_stale: true,
            broken: None,
        },
        |_| true,
    );
    println!(
        "one destination, three attempts, stale messages forgotten: {}",
        explored.summary()
    );
    explored.assert_sound();
}

#[test]
fn two_destinations_two_attempts() {
    let explored = explore(
        Model {
            hosts: 2,
            epochs: 2,
            forgets_stale: false,
            broken: None,
        },
        |_| true,
    );
    println!("two destinations, two attempts: {}", explored.summary());
    explored.assert_sound();
}

#[test]
fn every_rule_is_needed() {
    for (broken, expected) in [
        (Broken::SourceIgnoresEpochs, Failure::RanTwice),
        (Broken::DestinationIgnoresEpochs, Failure::TwoRun),
        (Broken::DestinationDoesNotFence, Failure::TwoRun),
        (Broken::SourceResumesWhenTheLinkIsLost, Failure::TwoRun),
        (Broken::SourceTakesUnknownForRefused, Failure::RanTwice),
        (Broken::SourceLetsGoWhenResumed, Failure::MemoryGone),
        (Broken::SourceDoesNotVerify, Failure::MemoryGone),
        (Broken::SourceAcknowledgesOnce, Failure::Stuck),
        (Broken::DestinationRefusesWhileRunning, Failure::TwoRun),
        (Broken::DestinationCompletesEarly, Failure::MemoryGone),
        (Broken::OperatorIsNotChecked, Failure::TwoRun),
    ] {
        let model = Model {
            hosts: 1,
            epochs: 2,
            forgets_stale: false,
            broken: Some(broken),
        };
        let explored = explore(model, |failure| failure == expected);
        println!("{broken:?}: {}", explored.summary());
        assert!(
            explored.failure.is_some(),
            "{broken:?} never leads to {expected:?}"
        );
    }
}

/// What an exploration has found.
struct Explored {
    states: usize,
    transitions: usize,
    /// The first failure, and the shortest way to it.
    failure: Option<(Failure, Vec<(Step, World)>)>,
}

/// Visits every state breadth first, up to the first with a failure that is looked for.
fn explore(model: Model, looked_for: impl Fn(Failure) -> bool) -> Explored {
    let mut seen: HashMap<World, u32, BuildHasherDefault<Mix>> = HashMap::default();
    let mut visited: Vec<(World, u32, Step)> = Vec::new();
    let mut queue = VecDeque::from([(World::new(), 0, Step::Start)]);
    let mut healed = HashMap::new();
    let mut transitions = 0;
    while let Some((world, parent, step)) = queue.pop_front() {
        let at = visited.len() as u32;
        visited.push((world, parent, step));
        let cut_off = world.cut_off(&model);
        let mut heal = || {
            *healed
                .entry(cut_off)
                .or_insert_with(|| cut_off.heal(&model))
        };
        if let Some(failure) = world
            .failure()
            .or_else(&mut heal)
            .filter(|failure| looked_for(*failure))
        {
            let failure = Some((failure, path(&visited, at)));
            return Explored {
                states: visited.len(),
                transitions,
                failure,
            };
        }
        for (step, next) in world.successors(&model) {
            transitions += 1;
            seen.entry(next).or_insert_with(|| {
                queue.push_back((next, at, step));
                at
            });
        }
    }
    Explored {
        states: visited.len(),
        transitions,
        failure: None,
    }
}

fn path(visited: &[(World, u32, Step)], last: u32) -> Vec<(Step, World)> {
    let back = std::iter::successors(Some(last), |at| (*at != 0).then(|| visited[*at as usize].1));
    let mut path: Vec<_> = back
        .map(|at| (visited[at as usize].2, visited[at as usize].0))
        .collect();
    path.reverse();
    path
}

impl Explored {
    fn summary(&self) -> String {
        let failure = self
            .failure
            .as_ref()
            .map(|(failure, path)| (failure, path.len() - 1));
        let found = failure.map_or("nothing amiss".into(), |(failure, steps)| {
            format!("{failure:?} after {steps} steps")
        });
        format!(
            "{} states, {} transitions: {found}",
            self.states, self.transitions
        )
    }

    fn trace(&self) -> String {
        let steps = self.failure.iter().flat_map(|(_, path)| path);
        steps
            .map(|(step, world)| format!("{step:?}\n    {world:?}\n"))
            .collect()
    }

    fn assert_sound(&self) {
        assert!(
            self.failure.is_none(),
            "{}\n{}",
            self.summary(),
            self.trace()
        );
        assert!(self.states > 1000, "the exploration goes somewhere");
    }
}

/// The standard hasher is slow without optimisation; a state is no secret.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}
