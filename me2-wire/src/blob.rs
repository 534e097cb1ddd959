//! State blobs: one piece of a vCPU's or a device's state, opaque here.
//!
//! Kind and version say how the bytes are to be read: a destination that does not know them
//! refuses the VM before it runs.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest blob that is taken from a peer, in bytes.
pub const BLOB_BYTES_MAX: usize = 1 << 20;

/// Most blobs that are taken from a peer at once.
pub const BLOBS_MAX: usize = 1024;

/// One piece of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBlob {
    /// What it is the state of; never 0.
    #[serde(deserialize_with = "nonzero")]
    pub kind: u16,
    /// Version of the bytes' format.
    pub version: u16,
    /// Which one of several of this kind: number of the vCPU, of the device.
    pub index: u16,
    /// The state, at most [`BLOB_BYTES_MAX`].
    #[serde(with = "bounded_bytes")]
    pub bytes: Vec<u8>,
}

/// Reads a list of at most [`BLOBS_MAX`] blobs and allocates only for those that came, for
/// `#[serde(deserialize_with = "…")]` on a `Vec<StateBlob>`.
pub fn bounded_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<StateBlob>, D::Error> {
    struct Blobs;
    impl<'de> de::Visitor<'de> for Blobs {
        type Value = Vec<StateBlob>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {BLOBS_MAX} state blobs")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(
            self,
            mut sequence: A,
        ) -> Result<Self::Value, A::Error> {
            let mut blobs = Vec::new();
            while let Some(blob) = sequence.next_element()? {
                if blobs.len() == BLOBS_MAX {
                    return Err(de::Error::invalid_length(BLOBS_MAX + 1, &self));
                }
                blobs.push(blob);
            }
            Ok(blobs)
        }
    }
    deserializer.deserialize_seq(Blobs)
}

fn nonzero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(de::Error::custom("state blob of kind 0")),
        kind => Ok(kind),
    }
}

/// As a byte string, so that nothing is allocated before the bytes are seen to be there.
mod bounded_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {BLOB_BYTES_MAX} bytes of state")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                if bytes.len() > BLOB_BYTES_MAX {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct List(#[serde(deserialize_with = "bounded_list")] Vec<StateBlob>);

    fn blob(kind: u16, bytes: Vec<u8>) -> StateBlob {
        StateBlob {
            kind,
            version: 1,
            index: 0,
            bytes,
        }
    }

    fn round_trip(blobs: Vec<StateBlob>) -> Result<List, postcard::Error> {
        postcard::from_bytes(&postcard::to_stdvec(&List(blobs)).unwrap())
    }

    #[test]
    fn caps_hold() {
        let longest = vec![blob(1, vec![9; BLOB_BYTES_MAX])];
        assert_eq!(round_trip(longest.clone()).unwrap(), List(longest));
        assert!(round_trip(vec![blob(1, vec![9; BLOB_BYTES_MAX + 1])]).is_err());
        assert!(round_trip(vec![blob(1, vec![]); BLOBS_MAX]).is_ok());
        assert!(round_trip(vec![blob(1, vec![]); BLOBS_MAX + 1]).is_err());
        assert!(round_trip(vec![blob(0, vec![])]).is_err());
    }

    #[test]
    fn a_length_without_the_bytes_is_an_error() {
        for bytes in [
            &[1, 1, 1, 0, 0xff, 0xff, 0x3f][..],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[],
        ] {
            assert!(postcard::from_bytes::<List>(bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn blobs_round_trip(blobs in vec((1u16.., any::<u16>(), any::<u16>(), vec(any::<u8>(), 0..200)), 0..20)) {
            let blobs: Vec<_> = blobs
                .into_iter()
                .map(|(kind, version, index, bytes)| StateBlob { kind, version, index, bytes })
                .collect();
            prop_assert_eq!(round_trip(blobs.clone()).unwrap(), List(blobs));
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
            _ = postcard::from_bytes::<List>(&bytes);
        }
    }
}
