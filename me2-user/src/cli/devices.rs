//! Disks and network cards, as options name them.

use std::path::PathBuf;
use std::str::FromStr;

/// `--disk` of `me2 run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// A raw file or a block device.
    pub path: PathBuf,
    /// Whether the guest may not write it.
    pub read_only: bool,
    /// What it is called, if that was said.
    pub name: Option<String>,
}

/// `--net` of `me2 run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption {
    /// The tap of the host that it is connected to.
    pub tap: String,
    /// Its address, if that was said.
    pub mac: Option<[u8; 6]>,
    /// What it is called, if that was said.
    pub name: Option<String>,
}

/// An option of `me2 receive` that connects a device of the VM that comes: NAME=WHAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The device.
    pub name: String,
    /// What of this host it gets.
    pub to: String,
}

impl FromStr for DiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut path, mut read_only, mut name) = (None, false, None);
        for word in text.split(',') {
            match word.split_once('=') {
                Some(("path", value)) if !value.is_empty() => path = Some(value.into()),
                Some(("name", value)) if !value.is_empty() => name = Some(value.to_owned()),
                None if word == "readonly" => read_only = true,
                _ => return Err("expected path=PATH[,readonly][,name=NAME]".to_owned()),
            }
        }
        let path = path.ok_or("path=PATH is missing")?;
        Ok(Self {
            path,
            read_only,
            name,
        })
    }
}

impl FromStr for NetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut tap, mut mac, mut name) = (None, None, None);
        for word in text.split(',') {
            match word.split_once('=') {
                Some(("tap", value)) if !value.is_empty() => tap = Some(value.to_owned()),
                Some(("mac", value)) => mac = Some(parse_mac(value)?),
                Some(("name", value)) if !value.is_empty() => name = Some(value.to_owned()),
                _ => return Err("expected tap=TAP[,mac=MAC][,name=NAME]".to_owned()),
            }
        }
        let tap = tap.ok_or("tap=TAP is missing")?;
        Ok(Self { tap, mac, name })
    }
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, to)) if !name.is_empty() && !to.is_empty() => Ok(Self {
                name: name.to_owned(),
                to: to.to_owned(),
            }),
            _ => Err("expected NAME=WHAT".to_owned()),
        }
    }
}

/// The address of one card: six bytes, not of a group.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| {
            let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        })
        .collect();
    bytes
        .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
        .filter(|mac| mac[0] & 1 == 0)
        .ok_or_else(|| "expected a MAC address of one card, as 02:00:00:00:00:01".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_cards_are_read() {
        let disk: DiskOption = "path=/a b/c.raw,readonly,name=root".parse().unwrap();
        assert_eq!((disk.path, disk.read_only), ("/a b/c.raw".into(), true));
        assert_eq!(disk.name.as_deref(), Some("root"));
        let net: NetOption = "tap=t0,mac=02:00:0a:00:00:0F".parse().unwrap();
        assert_eq!(net.mac, Some([2, 0, 10, 0, 0, 15]));
        assert_eq!((net.tap.as_str(), net.name), ("t0", None));
        let mapping: Mapping = "disk0=/x=y".parse().unwrap();
        assert_eq!(
            (mapping.name.as_str(), mapping.to.as_str()),
            ("disk0", "/x=y")
        );
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "/a", "path=", "readonly", "path=/a,rw", "path=/a,name="] {
            assert!(text.parse::<DiskOption>().is_err(), "{text}");
        }
        for text in [
            "tap=",
            "mac=02:00:00:00:00:01",
            "tap=t,mac=01:00:00:00:00:01",
        ] {
            assert!(text.parse::<NetOption>().is_err(), "{text}");
        }
        for mac in ["02:00:00:00:00", "02:00:00:00:00:0", "+2:00:00:00:00:00"] {
            assert!(parse_mac(mac).is_err(), "{mac}");
        }
        for text in ["disk0", "=/a", "disk0="] {
            assert!(text.parse::<Mapping>().is_err(), "{text}");
        }
    }
}
