//! Where both ends of a migration are: an emulated link, or a network without any limit.

mod loopback;
mod name;
pub(crate) mod tcp;

use std::{net::IpAddr, process::Command};

use anyhow::Context;
use me2_link::{End, Link};
use serde::{Deserialize, Serialize};

use crate::process::bound_to_us;
use loopback::Loopback;
pub(crate) use name::{LinkLoss, LinkName, LinkParameters};

/// Bytes of IP packets that the link carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkBytes {
    /// From the source to the destination.
    pub(crate) forth: u64,
    pub(crate) back: u64,
    /// Packets that found the queue full, both ways; they are not among the bytes.
    pub(crate) queue_drops: u64,
}

impl LinkBytes {
    pub(crate) fn sum(self) -> u64 {
        self.forth.saturating_add(self.back)
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            forth: self.forth.saturating_sub(before.forth),
            back: self.back.saturating_sub(before.back),
            queue_drops: self.queue_drops.saturating_sub(before.queue_drops),
        }
    }
}

/// Two places for processes, and what joins them; the source is at [`End::A`].
pub(crate) enum Network {
    Emulated(Link),
    Loopback(Loopback),
}

impl Network {
    /// Sets it up, with TCP as a good operator would have it; all of it goes away when dropped.
    pub(crate) fn start(name: LinkName) -> anyhow::Result<Self> {
        let network = match name.spec() {
            Some(spec) => {
                let link = Link::start(spec);
                Self::Emulated(link.with_context(|| format!("cannot emulate link {name}"))?)
            }
            None => Self::Loopback(Loopback::start()?),
        };
        tcp::tune(&network, name.bandwidth_delay_bytes())?;
        Ok(network)
    }

    /// A command that runs at this end and dies with this process.
    pub(crate) fn command(&self, end: End, program: &str) -> Command {
        bound_to_us(program, |wrapper| match self {
            Self::Emulated(link) => link.command(end, wrapper),
            Self::Loopback(loopback) => loopback.command(wrapper),
        })
    }

    pub(crate) fn address(&self, end: End) -> IpAddr {
        match self {
            Self::Emulated(link) => link.address(end),
            Self::Loopback(_) => loopback::ADDRESS.into(),
        }
    }

    /// What it has carried so far.
    pub(crate) fn bytes(&self) -> anyhow::Result<LinkBytes> {
        match self {
            Self::Emulated(link) => {
                let stats = link.stats();
                Ok(LinkBytes {
                    forth: stats.a_to_b.bytes,
                    back: stats.b_to_a.bytes,
                    queue_drops: stats.a_to_b.queue_drops + stats.b_to_a.queue_drops,
                })
            }
            Self::Loopback(loopback) => loopback.bytes(),
        }
    }
}
