//! The PVH start-info page and its tables (Xen's `hvm_start_info`), as bytes.

/// What the start-info page is at its beginning.
pub const MAGIC: u32 = 0x336e_c578;

/// Bytes of the start-info page that are read.
pub const START_INFO_SIZE: usize = 56;
/// Bytes of an entry of the memory map.
pub const MEMORY_ENTRY_SIZE: usize = 24;
/// Bytes of an entry of the module list.
pub const MODULE_ENTRY_SIZE: usize = 32;

/// The most entries of the memory map that are looked at.
pub const MEMORY_ENTRIES_MAX: u32 = 256;

/// Memory-map type of ordinary memory, as in E820.
pub const TYPE_RAM: u32 = 1;

/// Where the tables are; addresses are physical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartInfo {
    /// How many modules there are.
    pub modules: u32,
    /// The module list.
    pub module_list: u64,
    /// The command line, ended by a zero byte; 0 if there is none.
    pub command_line: u64,
    /// The memory map.
    pub memory_map: u64,
    /// How many entries it has.
    pub memory_entries: u32,
}

impl StartInfo {
    /// Reads the page; an error says what is wrong with it.
    pub fn parse(bytes: &[u8; START_INFO_SIZE]) -> Result<Self, &'static str> {
        if u32_at(bytes, 0) != MAGIC {
            return Err("no PVH start-info page");
        }
        if u32_at(bytes, 4) == 0 {
            return Err("the start-info page has no memory map (version 0)");
        }
        let memory_entries = u32_at(bytes, 48);
        if memory_entries == 0 || memory_entries > MEMORY_ENTRIES_MAX {
            return Err("the memory map has no entries, or too many");
        }
        Ok(Self {
            modules: u32_at(bytes, 12),
            module_list: u64_at(bytes, 16),
            command_line: u64_at(bytes, 24),
            memory_map: u64_at(bytes, 40),
            memory_entries,
        })
    }
}

/// A piece of physical memory: its address, its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl Extent {
    /// The address behind the last byte.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// The extent of a memory-map entry, if it is ordinary memory.
pub fn memory_entry(bytes: &[u8; MEMORY_ENTRY_SIZE]) -> Option<Extent> {
    let extent = Extent {
        address: u64_at(bytes, 0),
        size: u64_at(bytes, 8),
    };
    (u32_at(bytes, 16) == TYPE_RAM).then_some(extent)
}

/// The extent of a module.
pub fn module_entry(bytes: &[u8; MODULE_ENTRY_SIZE]) -> Extent {
    Extent {
        address: u64_at(bytes, 0),
        size: u64_at(bytes, 8),
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_info() -> [u8; START_INFO_SIZE] {
        let mut bytes = [0; START_INFO_SIZE];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = 1;
        bytes[12] = 2;
        bytes[16..24].copy_from_slice(&0x6040u64.to_le_bytes());
        bytes[24..32].copy_from_slice(&0x2_0000u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&0x7000u64.to_le_bytes());
        bytes[48] = 3;
        bytes
    }

    #[test]
    fn fields_are_where_the_interface_puts_them() {
        let expected = StartInfo {
            modules: 2,
            module_list: 0x6040,
            command_line: 0x2_0000,
            memory_map: 0x7000,
            memory_entries: 3,
        };
        assert_eq!(StartInfo::parse(&start_info()), Ok(expected));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (offset, value) in [(0, 0), (4, 0), (48, 0), (49, 2)] {
            let mut bytes = start_info();
            bytes[offset] = value;
            assert!(StartInfo::parse(&bytes).is_err(), "byte {offset} = {value}");
        }
    }

    #[test]
    fn only_ordinary_memory_counts() {
        let mut bytes = [0; MEMORY_ENTRY_SIZE];
        bytes[2] = 0x10;
        bytes[9] = 0x20;
        bytes[16] = 1;
        assert_eq!(
            memory_entry(&bytes),
            Some(Extent {
                address: 0x10_0000,
                size: 0x2000
            })
        );
        bytes[16] = 2;
        assert_eq!(memory_entry(&bytes), None);
    }
}
