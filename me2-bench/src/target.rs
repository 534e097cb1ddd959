//! What a figure should be.

/// A figure's target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// It is told, and not judged.
    None,
}

impl Target {
    pub(crate) fn value(self) -> Option<f64> {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => Some(value),
            Self::None => None,
        }
    }

    /// `None` without a target.
    pub(crate) fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(target) => Some(value <= target),
            Self::AtLeast(target) => Some(value >= target),
            Self::None => None,
        }
    }

    /// For people: `≤ 120`.
    pub(crate) fn told(self) -> String {
        match self {
            Self::AtMost(target) => format!("≤ {}", crate::plots::number(target)),
            Self::AtLeast(target) => format!("≥ {}", crate::plots::number(target)),
            Self::None => "none".to_owned(),
        }
    }
}
