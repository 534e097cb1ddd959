//! The page, section after section.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    cases, comparison, faults, glance,
    kept::{Kept, Run, What},
};
use crate::results::timestamp;

/// The experiments in the order in which they are shown: name, title, what is asked.
const EXPERIMENTS: [(&str, &str, &str); 9] = [
    (
        "me2",
        "Against plain pre-copy",
        "What exploration, encoding and an early resume are worth: hybrid me2 and plain pre-copy by \
        itself, of all memory as the paper's Xen did it, and of useful memory.",
    ),
    (
        "qemu",
        "Against QEMU",
        "The same guest file, link and run for both: hybrid me2 and QEMU's modes, each as a good operator \
        would set it up.",
    ),
    ("wan", "Long links", "Round trips, rates and losses swept."),
    (
        "ablation",
        "What each part is worth",
        "me2 with each of its parts switched off in turn.",
    ),
    (
        "codecs",
        "The choice of codecs",
        "The adaptive choice against each fixed codec.",
    ),
    (
        "transport",
        "The transport by itself",
        "No VM: how full a link gets, what a request waits beside that, how rates are \
        followed and shared.",
    ),
    (
        "paging",
        "Faults and placing by themselves",
        "The destination alone, with real userfaultfd: no network, no guest.",
    ),
    (
        "probes",
        "What probes cost the guest",
        "The same guest with probes and without, in turn.",
    ),
    (
        "codec",
        "Codecs by themselves",
        "One thread, on captured memory.",
    ),
];

/// What is known of faults, from several experiments, follows this one.
const FAULTS_AFTER: &str = "wan";

/// Words that figures are told in.
const WORDS: [(&str, &str); 6] = [
    (
        "Data",
        "bytes of IP packets that the link carried, both ways, headers and retransmissions included",
    ),
    (
        "Total time",
        "from the request until both ends are complete",
    ),
    (
        "Downtime",
        "from a vCPU's last sign of life at the source to its first at the destination, the longest of all",
    ),
    (
        "Silence",
        "the longest time without a completed operation of any vCPU, from 1 s before the stop until 5 s after the resume or \
        the completion",
    ),
    (
        "Links",
        "A: 1 Gbit/s, 1 ms. B: 100 Mbit/s, 50 ms. C: 200 Mbit/s, 100 ms, 0.1% lost. Others by their names: \
        rtt100-rate50-loss1 is 100 ms, 50 Mbit/s, 1% lost",
    ),
    (
        "Cell",
        "one link with one guest; all schemes are measured in it, each migration with a fresh guest and a fresh link",
    ),
];

pub(super) fn page(kept: &Kept) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "me2: what was measured" }
                // Without this, a browser asks for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                (head(kept))
                main {
                    (problems(kept))
                    section id="glance" { h2 { "At a glance" } (glance::section(kept)) }
                    @for (name, title, question) in EXPERIMENTS {
                        (experiment(kept, name, title, question))
                        @if name == FAULTS_AFTER { section id="faults" { h2 { "How long faults wait" } (faults::section(kept)) } }
                    }
                }
            }
        }
    }
}

fn head(kept: &Kept) -> Markup {
    html! { header {
        h1 { "me2: what was measured" }
        p { "Made " (timestamp()) " from " (kept.runs.len()) " folders of results by " code { "cargo xtask bench report" }
            ". Nothing here is estimated: what was not measured is a dash, or said so." }
        nav {
            a href="#glance" { "At a glance" } " "
            @for (name, title, _) in EXPERIMENTS {
                a href={ "#" (name) } { (title) } " "
                @if name == FAULTS_AFTER { a href="#faults" { "How long faults wait" } " " }
            }
        }
        details { summary { "Words" } dl { @for (word, meaning) in WORDS { dt { (word) } dd { (meaning) } } } }
    } }
}

fn problems(kept: &Kept) -> Markup {
    html! { @if !kept.problems.is_empty() { section.problems id="problems" {
        h2 { "Folders that cannot be shown" }
        ul { @for problem in &kept.problems { li { strong { (problem.folder) } ": " (problem.reason) } } }
    } } }
}

/// All runs of an experiment, the older ones folded.
fn experiment(kept: &Kept, name: &str, title: &str, question: &str) -> Markup {
    let runs: Vec<&Run> = kept.of(name).collect();
    let shown = |index: usize, run: &Run| !runs[..index].iter().any(|newer| covers(newer, run));
    html! { section id=(name) {
        h2 { (title) }
        p { (question) }
        @if runs.is_empty() {
            p.absent { "Not measured yet: " code { "cargo xtask bench " (command(name)) } " does, and leaves a folder that this page \
                is made of." }
        }
        @for (index, run) in runs.iter().enumerate() {
            @if shown(index, run) {
                article { h3 { (run.name) } (body(run)) }
            } @else {
                details.older { summary { (run.name) ": an older run of the same" } (body(run)) }
            }
        }
    } }
}

fn command(experiment: &str) -> &str {
    match experiment {
        "ablation" => "me2 --ablation",
        "codecs" => "me2 --codecs",
        other => other,
    }
}

/// Whether all that one run measured was measured by a newer one too.
fn covers(newer: &Run, older: &Run) -> bool {
    match (&newer.what, &older.what) {
        (What::Migrations(newer), What::Migrations(older)) => {
            let mut cells = older.table.cells();
            cells.all(|cell| newer.table.cells().any(|other| other == cell))
        }
        _ => true,
    }
}

fn body(run: &Run) -> Markup {
    match &run.what {
        What::Migrations(migrations) => comparison::section(run, migrations),
        What::Cases(kept) => cases::figures(run, kept),
        What::Transport(kept) => cases::transport(run, kept),
        What::Codec(measured) => cases::codec(run, measured),
    }
}
