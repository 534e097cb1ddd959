//! How a stream is cut: a preface that says what the stream is for, then frames.
//!
//! ```text
//! preface, 32 bytes: magic "ME2\x01" │ stream kind u8 │ 3 × 0 │ migration [u8; 16] │ epoch u64
//! frame header, 8:   frame kind u8 │ 3 × 0 │ payload length u32
//! ```
//!
//! The reader takes exactly [`PREFACE_BYTES`], then for each frame [`HEADER_BYTES`] and the
//! payload's length. A length is checked against the cap of its kind before anybody allocates.
//! The end of a stream is no message: what has ended is said by control messages alone.

/// Encoded length of a [`Preface`].
pub const PREFACE_BYTES: usize = 32;

/// Encoded length of a [`Header`].
pub const HEADER_BYTES: usize = 8;

/// Longest payload of a [`FrameKind::Message`] frame, in bytes.
pub const MESSAGE_BYTES_MAX: u32 = 8 << 20;

/// Longest payload of a [`FrameKind::Pages`] frame, in bytes.
pub const PAGES_BYTES_MAX: u32 = 4 << 20;

/// First bytes of every stream; the last one changes when the preface does.
const MAGIC: [u8; 4] = *b"ME2\x01";

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Control messages, ordered, both ways; one a connection.
    Control = 1,
    /// Page records from the source, of a pass or of the push.
    Bulk = 2,
    /// A request for pages and its answer; one stream a request.
    FaultAnswer = 3,
    /// The frames of the handover once more, as on the control stream: from its last announcements to
    /// the message itself.
    HandoverCopy = 4,
}

/// The longest stream of a [`StreamKind::HandoverCopy`] besides its preface, in bytes.
pub const HANDOVER_COPY_BYTES_MAX: usize = 256 << 10;

/// Opens a stream: what it is for, and the migration and attempt that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Preface {
    /// What the stream is for.
    pub kind: StreamKind,
    /// Identity of the migration.
    pub migration: [u8; 16],
    /// The attempt.
    pub epoch: u64,
}

/// What the payload of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A control message, see the module `message`.
    Message = 1,
    /// A chunk of page records, see [`crate::page`].
    Pages = 2,
}

/// Precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// What the payload is.
    pub kind: FrameKind,
    /// Length of the payload in bytes, from 1 to the kind's cap.
    pub length: u32,
}

/// A preface or a frame header that is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream does not begin as streams of me2 do.
    #[error("not a stream of me2")]
    Magic,
    /// A kind of stream that is not known.
    #[error("unknown kind of stream {0}")]
    StreamKind(u8),
    /// A kind of frame that is not known.
    #[error("unknown kind of frame {0}")]
    FrameKind(u8),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A frame without a payload.
    #[error("empty frame")]
    Empty,
    /// A payload beyond its kind's cap.
    #[error("frame of {length} bytes, at most {cap} are allowed")]
    TooLong {
        /// The length that was announced.
        length: u32,
        /// The kind's cap.
        cap: u32,
    },
}

impl Preface {
    /// The preface as bytes.
    pub fn encode(&self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..24].copy_from_slice(&self.migration);
        bytes[24..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }

    /// Reads and checks a preface. Whether migration and epoch are the expected ones is for the
    /// caller to say.
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, FrameError> {
        let (magic, rest) = bytes.split_first_chunk::<4>().expect("of 32");
        let (kind, rest) = rest.split_first_chunk::<4>().expect("of 28");
        let (migration, rest) = rest.split_first_chunk::<16>().expect("of 24");
        let epoch = rest.first_chunk::<8>().expect("of 8");
        if *magic != MAGIC {
            return Err(FrameError::Magic);
        }
        let kind = match *kind {
            [1, 0, 0, 0] => StreamKind::Control,
            [2, 0, 0, 0] => StreamKind::Bulk,
            [3, 0, 0, 0] => StreamKind::FaultAnswer,
            [4, 0, 0, 0] => StreamKind::HandoverCopy,
            [kind, 0, 0, 0] => return Err(FrameError::StreamKind(kind)),
            _ => return Err(FrameError::Reserved),
        };
        Ok(Self {
            kind,
            migration: *migration,
            epoch: u64::from_le_bytes(*epoch),
        })
    }
}

