//! What the program prints.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use me2_link::{Backend, Counters, End, Link, LinkSpec, LinkStats};
use serde::Serialize;

const SCHEMA_VERSION: u32 = 1;

/// The line when the link is there.
#[derive(Serialize)]
struct Up<'a> {
    schema_version: u32,
    event: &'static str,
    backend: Backend,
    namespaces: [&'a str; 2],
    addresses: [std::net::IpAddr; 2],
    spec: &'a LinkSpec,
}

/// The line at the end.
#[derive(Serialize)]
struct Down {
    schema_version: u32,
    event: &'static str,
    elapsed_ms: f64,
    emulator_cpu_ms: f64,
    device_drops: u64,
    #[serde(flatten)]
    stats: LinkStats,
}

/// Says in words what the link is, and how to use it.
pub(crate) fn up_human(link: &Link, spec: &LinkSpec, hold: Duration) {
    let by = match link.backend() {
        Backend::Netem => "netem",
        Backend::Emulator | Backend::Auto => "the emulator",
    };
    eprintln!(
        "The link is there, made by {by}, for at most {} s.",
        hold.as_secs_f64()
    );
    for end in [End::A, End::B] {
        let one_way = spec.direction(end);
        let rate = match one_way.rate_bits_per_second {
            0 => "no limit".into(),
            rate => format!("{} Mbit/s", rate as f64 / 1e6),
        };
        eprintln!(
            "  {end:?} to {:?}: {rate}, delay {:?} ± {:?}, loss {}%, queue {} KiB",
            end.other(),
            one_way.delay,
            one_way.jitter,
            one_way.loss.average() * 100.0,
            spec.queue_limit_bytes(end) / 1024,
        );
    }
    for end in [End::A, End::B] {
        let (name, address) = (link.namespace(end), link.address(end));
        eprintln!("End {end:?}: {address}; run programs there by  ip netns exec {name} COMMAND");
    }
}

/// Says in JSON what the link is.
pub(crate) fn up_json(link: &Link, spec: &LinkSpec) -> anyhow::Result<()> {
    print_line(&Up {
        schema_version: SCHEMA_VERSION,
        event: "up",
        backend: link.backend(),
        namespaces: [link.namespace(End::A), link.namespace(End::B)],
        addresses: [link.address(End::A), link.address(End::B)],
        spec,
    })
}

/// Says in words what the link has carried.
pub(crate) fn down_human(link: &Link) -> anyhow::Result<()> {
    let (stats, seconds) = (link.stats(), link.elapsed().as_secs_f64());
    for (way, counters) in [("A to B", &stats.a_to_b), ("B to A", &stats.b_to_a)] {
        let Counters { packets, bytes, .. } = counters;
        println!(
            "{way}: {packets} packets, {bytes} bytes ({:.2} Mbit/s over {seconds:.1} s); \
             dropped: {} by the queue, {} by loss, {} by cuts; queue at most {} bytes",
            *bytes as f64 * 8e-6 / seconds,
            counters.queue_drops,
            counters.loss_drops,
            counters.cut_drops,
            counters.queue_bytes_max,
        );
    }
    println!(
        "The emulator used {:.2} s of CPU time.",
        link.cpu_time().as_secs_f64()
    );
    match link.device_drops()? {
        0 => {}
        drops => {
            println!("It did not keep up: {drops} packets were dropped before they reached it.")
        }
    }
    Ok(())
}

/// Says in JSON what the link has carried.
pub(crate) fn down_json(link: &Link) -> anyhow::Result<()> {
    print_line(&Down {
        schema_version: SCHEMA_VERSION,
        event: "down",
        elapsed_ms: link.elapsed().as_secs_f64() * 1e3,
        emulator_cpu_ms: link.cpu_time().as_secs_f64() * 1e3,
        device_drops: link.device_drops()?,
        stats: link.stats(),
    })
}

/// Writes the counts over time.
pub(crate) fn write_history(link: &Link, path: &Path) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for sample in link.history() {
            serde_json::to_writer(&mut file, &sample)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn print_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
        .context("cannot write to the standard output")
}
