//! The emulation of one direction in virtual time: exact, and without any clock.

use std::time::Duration;

use me2_link::direction::{Direction, Nanoseconds, Token};
use me2_link::{Action, Change, DirectionSpec, Loss, Queue};

const MILLISECOND: Nanoseconds = 1_000_000;
const PACKET: u32 = 1500;
/// Of a packet at 100 Mbit/s.
const TRANSMISSION: Nanoseconds = 120_000;
const ROUND_TRIP: Duration = Duration::from_millis(20);

fn spec() -> DirectionSpec {
    DirectionSpec {
        rate_bits_per_second: 100_000_000,
        delay: Duration::from_millis(10),
        queue: Queue::Bytes(u64::MAX),
        ..DirectionSpec::default()
    }
}

fn direction(spec: DirectionSpec) -> Direction {
    Direction::new(spec, ROUND_TRIP, 7)
}

/// Packets with their times of arrival, woken exactly when the direction asks for it.
fn deliver_all(direction: &mut Direction) -> Vec<(Token, Nanoseconds)> {
    let mut delivered = Vec::new();
    while let Some(now) = direction.next_event() {
        direction.advance(now);
        while let Some((token, _)) = direction.pop_due(now) {
            delivered.push((token, now));
        }
    }
    delivered
}

fn discarded(direction: &mut Direction) -> Vec<Token> {
    std::iter::from_fn(|| direction.take_discarded()).collect()
}

#[test]
fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
    let mut direction = direction(spec());
    for token in 0..1000 {
        direction.offer(0, token, PACKET);
    }
    assert_eq!(direction.counters().queue_bytes, 1_500_000);
    let expected = (0..1000)
        .map(|token| {
            (
                token,
                (u64::from(token) + 1) * TRANSMISSION + 10 * MILLISECOND,
            )
        })
        .collect::<Vec<_>>();
    assert_eq!(deliver_all(&mut direction), expected);
    assert_eq!(direction.counters().delivered_bytes, 1_500_000);
    assert_eq!(direction.counters().queue_bytes, 0);
}

#[test]
fn an_idle_link_does_not_save_up_for_later() {
    let mut direction = direction(spec());
    direction.offer(0, 0, PACKET);
    direction.offer(50 * MILLISECOND, 1, PACKET);
    direction.offer(50 * MILLISECOND, 2, 40);
    let arrivals: Vec<_> = deliver_all(&mut direction)
        .into_iter()
        .map(|(_, at)| at)
        .collect();
    let second = 60 * MILLISECOND + TRANSMISSION;
    assert_eq!(
        arrivals,
        [10 * MILLISECOND + TRANSMISSION, second, second + 3200]
    );
}

#[test]
fn being_called_late_changes_nothing() {
    let spec = DirectionSpec {
        jitter: Duration::from_millis(3),
        loss: Loss::Random { probability: 0.2 },
        reorder: 0.1,
        schedule: vec![Change {
            at: Duration::from_millis(20),
            action: Action::Rate {
                bits_per_second: 30_000_000,
            },
        }],
        ..spec()
    };
    let order = |wake_every: Nanoseconds| {
        let mut direction = direction(spec.clone());
        (0..500).for_each(|token| direction.offer(0, token, PACKET));
        let mut delivered = Vec::new();
        let mut now = 0;
        while direction.next_event().is_some() {
            now += wake_every;
            direction.advance(now);
            delivered.extend(std::iter::from_fn(|| direction.pop_due(now)));
        }
        delivered
    };
    let exact = order(1000);
    assert!(exact.len() > 300);
    assert_eq!(exact, order(7 * MILLISECOND));
    assert_eq!(exact, order(1000 * MILLISECOND));
}

#[test]
fn a_full_queue_drops_at_its_tail() {
    let mut direction = direction(DirectionSpec {
        queue: Queue::Bytes(15_000),
        ..spec()
    });
    (0..25).for_each(|token| direction.offer(0, token, PACKET));
    assert_eq!(direction.counters().packets, 10);
    assert_eq!(direction.counters().queue_drops, 15);
    assert_eq!(direction.counters().queue_bytes_max, 15_000);
    assert_eq!(
        discarded(&mut direction),
        (10..25).rev().collect::<Vec<_>>()
    );
    // One has left: one has room.
    direction.offer(TRANSMISSION, 25, PACKET);
    direction.offer(TRANSMISSION, 26, PACKET);
    assert_eq!(direction.counters().queue_drops, 16);
    assert_eq!(deliver_all(&mut direction).len(), 11);
}

#[test]
fn a_queue_in_time_follows_the_rate_and_one_in_products_does_not() {
    let accepted = |queue| {
        let mut direction = direction(DirectionSpec { queue, ..spec() });
        direction.apply(
            0,
            Action::Rate {
                bits_per_second: 10_000_000,
            },
        );
        (0..1000).for_each(|token| direction.offer(0, token, PACKET));
        direction.counters().packets
    };
    // 20 ms at 10 Mbit/s, and at the first 100 Mbit/s.
    assert_eq!(accepted(Queue::Milliseconds(20.0)), 25_000 / 1500);
    assert_eq!(accepted(Queue::BandwidthDelay(1.0)), 250_000 / 1500);
}

