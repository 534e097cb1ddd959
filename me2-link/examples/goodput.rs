//! How much one TCP stream gets through each of the usual links, and what the emulator costs:
//! `goodput [SECONDS [PRESETS [CONTROLLERS]]]`, such as `goodput 5 a,c bbr`. Needs root.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use me2_link::{End, Link, LinkSpec};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index, default| arguments.get(index).map_or(default, String::as_str);
    let time = Duration::from_secs_f64(argument(0, "5").parse()?);
    for preset in argument(1, "a,b,c").split(',') {
        let spec = match preset {
            "a" => LinkSpec::a(),
            "b" => LinkSpec::b(),
            "c" => LinkSpec::c(),
            _ => anyhow::bail!("no such preset: {preset}"),
        };
        for controller in argument(2, "cubic,bbr").split(',') {
            measure(preset, &spec, controller, time)?;
        }
    }
    Ok(())
}

fn measure(preset: &str, spec: &LinkSpec, controller: &str, time: Duration) -> anyhow::Result<()> {
    let link = Link::start(spec.clone())?;
    link.set_congestion_control(controller)?;
    // Else the sender's buffer, 4 MiB, is what limits bbr on long links.
    link.set_parameter("net/ipv4/tcp_wmem", "4096 16384 33554432")?;
    let listener = link.within(End::B, || TcpListener::bind((link.address(End::B), 7777)))??;
    let receiver = std::thread::spawn(move || receive(&listener));
    let mut stream = link.within(End::A, || TcpStream::connect((link.address(End::B), 7777)))??;
    let started = Instant::now();
    let data = vec![0x5a; 128 << 10];
    while started.elapsed() < time {
        stream.write_all(&data)?;
    }
    let cpu = link.cpu_time().as_secs_f64() / started.elapsed().as_secs_f64();
    drop(stream);
    let (bytes, seconds) = receiver.join().expect("the receiver has not panicked")?;
    let stats = link.stats();
    let forth = stats.a_to_b;
    println!(
        "{preset} {controller:5}: goodput {:6.1} Mbit/s, emulator {cpu:.2} cores, \
         {} packets carried, {} dropped by the queue, {} lost, queue at most {} KiB, {} back, {} unseen",
        bytes as f64 * 8e-6 / seconds,
        forth.packets,
        forth.queue_drops,
        forth.loss_drops,
        forth.queue_bytes_max >> 10,
        stats.b_to_a.packets,
        link.device_drops()?,
    );
    Ok(())
}

/// Bytes received, and the seconds from the first to the last of them.
fn receive(listener: &TcpListener) -> std::io::Result<(usize, f64)> {
    let (mut stream, _) = listener.accept()?;
    let mut data = vec![0; 128 << 10];
    let mut bytes = stream.read(&mut data)?;
    let started = Instant::now();
    loop {
        match stream.read(&mut data)? {
            0 => return Ok((bytes, started.elapsed().as_secs_f64())),
            more => bytes += more,
        }
    }
}
