//! As much of JSON as it takes to read reports of me2, and to quote a text.

use std::{iter::Peekable, str::Chars};

/// How deep a document may be nested; reports have three levels.
const DEPTH_MAX: u32 = 16;

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Truth(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads a whole document; `None` if it is none.
    pub(super) fn parse(document: &str) -> Option<Self> {
        let mut reader = Reader {
            rest: document.chars().peekable(),
        };
        let value = reader.value(0)?;
        reader.skip_space();
        reader.rest.next().is_none().then_some(value)
    }

    /// The member at a path such as `ebpf.events`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Self::Object(members) => {
                let mut members = members.iter();
                members.find_map(|(member, value)| (member == name).then_some(value))
            }
            _ => None,
        })
    }

    /// The number at a path.
    pub(super) fn number(&self, path: &str) -> Option<f64> {
        match self.at(path) {
            Some(Self::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The text at a path.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        match self.at(path) {
            Some(Self::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether there is a `true` at a path.
    pub(super) fn is_true(&self, path: &str) -> bool {
        self.at(path) == Some(&Self::Truth(true))
    }
}

/// A text in quotes, as documents have it.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                // Those of JSON are below 0x20, and all controls are below 0x10000.
                quoted += &format!("\\u{:04x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn value(&mut self, depth: u32) -> Option<Value> {
        self.skip_space();
        match *self.rest.peek()? {
            '{' | '[' if depth == DEPTH_MAX => None,
            '{' => self.object(depth + 1),
            '[' => self.list(depth + 1),
            '"' => self.string().map(Value::Text),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: u32) -> Option<Value> {
        self.rest.next();
        let mut members = Vec::new();
        while !self.takes('}') {
            if !members.is_empty() && !self.takes(',') {
                return None;
            }
            self.skip_space();
            let name = self.string()?;
            if !self.takes(':') {
                return None;
            }
            members.push((name, self.value(depth)?));
        }
        Some(Value::Object(members))
    }

    fn list(&mut self, depth: u32) -> Option<Value> {
        self.rest.next();
        let mut values = Vec::new();
        while !self.takes(']') {
            if !values.is_empty() && !self.takes(',') {
                return None;
            }
            values.push(self.value(depth)?);
        }
        Some(Value::List(values))
    }

    fn string(&mut self) -> Option<String> {
        self.rest.next_if_eq(&'"')?;
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                plain => text.push(plain),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.rest.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let digits: String = self.rest.by_ref().take(4).collect();
                // Halves of a pair are for people's eyes only here.
                char::from_u32(u32::from_str_radix(&digits, 16).ok()?).unwrap_or('\u{fffd}')
            }
            same @ ('"' | '\\' | '/') => same,
            _ => return None,
        })
    }

    fn word(&mut self) -> Option<Value> {
        let mut word = String::new();
        let is_part = |c: &char| c.is_ascii_alphanumeric() || "+-.".contains(*c);
        while let Some(part) = self.rest.next_if(is_part) {
            word.push(part);
        }
        match word.as_str() {
            "null" => Some(Value::Null),
            "true" => Some(Value::Truth(true)),
            "false" => Some(Value::Truth(false)),
            number => number.parse().ok().map(Value::Number),
        }
    }

    fn takes(&mut self, expected: char) -> bool {
        self.skip_space();
        self.rest.next_if_eq(&expected).is_some()
    }

    fn skip_space(&mut self) {
        while self.rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_path() {
        let text = r#" {"a": {"b": -1.5e2, "c": [1, {"d": null}], "e": ""}, "f": true, "g": {}} "#;
        let document = Value::parse(text).unwrap();
        assert_eq!(document.number("a.b"), Some(-150.0));
        assert_eq!(document.text("a.e"), Some(""));
        assert!(document.is_true("f"));
        assert!(!document.is_true("a"));
        assert_eq!(document.at("a.c.d"), None);
        assert_eq!(document.number("a"), None);
        let list = vec![
            Value::Number(1.0),
            Value::Object(vec![("d".into(), Value::Null)]),
        ];
        assert_eq!(document.at("a.c"), Some(&Value::List(list)));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\": 1,}",
            "[1 2]",
            "{} {}",
            "\"a",
            "tru",
            "\"\\x\"",
            "\"\\u12",
        ] {
            assert_eq!(Value::parse(text), None, "{text}");
        }
        assert_eq!(Value::parse(&"[".repeat(100_000)), None);
    }

    #[test]
    fn quoted_text_comes_back() {
        let text = "a \"b\" \\ c\n\u{1b}[0m é";
        assert_eq!(Value::parse(&quote(text)), Some(Value::Text(text.into())));
    }
}
