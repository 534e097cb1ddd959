//! A line of text in a fixed buffer.

use core::fmt;

/// The longest line, bytes.
pub const LINE_MAX: usize = 200;

/// Text that is formatted before it is sent, so that sending holds no one up. What does not fit is cut off.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; LINE_MAX],
    length: usize,
}

impl Line {
    /// A line with this text and a line feed.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut line = Self {
            bytes: [0; LINE_MAX],
            length: 0,
        };
        // An error means that it was cut off.
        let _ = fmt::write(&mut line, text);
        line.bytes[line.length] = b'\n';
        line.length += 1;
        line
    }

    /// The text: bytes below 0x80, one line feed, at the end.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == LINE_MAX - 1 {
                return Err(fmt::Error);
            }
            // Bytes from 0x80 on are heartbeats; a line feed would end the line early.
            let plain = matches!(byte, b' '..=b'~');
            self.bytes[self.length] = if plain { byte } else { b'?' };
            self.length += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_in_one_line_feed() {
        assert_eq!(Line::new(format_args!("a={} b", 5)).bytes(), b"a=5 b\n");
        assert_eq!(Line::new(format_args!("a\nü")).bytes(), b"a???\n");
    }

    #[test]
    fn long_text_is_cut_off() {
        let text = "x".repeat(1000);
        let line = Line::new(format_args!("{text}"));
        assert_eq!(line.bytes().len(), LINE_MAX);
        assert_eq!(line.bytes().last(), Some(&b'\n'));
    }
}
