//! What the lab's machine told: the lines that `init.sh` writes.

use std::collections::BTreeMap;

use super::json::Value;

/// Most lines of one text; the longest has a few hundred.
const LINES_PER_TEXT_MAX: usize = 20_000;

/// Results of one run, complete or not.
#[derive(Debug, Default)]
pub(super) struct Record {
    values: BTreeMap<String, String>,
    texts: BTreeMap<String, Vec<String>>,
    /// The text that is being read.
    open: Option<(String, Vec<String>)>,
}

impl Record {
    /// Takes one line; gives what of it is to be shown to the person who waits.
    pub(super) fn take(&mut self, line: &str) -> Option<String> {
        if let Some((name, lines)) = &mut self.open {
            if line.strip_prefix("end ") == Some(name) {
                if lines.last().is_some_and(String::is_empty) {
                    lines.pop(); // written there to end an unfinished line
                }
                self.texts.extend(self.open.take());
            } else if lines.len() < LINES_PER_TEXT_MAX {
                lines.push(line.to_owned());
            }
            return None;
        }
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "progress" => {
                let (seconds, what) = rest.split_once(' ')?;
                return Some(format!("{seconds:>6} s  {what}"));
            }
            "value" => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                self.values.insert(name.to_owned(), value.to_owned());
            }
            "begin" => self.open = Some((rest.to_owned(), Vec::new())),
            _ => {}
        }
        None
    }

    /// Whether the machine came to its end, well or not: the last text that it sends has come.
    pub(super) fn is_whole(&self) -> bool {
        self.texts.contains_key("log.kernel")
    }

    /// One result; empty if it did not come.
    pub(super) fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The lines of one text; none if it did not come.
    pub(super) fn text(&self, name: &str) -> &[String] {
        self.texts.get(name).map_or(&[], Vec::as_slice)
    }

    /// A text that is a JSON document, as it came and as it reads.
    pub(super) fn document(&self, name: &str) -> Option<(String, Value)> {
        let text = self.text(name).join("\n");
        let value = Value::parse(&text)?;
        Some((text, value))
    }

    /// The texts whose names start with `prefix`, by the rest of their names.
    pub(super) fn texts<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [String])> {
        let texts = self.texts.iter();
        texts.filter_map(move |(name, lines)| Some((name.strip_prefix(prefix)?, lines.as_slice())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_results() {
        let mut record = Record::default();
        let lines = [
            "value npt Y",
            "progress 1.50 a VM runs",
            "begin report",
            "{\"a\":",
            "value 1}",
            "",
            "end report",
            "noise",
            "value huge_pages",
            "begin log.first",
            "one",
            "",
            "end log.first",
            "begin cut",
            "off",
        ];
        let shown: Vec<_> = lines.iter().filter_map(|line| record.take(line)).collect();
        assert_eq!(shown, ["  1.50 s  a VM runs"]);
        assert_eq!(record.value("npt"), "Y");
        assert_eq!(record.value("huge_pages"), "");
        assert_eq!(record.value("absent"), "");
        assert_eq!(record.text("report"), ["{\"a\":", "value 1}"]);
        assert!(record.document("report").is_none());
        assert_eq!(record.texts("log.").count(), 1);
        assert!(!record.is_whole());
        assert!(record.text("cut").is_empty());
    }
}
