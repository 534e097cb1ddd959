//! Where the running kernel keeps the members of its structures: a reader of BTF, the kernel's own
//! type information.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`. Only what [`Btf::member_offset`]
//! needs is decoded. The input is not trusted: whatever it holds, the result is an answer or an
//! error.

use std::{fs, io, path::Path};

use thiserror::Error;

/// The directory in which the kernel shows its BTF and that of its modules.
const SYSFS: &str = "/sys/kernel/btf";
/// Most bytes that are read from one file. A large kernel's BTF is below 10 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

const MAGIC: u16 = 0xeb9f;
/// The fixed part of the header, up to and including the length of the strings.
const HEADER_BYTES_MIN: usize = 24;
/// `struct btf_type`, `struct btf_member`: three `u32` each.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const KIND_STRUCT: u32 = 4;

/// Why no offset could be had.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel was built without BTF, or sysfs is not mounted, or may not be read.
    #[error("cannot read {path}")]
    Unavailable {
        /// The file tried.
        path: String,
        /// Why it could not be read.
        #[source]
        source: io::Error,
    },
    /// The bytes do not follow the format.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
    /// Well-formed, but without this structure or member.
    #[error("no byte-aligned member {member} in the kernel's struct {structure}")]
    NotFound {
        /// The structure asked for.
        structure: String,
        /// The member asked for.
        member: String,
    },
}

/// Byte offsets of `members` in the kernel's `struct structure`, in the order asked.
///
/// The structure is looked for in the kernel, then in its module `module` (whose BTF is there while
/// it is loaded).
///
/// # Errors
/// [`BtfError::Unavailable`] without BTF, [`BtfError::NotFound`] where a member is in neither.
pub fn kernel_member_offsets<const N: usize>(
    module: &str,
    structure: &str,
    members: [&str; N],
) -> Result<[u32; N], BtfError> {
    let kernel = read(&format!("{SYSFS}/vmlinux"))?;
    let kernel = Btf::parse(&kernel)?;
    let found = kernel.member_offsets(structure, members);
    let path = format!("{SYSFS}/{module}");
    if !matches!(found, Err(BtfError::NotFound { .. })) || !Path::new(&path).exists() {
        return found;
    }
    let module = read(&path)?;
    Btf::parse_split(&module, &kernel)?.member_offsets(structure, members)
}

