//! What running a target gave.

use std::time::Duration;

/// How a target fared.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    name: String,
    executions: u64,
    seconds: f64,
    /// Whether it ended with an error: a finding, with the path of its input if there is one.
    crashed: bool,
    input: Option<String>,
}

impl Outcome {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// A line of libFuzzer's.
    pub(super) fn read(&mut self, line: &str) {
        // "#123 NEW cov: …" is all that there is if it crashes before the statistics.
        if let Some(rest) = line.strip_prefix('#') {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            let executions = digits.and_then(|digits| digits.parse().ok());
            self.executions = self.executions.max(executions.unwrap_or(0));
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(super::shown(path.trim()));
        }
    }

    pub(super) fn end(&mut self, is_well: bool, took: Duration) {
        self.crashed = !is_well;
        self.seconds = took.as_secs_f64();
    }

    pub(super) fn line(&self) -> String {
        let end = if self.crashed { "CRASHED" } else { "ok" };
        format!(
            "{:16} {:>12} executions in {:6.1} s  {end}",
            self.name, self.executions, self.seconds
        )
    }

    /// What to tell of a crash.
    pub(super) fn finding(&self) -> Option<String> {
        let input = self.input.as_deref().unwrap_or("(no input was written)");
        self.crashed
            .then(|| format!("the target {} crashed with {input}", self.name))
    }
}

fn total(outcomes: &[Outcome]) -> (u64, usize) {
    let executions = outcomes.iter().map(|outcome| outcome.executions).sum();
    let crashes = outcomes.iter().filter(|outcome| outcome.crashed).count();
    (executions, crashes)
}

pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let (executions, crashes) = total(outcomes);
    let targets = outcomes.len();
    format!("{targets} targets, {executions} executions, {crashes} crashes")
}

/// One document; names and paths of ours need no escapes.
pub(super) fn json(outcomes: &[Outcome]) -> String {
    let (executions, crashes) = total(outcomes);
    let targets: Vec<_> = outcomes.iter().map(target_json).collect();
    format!(
        "{{\"schema_version\":1,\"executions\":{executions},\"crashes\":{crashes},\"targets\":[{}]}}",
        targets.join(",")
    )
}

fn target_json(outcome: &Outcome) -> String {
    let input = outcome.input.as_ref();
    let input = input.map_or("null".to_owned(), |path| format!("{path:?}"));
    format!(
        "{{\"name\":{:?},\"executions\":{},\"seconds\":{:.1},\"crashed\":{},\"input\":{input}}}",
        outcome.name, outcome.executions, outcome.seconds, outcome.crashed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str], is_well: bool) -> Outcome {
        let mut outcome = Outcome::new("chunk");
        lines.iter().for_each(|line| outcome.read(line));
        outcome.end(is_well, Duration::from_millis(1500));
        outcome
    }

    #[test]
    fn what_the_fuzzer_says_is_read() {
        let lines = [
            "#8\tINITED cov: 1",
            "#900\tDONE",
            "stat::number_of_executed_units: 1234",
        ];
        let well = outcome(&lines, true);
        assert_eq!(well.finding(), None);
        let written = "artifact_prefix='x/'; Test unit written to x/crash-1";
        let bad = outcome(&["#77\tNEW cov: 5", written], false);
        let finding = bad.finding().expect("it crashed");
        assert!(
            finding.contains("chunk") && finding.contains("x/crash-1"),
            "{finding}"
        );
        let document = json(&[well, bad]);
        assert_eq!(
            document,
            "{\"schema_version\":1,\"executions\":1311,\"crashes\":1,\"targets\":[\
             {\"name\":\"chunk\",\"executions\":1234,\"seconds\":1.5,\"crashed\":false,\"input\":null},\
             {\"name\":\"chunk\",\"executions\":77,\"seconds\":1.5,\"crashed\":true,\"input\":\"x/crash-1\"}]}"
        );
    }
}
