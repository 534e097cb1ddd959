//! Runs outside a VM in which a Redis server is, while the VM moves: has it acknowledge one write after
//! the other, and checks that each one that was acknowledged is there.

mod journal;
mod server;
#[cfg(test)]
mod tests;

use std::{env, fs, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

/// Between two writes: more would be a benchmark, of emulated processors.
const THINKING: Duration = Duration::from_millis(100);

const USAGE: &str = "Usage:
  checker write ADDR:PORT NOTE STOP   write until the file STOP exists, then read all back; the file
                                      NOTE has the number that was acknowledged last
  checker verify ADDR:PORT COUNT      read the writes 1 to COUNT back
  checker shutdown ADDR:PORT          end the server
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["write", address, note, stop] => with(address, |address| {
            let more = |acknowledged: u64| {
                // Read while it is written: a reader may find it empty, and looks again.
                let _ = fs::write(note, acknowledged.to_string());
                !Path::new(stop).exists()
            };
            journal::write(address, THINKING, more).map(Some)
        }),
        ["verify", address, count] => with(address, |address| {
            let count = count.parse().map_err(std::io::Error::other)?;
            journal::verify(address, count).map(Some)
        }),
        ["shutdown", address] => with(address, |address| {
            let within = Duration::from_secs(10);
            server::Server::connect(address, within)?.shut_down()?;
            Ok(None)
        }),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(verdict)) => {
            println!("{verdict}");
            match verdict.is_good() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("checker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn with<T>(address: &str, go: impl FnOnce(SocketAddr) -> std::io::Result<T>) -> Result<T, String> {
    let parsed = address.parse();
    let parsed = parsed.map_err(|_| format!("{address} is no ADDR:PORT"))?;
    go(parsed).map_err(|error| format!("{address}: {error}"))
}