/// A file's BTF: its types and strings, located but not yet decoded.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// A module's BTF goes on where the kernel's ends: lower string offsets refer to the kernel's
    /// strings.
    base_strings: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Locates types and strings in `data`, a whole file.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] where the header is not that of little-endian BTF, or points outside
    /// of `data`.
    pub fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        if data.get(..2) != Some(MAGIC.to_le_bytes().as_slice()) {
            return Err(BtfError::Malformed("no little-endian magic number"));
        }
        let truncated = BtfError::Malformed("truncated header");
        let Some([_, header, types, types_len, strings, strings_len]) = words(data, 0) else {
            return Err(truncated);
        };
        if (header as usize) < HEADER_BYTES_MIN {
            return Err(truncated);
        }
        let section = |offset: u32, len: u32, what| {
            let start = (header as usize).checked_add(offset as usize);
            let end = start.and_then(|start| start.checked_add(len as usize));
            start
                .zip(end)
                .and_then(|(start, end)| data.get(start..end))
                .ok_or(BtfError::Malformed(what))
        };
        Ok(Self {
            types: section(types, types_len, "types outside of the file")?,
            strings: section(strings, strings_len, "strings outside of the file")?,
            base_strings: &[],
        })
    }

    /// Like [`Btf::parse`], for the BTF of a module, which goes on where `base`, the kernel's,
    /// ends.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn parse_split(data: &'a [u8], base: &Btf<'a>) -> Result<Self, BtfError> {
        Ok(Self {
            base_strings: base.strings,
            ..Self::parse(data)?
        })
    }

    /// Byte offset of each of `members` in `struct structure`, in the order asked.
    ///
    /// # Errors
    /// As [`Btf::member_offset`].
    pub fn member_offsets<const N: usize>(
        &self,
        structure: &str,
        members: [&str; N],
    ) -> Result<[u32; N], BtfError> {
        let mut offsets = [0; N];
        for (offset, member) in offsets.iter_mut().zip(members) {
            *offset = self.member_offset(structure, member)?;
        }
        Ok(offsets)
    }

    /// Byte offset of `member` in the first `struct structure` that has it.
    ///
    /// # Errors
    /// [`BtfError::NotFound`] if there is none, or if it is a bit field; [`BtfError::Malformed`] if
    /// the types cannot be followed up to there.
    pub fn member_offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let [name, info, _size] =
                words(self.types, at).ok_or(BtfError::Malformed("truncated type"))?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let body = at + TYPE_BYTES;
            let next = body + trailer_bytes(kind, count)?;
            if kind == KIND_STRUCT && self.string_is(name, structure) {
                let members = self
                    .types
                    .get(body..next)
                    .ok_or(BtfError::Malformed("truncated structure"))?;
                let packs_bit_fields = info >> 31 != 0;
                if let Some(offset) = self.offset_among(members, member, packs_bit_fields) {
                    return Ok(offset);
                }
            }
            at = next;
        }
        Err(BtfError::NotFound {
            structure: structure.into(),
            member: member.into(),
        })
    }

    fn offset_among(&self, members: &[u8], wanted: &str, packs_bit_fields: bool) -> Option<u32> {
        let mut members = (0..members.len())
            .step_by(MEMBER_BYTES)
            .filter_map(|at| words(members, at));
        let [_, _, offset] = members.find(|&[name, _type, _]| self.string_is(name, wanted))?;
        // With the flag, the upper byte is the width of a bit field, 0 for an ordinary member.
        let (bits, width) = match packs_bit_fields {
            true => (offset & 0xff_ffff, offset >> 24),
            false => (offset, 0),
        };
        (width == 0 && bits % 8 == 0).then_some(bits / 8)
    }

    /// Whether the zero-terminated string at `offset` is `expected`.
    fn string_is(&self, offset: u32, expected: &str) -> bool {
        let offset = offset as usize;
        let string = match offset.checked_sub(self.base_strings.len()) {
            Some(own) => self.strings.get(own..),
            None => self.base_strings.get(offset..),
        };
        string
            .and_then(|string| string.strip_prefix(expected.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// How many bytes follow a `struct btf_type` of this kind with this `vlen`. An unknown kind cannot
/// be stepped over.
fn trailer_bytes(kind: u32, count: usize) -> Result<usize, BtfError> {
    Ok(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
        3 => 12,                       // ARRAY
        4 | 5 => MEMBER_BYTES * count, // STRUCT, UNION
        15 | 19 => 12 * count,         // DATASEC, ENUM64
        6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        _ => return Err(BtfError::Malformed("unknown kind of type")),
    })
}

/// `N` little-endian `u32` at byte `at`, if they are there.
fn words<const N: usize>(data: &[u8], at: usize) -> Option<[u32; N]> {
    let mut words = [0; N];
    let bytes = data.get(at..at.checked_add(4 * N)?)?;
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    Some(words)
}

fn read(path: &str) -> Result<Vec<u8>, BtfError> {
    let unavailable = |source| BtfError::Unavailable {
        path: path.into(),
        source,
    };
    let file = fs::File::open(path).map_err(unavailable)?;
    let mut data = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut data)
        .map_err(unavailable)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0int\0page_fault\0addr\0write\0flags\0gfn\0";

    fn string(name: &str) -> u32 {
        let zero_terminated = format!("\0{name}\0");
        let at = STRINGS
            .windows(zero_terminated.len())
            .position(|window| window == zero_terminated.as_bytes());
        at.expect("in STRINGS") as u32 + 1
    }

    fn file(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let header = [
            0x0001_eb9f,
            24,
            0,
            4 * types.len() as u32,
            4 * types.len() as u32,
            strings.len() as u32,
        ];
        let words = header.iter().chain(types);
        let mut file: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        file.extend(strings);
        file
    }

    /// An int, then `struct page_fault { u64 addr; bool write; u32 flags: 3; u64 gfn; }`, bit
    /// fields packed.
    fn sample() -> Vec<u8> {
        #[rustfmt::skip]
        let types = [
            string("int"), 1 << 24, 4,
            32,
            string("page_fault"), 1 << 31 | KIND_STRUCT << 24 | 4, 24,
            string("addr"), 1, 0,
            string("write"), 1, 64,
            string("flags"), 1, 3 << 24 | 72,
            string("gfn"), 1, 128,
        ];
        file(&types, STRINGS)
    }

    #[test]
    fn offsets_are_found() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        let found = btf.member_offsets("page_fault", ["gfn", "write", "addr"]);
        assert_eq!(found.unwrap(), [16, 8, 0]);
    }

    #[test]
    fn absent_members_and_bit_fields_are_not_found() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        for (structure, member) in [
            ("page_fault", "pfn"),
            ("page_fault", "flags"),
            ("page_fault", "gf"),
            ("page_faul", "gfn"),
            ("int", "gfn"),
        ] {
            let found = btf.member_offset(structure, member);
            assert!(
                matches!(found, Err(BtfError::NotFound { .. })),
                "{structure}.{member}: {found:?}"
            );
        }
    }

    #[test]
    fn a_module_continues_the_strings_of_the_kernel() {
        let kernel = sample();
        let kernel = Btf::parse(&kernel).unwrap();
        let own = STRINGS.len() as u32;
        let structure = [own + 1, KIND_STRUCT << 24 | 1, 8, string("gfn"), 1, 32];
        let module = file(&structure, b"\0vcpu\0");
        let module = Btf::parse_split(&module, &kernel).unwrap();
        assert_eq!(module.member_offset("vcpu", "gfn").unwrap(), 4);
        assert!(module.member_offset("page_fault", "gfn").is_err());
    }

    #[test]
    fn truncated_files_are_errors() {
        let whole = sample();
        for len in 0..whole.len() {
            let offset =
                Btf::parse(&whole[..len]).and_then(|btf| btf.member_offset("page_fault", "gfn"));
            assert!(offset.is_err(), "{len} of {} bytes", whole.len());
        }
    }

    #[test]
    fn truncated_types_are_errors() {
        let whole = sample();
        let types_len = u32::from_le_bytes(whole[12..16].try_into().unwrap());
        for len in 0..types_len {
            let mut cut = whole.clone();
            cut[12..16].copy_from_slice(&len.to_le_bytes());
            let offset = Btf::parse(&cut).and_then(|btf| btf.member_offset("page_fault", "gfn"));
            assert!(offset.is_err(), "{len} bytes of types");
        }
    }

    /// Every single-byte change and a good deal of noise: any answer will do, as long as there is
    /// one.
    #[test]
    fn garbage_is_answered() {
        let whole = sample();
        let look_up = |data: &[u8]| {
            if let Ok(btf) = Btf::parse(data) {
                let _ = btf.member_offset("page_fault", "gfn");
                let _ = Btf::parse_split(data, &btf).map(|btf| btf.member_offset("x", "gfn"));
            }
        };
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                look_up(&changed);
            }
        }
        let mut state = 1_u64;
        for len in (24..4096).step_by(7) {
            let mut noise = whole[..24].to_vec();
            noise.extend((24..len).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            }));
            noise[12..16].copy_from_slice(&(len as u32 - 24).to_le_bytes());
            noise[16..20].copy_from_slice(&0_u32.to_le_bytes());
            look_up(&noise);
        }
    }

    #[test]
    fn the_running_kernel_is_read() {
        if !Path::new(SYSFS).join("vmlinux").exists() {
            return; // a kernel without BTF: nothing to read
        }
        let offsets = kernel_member_offsets("kvm", "list_head", ["next", "prev"]).unwrap();
        assert_eq!(offsets, [0, 8]);
    }
}
