//! What sections are made of: tables, numbers with their spread, verdicts, folded manifests.

use maud::{Markup, html};
use serde_json::Value;

use super::kept::Run;
use crate::{
    plots::{self, Quantity},
    statistics::Spread,
    summary::Figures,
    target::Target,
};

/// A manifest is shown up to here.
const MANIFEST_CHARS_MAX: usize = 40_000;

/// Rows under a head; on a narrow screen each row becomes a block, its cells named by the head.
pub(super) fn table(head: &[&str], rows: Vec<Vec<Markup>>) -> Markup {
    html! {
        div.table { table {
            thead { tr { @for name in head { th scope="col" { (name) } } } }
            tbody { @for row in rows {
                tr { @for (name, cell) in head.iter().zip(row) { td data-label=(name) { (cell) } } }
            } }
        } }
    }
}

/// A measured value with some three digits, small ones too: 0.0012, 7.03, 140.
pub(super) fn value(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        tiny if tiny < 0.0995 => {
            let digits = (1.0 - tiny.log10().floor()).clamp(2.0, 9.0);
            format!("{value:.0$}", digits as usize)
        }
        _ => plots::value(value),
    }
}

/// `12.3 (11.9–14.0)`; the value alone if there is one; a dash without.
pub(super) fn spread(spread: Option<Spread>, scale: f64) -> String {
    let Some(spread) = spread else {
        return "–".to_owned();
    };
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|of| value(of * scale));
    match spread.count {
        1 => median,
        _ => format!("{median} ({min}–{max})"),
    }
}

/// The same in the unit of a plot.
pub(super) fn quantity(quantity: &Quantity, figures: &Figures) -> String {
    spread(quantity.spread(figures), 1.0)
}

/// `0.85`, or a dash.
pub(super) fn ratio(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// What was saved, as what it changed: `−12.3%`, or a dash.
pub(super) fn change(reduction_percent: &Value) -> String {
    let Some(saved) = reduction_percent.as_f64() else {
        return "–".to_owned();
    };
    let sign = if saved >= 0.0 { '−' } else { '+' };
    format!("{sign}{:.1}%", saved.abs())
}

/// Whether a target is met, by a word, a sign and a colour.
pub(super) fn verdict(is_met: Option<bool>) -> Markup {
    match is_met {
        Some(true) => html! { span.met { "✓ met" } },
        Some(false) => html! { span.missed { "✗ missed" } },
        None => html! { span.untold { "no target" } },
    }
}

/// A target and whether it is met: `≤ 120 ✓ met`.
pub(super) fn against(target: Target, is_met: Option<bool>) -> Markup {
    match target {
        Target::None => verdict(None),
        _ => html! { (target.told().replace(' ', "\u{a0}")) " " (verdict(is_met)) },
    }
}

/// A drawing with its caption.
pub(super) fn figure(title: &str, caption: &str, drawing: Markup) -> Markup {
    html! { figure { figcaption { strong { (title) } " " (caption) } (drawing) } }
}

/// What a colour stands for.
pub(super) fn legend(entries: &[(&str, &str)]) -> Markup {
    html! { p.legend {
        @for (class, text) in entries { span { i class={ "swatch " (class) } {} (text) } " " }
    } }
}

/// How often each cell was measured, and so what is told of it.
pub(super) fn runs(run: &Run) -> String {
    match run.manifest["runs"].as_u64() {
        Some(1) => "one run of each cell, so without spread".to_owned(),
        Some(count) => format!("{count} runs of each cell: median (smallest–largest)"),
        None => "how many runs is not known".to_owned(),
    }
}

/// The same in a word.
pub(super) fn how_many(run: &Run) -> String {
    match run.manifest["runs"].as_u64() {
        Some(1) => "one run".to_owned(),
        Some(count) => format!("{count} runs"),
        None => "runs not told".to_owned(),
    }
}

/// A sentence that begins as one.
pub(super) fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    let first = characters.next();
    first.map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// Machine, commit, parameters, and how to repeat it: folded away.
pub(super) fn manifest(run: &Run) -> Markup {
    let text = |path: &str| match run.manifest.pointer(path) {
        Some(Value::String(text)) if text.is_empty() => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "–".to_owned(),
        Some(other) => other.to_string(),
    };
    let is_dirty = run.manifest["me2"]["dirty"] == true;
    let memory = run.manifest["host"]["memory_bytes"].as_f64();
    let memory = memory.map_or_else(String::new, |bytes| {
        format!(", {:.1} GiB", bytes / f64::from(1 << 30))
    });
    let whole = serde_json::to_string_pretty(&run.manifest).unwrap_or_default();
    let cut: String = whole.chars().take(MANIFEST_CHARS_MAX).collect();
    html! { details.manifest {
        summary { "How it was measured, and how to repeat it" }
        dl {
            dt { "To repeat" } dd { code { (text("/command")) } }
            dt { "Commit" } dd { code { (text("/me2/commit")) } @if is_dirty { " with changes that it does not have" } }
            dt { "Started" } dd { (text("/started")) }
            dt { "Machine" } dd { (text("/host/cpu")) ", " (text("/host/cpus")) " CPUs" (memory) "; Linux "
                (text("/host/kernel")) "; " (text("/host/kvm")) "; TCP " (text("/host/congestion_control")) }
            dt { "Runs" } dd { (text("/runs")) }
            dt { "Seed" } dd { (text("/seed")) }
            dt { "Notes" } dd { (text("/notes")) }
        }
        details { summary { "manifest.json" }
            pre { (cut) @if cut.len() < whole.len() { "\n… the rest is in the file" } }
        }
    } }
}
