//! Which packets are lost on their way.

use serde::{Deserialize, Serialize};

use crate::LinkError;

/// A model of loss. Only packets that were transmitted are lost: they have taken their time on the
/// link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each packet by itself.
    Random {
        /// Of the loss of a packet: 0 to 1.
        probability: f64,
    },
    /// In bursts (Gilbert and Elliott): a good and a bad state, drawn anew for each packet.
    Bursts {
        /// Probability, before each packet, that the good state turns bad.
        begin: f64,
        /// Probability, before each packet, that the bad state turns good.
        end: f64,
        /// Probability of loss in the bad state.
        within: f64,
        /// Probability of loss in the good state.
        between: f64,
    },
}

impl Loss {
    /// Bursts in which every packet is lost.
    ///
    /// `probability` is the share of all packets, below 1; `length` the mean number of packets in a
    /// burst, at least 1.
    pub fn bursts(probability: f64, length: f64) -> Self {
        let end = 1.0 / length;
        let begin = (end * probability / (1.0 - probability)).min(1.0);
        Loss::Bursts {
            begin,
            end,
            within: 1.0,
            between: 0.0,
        }
    }

    /// The share of packets lost in the long run.
    pub fn average(&self) -> f64 {
        match *self {
            Loss::None => 0.0,
            Loss::Random { probability } => probability,
            Loss::Bursts {
                begin,
                end,
                within,
                between,
            } => {
                let bad = if begin + end > 0.0 {
                    begin / (begin + end)
                } else {
                    0.0
                };
                bad * within + (1.0 - bad) * between
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), LinkError> {
        let probabilities = match *self {
            Loss::None => [0.0; 4],
            Loss::Random { probability } => [probability, 0.0, 0.0, 0.0],
            Loss::Bursts {
                begin,
                end,
                within,
                between,
            } => [begin, end, within, between],
        };
        let valid = probabilities
            .iter()
            .all(|probability| (0.0..=1.0).contains(probability));
        valid
            .then_some(())
            .ok_or(LinkError::Spec("probabilities of loss must be 0 to 1"))
    }
}

/// Draws the fate of packets, one after the other.
#[derive(Debug)]
pub(crate) struct LossProcess {
    model: Loss,
    bad: bool,
}

impl LossProcess {
    pub(crate) fn new(model: Loss) -> Self {
        Self { model, bad: false }
    }

    /// Whether the next packet is lost.
    pub(crate) fn next(&mut self, random: &mut fastrand::Rng) -> bool {
        match self.model {
            Loss::None => false,
            Loss::Random { probability } => random.f64() < probability,
            Loss::Bursts {
                begin,
                end,
                within,
                between,
            } => {
                if random.f64() < if self.bad { end } else { begin } {
                    self.bad = !self.bad;
                }
                random.f64() < if self.bad { within } else { between }
            }
        }
    }
}
