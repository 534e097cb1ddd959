//! What is read out of a guest's recording: how long it was silent, how fast it worked.
//!
//! The same for every scheme, from outside of all of them.

mod bins;
mod silence;
mod speed;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::outputs::Recording;
pub(crate) use bins::Operations;
use silence::Silence;
use speed::Speed;

/// How long before the stop the search for the longest silence begins.
const BEFORE_STOP: Duration = Duration::from_secs(1);
/// How long the guest is watched when it has resumed and everything is there.
pub(crate) const AFTER_COMPLETE: Duration = Duration::from_secs(5);
/// Over how long the speed before the migration is taken.
pub(crate) const STEADY: Duration = Duration::from_secs(1);
/// The guest's speed is looked at in windows of this length.
const WINDOW: Duration = Duration::from_millis(100);

/// When things happened, by this program's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) requested: Instant,
    /// Complete, or given up.
    pub(crate) ended: Instant,
    /// Until when the guest was watched.
    pub(crate) watched: Instant,
}

/// How the guest fared; null is what could not be seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fared {
    /// The last sign of life at the source to the first at the destination, longest of all CPUs.
    pub(crate) downtime_ms: Option<f64>,
    /// The longest time without a completed operation, of any CPU, from 1 s before the stop until 5 s
    /// after the resume or the completion, whichever is later.
    pub(crate) guest_silence_ms_max: Option<f64>,
    /// From the stop until the guest works at 90% of its speed before again.
    pub(crate) recovered_90_percent_s: Option<f64>,
    /// Operations a second in the second before the request.
    pub(crate) rate_before: Option<f64>,
    /// From the request to the completion, as a part of that.
    pub(crate) speed_during: Option<f64>,
    /// From the request to the stop, as a part of that: what exploration and pre-copy cost it.
    #[serde(default)]
    pub(crate) speed_until_stop: Option<f64>,
    /// From the request to the stop, seconds.
    pub(crate) stop_s: Option<f64>,
    /// Seconds since the request, and operations a second in the tenth of a second from there on.
    pub(crate) speeds: Vec<(f64, f64)>,
    /// The same more finely.
    #[serde(default)]
    pub(crate) operations: Operations,
}

/// Reads it out of what both processes said. `moved`: whether the guest is at the destination now.
pub(crate) fn fared(
    source: &Recording,
    destination: &Recording,
    moments: Moments,
    moved: bool,
) -> Fared {
    let joined = Recording::joined(source, destination);
    let speed = Speed::of(&joined.lines);
    let before = speed.rate(moments.requested - STEADY, moments.requested);
    let during = speed.rate(moments.requested, moments.ended);
    let mut fared = Fared {
        rate_before: before,
        speed_during: before.zip(during).map(|(before, during)| during / before),
        speeds: speed.windows(
            moments.requested - STEADY,
            moments.watched,
            WINDOW,
            moments.requested,
        ),
        operations: Operations::of(
            &speed,
            &joined.beats,
            moments.requested - STEADY,
            moments.watched,
            moments.requested,
        ),
        ..Fared::default()
    };
    let Some(stop) = silence::stop(source, destination).filter(|_| moved) else {
        return fared;
    };
    let from = stop.stopped - BEFORE_STOP;
    let until = stop.resumed.max(moments.ended) + AFTER_COMPLETE;
    let until = until.min(moments.watched);
    fared.downtime_ms = Some(ms(stop.silence));
    fared.guest_silence_ms_max = Silence::longest(&joined.beats, from, until).map(ms);
    let after = before.and_then(|before| speed.recovered(stop.resumed, before, moments.watched));
    fared.recovered_90_percent_s = after.map(|at| (at - stop.stopped).as_secs_f64());
    let until_stop = speed.rate(moments.requested, stop.stopped);
    fared.speed_until_stop = before.zip(until_stop).map(|(before, then)| then / before);
    fared.stop_s = Some((stop.stopped.saturating_duration_since(moments.requested)).as_secs_f64());
    fared
}

/// Operations a second of all CPUs; `None` where nothing was told around that time.
pub(crate) fn rate(recording: &Recording, from: Instant, until: Instant) -> Option<f64> {
    Speed::of(&recording.lines).rate(from, until)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests;