#[test]
fn a_change_of_rate_holds_for_what_waits() {
    let mut direction = direction(spec());
    direction.offer(0, 0, PACKET);
    direction.offer(0, 1, PACKET);
    // Half of the first has left; the other half takes twice as long.
    direction.apply(
        TRANSMISSION / 2,
        Action::Rate {
            bits_per_second: 50_000_000,
        },
    );
    let first = TRANSMISSION / 2 + TRANSMISSION + 10 * MILLISECOND;
    let expected = [(0, first), (1, first + 2 * TRANSMISSION)];
    assert_eq!(deliver_all(&mut direction), expected);
}

#[test]
fn a_cut_loses_what_is_on_its_way_and_what_enters() {
    let mut direction = direction(spec());
    (0..100).for_each(|token| direction.offer(0, token, PACKET));
    let cut = 12 * MILLISECOND;
    direction.apply(cut, Action::Cut);
    direction.offer(cut + 1, 100, PACKET);
    direction.apply(2 * cut, Action::Mend);
    direction.offer(2 * cut, 101, PACKET);

    let mut delivered = Vec::new();
    while let Some(now) = direction.next_event() {
        direction.advance(now);
        delivered.extend(std::iter::from_fn(|| direction.pop_due(now)).map(|(token, _)| token));
    }
    // Those that had arrived by 12 ms: 16 transmissions and 10 ms.
    let expected: Vec<_> = (0..16).chain([101]).collect();
    assert_eq!(delivered, expected);
    assert_eq!(direction.counters().cut_drops, 85);
    let mut all = [delivered, discarded(&mut direction)].concat();
    all.sort_unstable();
    assert_eq!(
        all,
        (0..102).collect::<Vec<_>>(),
        "each token comes back once"
    );
}

#[test]
fn a_schedule_does_what_commands_do() {
    let at = |milliseconds, action| Change {
        at: Duration::from_millis(milliseconds),
        action,
    };
    let schedule = vec![
        at(
            5,
            Action::Rate {
                bits_per_second: 20_000_000,
            },
        ),
        at(30, Action::Cut),
        at(40, Action::Mend),
    ];
    let run = |schedule: Vec<Change>, commands: Vec<Change>| {
        let mut direction = direction(DirectionSpec { schedule, ..spec() });
        let mut commands = commands.into_iter().peekable();
        for token in 0..600 {
            let now = u64::from(token) * MILLISECOND / 10;
            while let Some(change) = commands.next_if(|next| next.at.as_nanos() <= now.into()) {
                direction.apply(change.at.as_nanos() as u64, change.action);
            }
            direction.offer(now, token, PACKET);
        }
        (deliver_all(&mut direction), *direction.counters())
    };
    assert_eq!(run(schedule.clone(), Vec::new()), run(Vec::new(), schedule));
}

#[test]
fn losses_are_as_many_as_asked_for_and_repeat_with_the_seed() {
    const PACKETS: u32 = 200_000;
    let lost = |loss: &Loss, seed| {
        let spec = DirectionSpec {
            loss: loss.clone(),
            rate_bits_per_second: 0,
            ..spec()
        };
        let mut direction = Direction::new(spec, ROUND_TRIP, seed);
        (0..PACKETS).for_each(|token| direction.offer(0, token, PACKET));
        let mut lost = discarded(&mut direction);
        lost.sort_unstable();
        assert_eq!(direction.counters().loss_drops, lost.len() as u64);
        assert_eq!(
            direction.counters().packets,
            u64::from(PACKETS),
            "carried, then lost"
        );
        lost
    };
    let random = Loss::Random { probability: 0.01 };
    assert_eq!(lost(&random, 1), lost(&random, 1));
    assert_ne!(lost(&random, 1), lost(&random, 2));
    // 2000 expected, with a standard deviation of 44.
    let count = lost(&random, 3).len();
    assert!((1800..2200).contains(&count), "{count}");

    let bursts = Loss::bursts(0.01, 5.0);
    assert!((bursts.average() - 0.01).abs() < 1e-12);
    let lost = lost(&bursts, 3);
    let begun = 1 + lost
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1)
        .count();
    let length = lost.len() as f64 / begun as f64;
    assert!((1600..2400).contains(&lost.len()), "{}", lost.len());
    assert!((4.3..5.7).contains(&length), "{length}");
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    let jitter = Duration::from_millis(2);
    let mut jittery = direction(DirectionSpec {
        jitter,
        rate_bits_per_second: 0,
        ..spec()
    });
    (0..1000).for_each(|token| jittery.offer(u64::from(token) * 5 * MILLISECOND, token, PACKET));
    let delivered = deliver_all(&mut jittery);
    assert!(delivered.is_sorted());
    let delays: Vec<_> = delivered
        .iter()
        .map(|&(token, at)| at - u64::from(token) * 5 * MILLISECOND)
        .collect();
    let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    let mean = delays.iter().sum::<u64>() / 1000;
    assert!((8 * MILLISECOND..8_100_000).contains(least), "{least}");
    assert!((11_900_000..=12 * MILLISECOND).contains(most), "{most}");
    assert!(mean.abs_diff(10 * MILLISECOND) < MILLISECOND / 5, "{mean}");

    let mut reordering = direction(DirectionSpec {
        reorder: 0.1,
        ..spec()
    });
    (0..2000).for_each(|token| reordering.offer(0, token, PACKET));
    let delivered = deliver_all(&mut reordering);
    let late = delivered
        .iter()
        .filter(|&&(token, at)| {
            let in_order = (u64::from(token) + 1) * TRANSMISSION + 10 * MILLISECOND;
            assert!([0, MILLISECOND].contains(&(at - in_order)));
            at > in_order
        })
        .count();
    assert_eq!(delivered.len(), 2000);
    assert!((130..270).contains(&late), "{late}");
}
