//! The headers of a chunk's records, in columns.

use super::{Codec, PageError, Source};
use crate::{
    PAGE_SIZE, PageIndex, Version, ZERO_PAGE_HASH,
    number::{NumberError, read_difference, read_number, write_difference, write_number},
};

/// The headers of the records, as they travel.
#[derive(Debug, Default)]
pub(super) struct Columns {
    codecs: Vec<u8>,
    indices: Vec<u8>,
    versions: Vec<u8>,
    sources: Vec<u8>,
    lengths: Vec<u8>,
    hashes: Vec<u8>,
    /// What the next index and version are given relative to.
    index_expected: PageIndex,
    version_expected: Version,
}

/// The header of a record, as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub(super) index: PageIndex,
    pub(super) version: Version,
    pub(super) codec: Codec,
    pub(super) hash: u64,
    pub(super) source: Option<Source>,
    pub(super) payload_bytes: usize,
}

impl Columns {
    /// Appends the header of a record.
    pub(super) fn push(
        &mut self,
        index: PageIndex,
        version: Version,
        codec: Codec,
        source: Option<Source>,
        hash: u64,
        payload_bytes: usize,
    ) {
        self.codecs.push(codec as u8);
        write_difference(&mut self.indices, index, self.index_expected);
        write_difference(&mut self.versions, version, self.version_expected);
        self.index_expected = index.wrapping_add(1);
        self.version_expected = version;
        match (codec, source) {
            (Codec::Delta, Some(source)) => {
                assert!(
                    source.version != 0 && source.version < version,
                    "the base is an older version"
                );
                write_number(&mut self.sources, version - source.version);
            }
            (Codec::Reference, Some(source)) => {
                write_difference(&mut self.sources, source.page, index);
                write_difference(&mut self.sources, source.version, version);
            }
            _ => {}
        }
        if matches!(codec, Codec::Rle | Codec::Delta) {
            self.lengths
                .extend_from_slice(&(payload_bytes as u16).to_le_bytes());
        }
        if codec != Codec::Zero {
            self.hashes.extend_from_slice(&hash.to_le_bytes());
        }
    }

    /// The columns, each in one piece.
    pub(super) fn in_order(&self) -> [&[u8]; 6] {
        [
            &self.codecs,
            &self.indices,
            &self.versions,
            &self.sources,
            &self.lengths,
            &self.hashes,
        ]
    }

    /// Length of all of them together.
    pub(super) fn bytes(&self) -> usize {
        self.in_order().iter().map(|column| column.len()).sum()
    }

    pub(super) fn clear(&mut self) {
        self.codecs.clear();
        self.indices.clear();
        self.versions.clear();
        self.sources.clear();
        self.lengths.clear();
        self.hashes.clear();
        self.index_expected = 0;
        self.version_expected = 0;
    }
}

/// Reads the headers of all records, and gives the payloads, which are as long as these say.
pub(super) fn read_columns<'a>(
    mut body: &'a [u8],
    records: usize,
    total_pages: PageIndex,
    headers: &mut Vec<RecordHeader>,
) -> Result<&'a [u8], PageError> {
    headers.clear();
    for codec in take(&mut body, records)? {
        headers.push(RecordHeader {
            index: 0,
            version: 0,
            codec: Codec::from_byte(*codec)?,
            hash: ZERO_PAGE_HASH,
            source: None,
            payload_bytes: 0,
        });
    }
    let mut expected: PageIndex = 0;
    for header in headers.iter_mut() {
        header.index = within(read_difference(&mut body, expected)?, total_pages)?;
        expected = header.index.wrapping_add(1);
    }
    let mut expected: Version = 0;
    for header in headers.iter_mut() {
        header.version = read_difference(&mut body, expected)?;
        expected = header.version;
        if header.version == 0 {
            return Err(PageError::Malformed(header.index));
        }
    }
    for header in headers.iter_mut() {
        header.source = read_source(&mut body, header, total_pages)?;
    }
    let mut payload_bytes = 0;
    for header in headers.iter_mut() {
        header.payload_bytes = read_length(&mut body, header)?;
        payload_bytes += header.payload_bytes;
    }
    for header in headers.iter_mut() {
        if header.codec != Codec::Zero {
            let hash = take(&mut body, 8)?.try_into().expect("8 bytes");
            header.hash = u64::from_le_bytes(hash);
        }
    }
    match body.len() {
        length if length < payload_bytes => Err(PageError::Truncated),
        length if length > payload_bytes => Err(PageError::Trailing),
        _ => Ok(body),
    }
}

fn read_source(
    body: &mut &[u8],
    header: &RecordHeader,
    total_pages: PageIndex,
) -> Result<Option<Source>, PageError> {
    let own = Source {
        page: header.index,
        version: header.version,
    };
    let source = match header.codec {
        Codec::Delta => Source {
            page: own.page,
            // Of itself, or of a version below 0, is refused below.
            version: own
                .version
                .checked_sub(read_number(body)?)
                .ok_or(PageError::Malformed(own.page))?,
        },
        Codec::Reference => Source {
            page: within(read_difference(body, own.page)?, total_pages)?,
            version: read_difference(body, own.version)?,
        },
        Codec::Zero | Codec::Rle | Codec::Raw => return Ok(None),
    };
    if source.version == 0 || source == own {
        return Err(PageError::Malformed(own.page));
    }
    Ok(Some(source))
}

fn read_length(body: &mut &[u8], header: &RecordHeader) -> Result<usize, PageError> {
    match header.codec {
        Codec::Zero | Codec::Reference => Ok(0),
        Codec::Raw => Ok(PAGE_SIZE),
        Codec::Rle | Codec::Delta => {
            let length = take(body, 2)?.try_into().expect("2 bytes");
            let length = usize::from(u16::from_le_bytes(length));
            if (1..PAGE_SIZE).contains(&length) {
                Ok(length)
            } else {
                Err(PageError::PayloadLength {
                    page: header.index,
                    length,
                })
            }
        }
    }
}

fn within(page: PageIndex, total_pages: PageIndex) -> Result<PageIndex, PageError> {
    if page < total_pages {
        Ok(page)
    } else {
        Err(PageError::BeyondMemory { page, total_pages })
    }
}

fn take<'a>(body: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], PageError> {
    let taken;
    (taken, *body) = body.split_at_checked(bytes).ok_or(PageError::Truncated)?;
    Ok(taken)
}

impl Codec {
    fn from_byte(byte: u8) -> Result<Self, PageError> {
        match byte {
            1 => Ok(Self::Zero),
            2 => Ok(Self::Rle),
            3 => Ok(Self::Raw),
            4 => Ok(Self::Delta),
            5 => Ok(Self::Reference),
            unknown => Err(PageError::UnsupportedCodec(unknown)),
        }
    }
}

impl From<NumberError> for PageError {
    fn from(error: NumberError) -> Self {
        match error {
            NumberError::Truncated => Self::Truncated,
            NumberError::Malformed => Self::Number,
        }
    }
}