impl FrameKind {
    /// Longest payload of this kind, in bytes.
    pub fn bytes_max(self) -> u32 {
        match self {
            Self::Message => MESSAGE_BYTES_MAX,
            Self::Pages => PAGES_BYTES_MAX,
        }
    }
}

impl Header {
    /// A header for a payload of so many bytes.
    ///
    /// # Errors
    /// The payload is empty or beyond the kind's cap.
    pub fn new(kind: FrameKind, length: usize) -> Result<Self, FrameError> {
        let cap = kind.bytes_max();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        match length {
            0 => Err(FrameError::Empty),
            _ if length > cap => Err(FrameError::TooLong { length, cap }),
            _ => Ok(Self { kind, length }),
        }
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [self.kind as u8, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads and checks a header; then exactly `length` bytes of payload follow.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, r0, r1, r2, length @ ..] = *bytes;
        let kind = match kind {
            1 => FrameKind::Message,
            2 => FrameKind::Pages,
            unknown => return Err(FrameError::FrameKind(unknown)),
        };
        if [r0, r1, r2] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        Self::new(kind, u32::from_le_bytes(length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn preface_layout_is_fixed() {
        let preface = Preface {
            kind: StreamKind::Bulk,
            migration: [7; 16],
            epoch: 0x0102,
        };
        let mut expected = b"ME2\x01\x02\0\0\0".to_vec();
        expected.extend([7; 16]);
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(preface.encode()[..], expected);
        assert_eq!(Preface::decode(&preface.encode()), Ok(preface));
    }

    #[test]
    fn caps_hold_for_each_kind() {
        for (kind, byte) in [(FrameKind::Message, 1), (FrameKind::Pages, 2)] {
            let cap = kind.bytes_max();
            let header = |length: u32| {
                let [a, b, c, d] = length.to_le_bytes();
                Header::decode(&[byte, 0, 0, 0, a, b, c, d])
            };
            assert_eq!(header(cap), Ok(Header { kind, length: cap }));
            assert_eq!(
                header(cap + 1),
                Err(FrameError::TooLong {
                    length: cap + 1,
                    cap
                })
            );
            assert_eq!(header(0), Err(FrameError::Empty));
        }
    }

    #[test]
    fn zero_and_unknown_kinds_and_reserved_bytes_are_refused() {
        assert_eq!(Header::decode(&[0; 8]), Err(FrameError::FrameKind(0)));
        assert_eq!(
            Header::decode(&[9, 0, 0, 0, 1, 0, 0, 0]),
            Err(FrameError::FrameKind(9))
        );
        assert_eq!(
            Header::decode(&[1, 0, 0, 1, 1, 0, 0, 0]),
            Err(FrameError::Reserved)
        );
        let good = Preface {
            kind: StreamKind::Control,
            migration: [0; 16],
            epoch: 1,
        }
        .encode();
        for (at, error) in [
            (0, FrameError::Magic),
            (4, FrameError::StreamKind(0)),
            (5, FrameError::Reserved),
            (7, FrameError::Reserved),
        ] {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(Preface::decode(&bad), Err(error));
        }
    }

    proptest! {
        #[test]
        fn preface_round_trip(kind in 1u8..=3, migration: [u8; 16], epoch: u64) {
            let kind = match kind { 1 => StreamKind::Control, 2 => StreamKind::Bulk, _ => StreamKind::FaultAnswer };
            let preface = Preface { kind, migration, epoch };
            prop_assert_eq!(Preface::decode(&preface.encode()), Ok(preface));
        }

        #[test]
        fn any_header_that_is_taken_is_what_it_encodes_to(bytes: [u8; 8], kind in 0u8..4) {
            for bytes in [bytes, [kind, 0, 0, 0, bytes[4], bytes[5], bytes[6] & 0x7f, 0]] {
                if let Ok(header) = Header::decode(&bytes) {
                    prop_assert!(header.length <= header.kind.bytes_max());
                    prop_assert_eq!(header.encode(), bytes);
                }
            }
        }
    }
}
