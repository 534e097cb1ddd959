//! Buffers for packets, used again and again.

use crate::direction::Token;

/// Most packets on their way in one direction: with more, the link drops (200 MB of memory).
const PACKETS_MAX: usize = 1 << 17;

/// Buffers of one size, named by tokens. It grows to what is needed at once and stays so.
#[derive(Debug)]
pub(crate) struct Pool {
    buffers: Vec<Box<[u8]>>,
    /// The last one used is the first to be used again: it is in the cache.
    free: Vec<Token>,
    size: usize,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            buffers: Vec::new(),
            free: Vec::new(),
            size,
        }
    }

    /// Keeps a packet, unless there are too many already.
    ///
    /// # Panics
    /// If the packet is larger than a buffer.
    pub(crate) fn store(&mut self, packet: &[u8]) -> Option<Token> {
        let token = match self.free.pop() {
            Some(token) => token,
            None if self.buffers.len() < PACKETS_MAX => {
                self.buffers.push(vec![0; self.size].into());
                (self.buffers.len() - 1) as Token
            }
            None => return None,
        };
        self.buffers[token as usize][..packet.len()].copy_from_slice(packet);
        Some(token)
    }

    /// The buffer is free again.
    pub(crate) fn put_back(&mut self, token: Token) {
        self.free.push(token);
    }

    /// The packet in a buffer.
    pub(crate) fn packet(&self, token: Token, bytes: u32) -> &[u8] {
        &self.buffers[token as usize][..bytes as usize]
    }
}
