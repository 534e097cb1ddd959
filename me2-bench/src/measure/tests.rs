use super::*;
use crate::outputs::{Beat, Line};

struct Story {
    start: Instant,
}

impl Story {
    fn new() -> Self {
        Self {
            start: Instant::now() + Duration::from_secs(100),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn beats(&self, cpu: u8, times_ms: impl IntoIterator<Item = u64>) -> Vec<Beat> {
        let beat = |ms| Beat {
            at: self.at(ms),
            cpu,
        };
        times_ms.into_iter().map(beat).collect()
    }

    fn lines(&self, counts: impl IntoIterator<Item = (u64, u64)>) -> Vec<Line> {
        let line = |(ms, operations)| Line {
            at: self.at(ms),
            text: format!("me2-guest cpu=0 t_ms=0 ops={operations} verified=0 errors=0"),
        };
        counts.into_iter().map(line).collect()
    }
}

fn recording(beats: Vec<Beat>, lines: Vec<Line>) -> Recording {
    let mut recording = Recording::default();
    recording.beats = beats;
    recording.lines = lines;
    recording
}

#[test]
fn the_longest_silence_of_any_cpu_counts() {
    let story = Story::new();
    let mut beats = story.beats(0, (0..1000).step_by(10));
    beats.extend(story.beats(1, [0, 500, 990]));
    beats.sort_by_key(|beat| beat.at);
    let longest = |from, until| Silence::longest(&beats, story.at(from), story.at(until));
    assert_eq!(longest(0, 990), Some(Duration::from_millis(500)));
    // Only the later gap of CPU 1 reaches into this.
    assert_eq!(longest(501, 990), Some(Duration::from_millis(490)));
    // What lies behind the end does not count, what lies before the beginning does.
    assert_eq!(longest(600, 700), Some(Duration::from_millis(200)));
}

#[test]
fn silence_until_the_end_counts_and_no_beat_is_unknown() {
    let story = Story::new();
    let beats = story.beats(0, [0, 10]);
    let longest = Silence::longest(&beats, story.at(0), story.at(5010));
    assert_eq!(longest, Some(Duration::from_secs(5)));
    assert_eq!(Silence::longest(&[], story.at(0), story.at(1)), None);
}

#[test]
fn a_stop_is_from_the_last_beat_here_to_the_first_there() {
    let story = Story::new();
    let mut source = story.beats(0, [0, 10]);
    source.extend(story.beats(1, [12]));
    let mut destination = story.beats(1, [40]);
    destination.extend(story.beats(0, [100]));
    let source = recording(source, vec![]);
    let destination = recording(destination, vec![]);
    let stop = silence::stop(&source, &destination).expect("both ends have both");
    assert_eq!(stop.stopped, story.at(12));
    assert_eq!(stop.resumed, story.at(40));
    assert_eq!(stop.silence, Duration::from_millis(90));
    assert_eq!(silence::stop(&source, &Recording::default()), None);
    assert_eq!(silence::stop(&Recording::default(), &source), None);
    let one = recording(story.beats(0, [100]), vec![]);
    assert_eq!(silence::stop(&source, &one), None, "CPU 1 never came back");
}

#[test]
fn speed_is_interpolated_between_reports_only() {
    let story = Story::new();
    let speed = Speed::of(&story.lines([(0, 0), (100, 100), (200, 400)]));
    let rate = |from, until| speed.rate(story.at(from), story.at(until));
    assert_eq!(rate(0, 100), Some(1000.0));
    assert_eq!(rate(50, 150), Some(2000.0));
    assert_eq!(rate(150, 250), None);
    assert_eq!(rate(100, 100), None);
    assert_eq!(Speed::of(&[]).rate(story.at(0), story.at(1)), None);
}

#[test]
fn operations_lie_where_the_beats_were() {
    let story = Story::new();
    let mut beats = story.beats(0, [5, 95, 135, 140, 295]);
    beats.extend(story.beats(1, [50]));
    let speed = Speed::of(&story.lines([(0, 0), (100, 30), (200, 31), (300, 41)]));
    let bins = |from, until| {
        let (from, until) = (story.at(from), story.at(until));
        Operations::of(&speed, &beats, from, until, from)
    };
    let all = bins(0, 400);
    let busy: Vec<(usize, u32)> = all.completed.iter().copied().enumerate().collect();
    let busy: Vec<_> = busy.into_iter().filter(|(_, done)| *done > 0).collect();
    // Of the one operation between 100 and 200 each of two beats has a half.
    assert_eq!(busy, [(0, 15), (9, 15), (13, 1), (29, 10)]);
    assert_eq!(all.completed.len(), 40);
    assert_eq!(bins(100, 200).completed.iter().sum::<u32>(), 1);
    let (at, rate) = all.rates().nth(9).expect("40 of them");
    assert!((at - 0.09).abs() < 1e-9 && rate == 1500.0, "{at} {rate}");
    assert!(bins(400, 300).completed.is_empty());
}

#[test]
fn recovered_is_when_the_speed_is_back_to_stay() {
    let story = Story::new();
    // 1000/s; a standstill from 1000 to 2000, a short spurt, half speed until 3000.
    let mut count = 0;
    let counts = (0..60).map(|index| {
        let now = (index * 100, count);
        count += match index * 100 {
            1000..2000 => 0,
            2000..2100 => 100,
            2100..3000 => 50,
            _ => 100,
        };
        now
    });
    let speed = Speed::of(&story.lines(counts));
    let recovered = speed.recovered(story.at(1000), 1000.0, story.at(5800));
    let recovered = recovered.expect("it is back") - story.at(0);
    assert!(recovered >= Duration::from_millis(3050), "{recovered:?}");
    assert!(recovered <= Duration::from_millis(3110), "{recovered:?}");
    assert_eq!(
        speed.recovered(story.at(1000), 3000.0, story.at(5800)),
        None
    );
}

#[test]
fn a_whole_move_is_read_out() {
    let story = Story::new();
    let source = recording(
        story.beats(0, (0..=3000).step_by(1)),
        story.lines((0..=30).map(|tenth| (tenth * 100, tenth * 200))),
    );
    let destination = recording(
        story.beats(0, (3250..10_000).step_by(1)),
        story.lines((0..66).map(|tenth| (3350 + tenth * 100, 6200 + tenth * 200))),
    );
    let moments = Moments {
        requested: story.at(2000),
        ended: story.at(4000),
        watched: story.at(9000),
    };
    let fared = fared(&source, &destination, moments, true);
    assert_eq!(fared.downtime_ms, Some(250.0));
    assert_eq!(fared.guest_silence_ms_max, Some(250.0));
    assert_eq!(fared.rate_before, Some(2000.0));
    assert_eq!(fared.stop_s, Some(1.0));
    let recovered = fared.recovered_90_percent_s.expect("at once");
    assert!((0.35..0.5).contains(&recovered), "{recovered}");
    let during = fared.speed_during.expect("told");
    assert!((0.8..0.95).contains(&during), "{during}");
    assert_eq!(fared.speeds.first(), Some(&(-1.0, 2000.0)));
    assert_eq!(fared.speeds.len(), 80);
    let until_stop = fared.speed_until_stop.expect("told");
    assert!((until_stop - 1.0).abs() < 1e-9, "{until_stop}");
    let Operations {
        from_s,
        bin_ms,
        completed,
    } = &fared.operations;
    assert_eq!((*from_s, *bin_ms, completed.len()), (-1.0, 10.0, 800));
    // A beat each millisecond, 200 operations each tenth of a second.
    assert!(completed[..100].iter().all(|done| (18..=22).contains(done)));
    // The stop is 2 s after the beginning of the bins, and 250 ms long.
    assert!(completed[201..224].iter().all(|done| *done == 0));
    assert!(completed[225] > 0);
}

#[test]
fn a_guest_that_stayed_has_no_stop() {
    let story = Story::new();
    let source = recording(
        story.beats(0, (0..9000).step_by(1)),
        story.lines((0..90).map(|tenth| (tenth * 100, tenth * 200))),
    );
    let moments = Moments {
        requested: story.at(2000),
        ended: story.at(4000),
        watched: story.at(8000),
    };
    let fared = fared(&source, &Recording::default(), moments, false);
    assert_eq!(
        (fared.downtime_ms, fared.guest_silence_ms_max),
        (None, None)
    );
    assert_eq!(fared.speed_during, Some(1.0));
}
