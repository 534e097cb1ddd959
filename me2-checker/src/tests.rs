//! Against servers that keep what they say, and servers that do not.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    journal::{self, Verdict},
    server::Server,
};

/// What a server does to the write with this number.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Forget(u64),
    Garble(u64),
    HangUp(u64),
}

/// A server for as long as the process lives.
fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(HashMap::new()));
    thread::spawn(move || {
        let mut fault = fault;
        for stream in listener.incoming() {
            // A server that hung up does so once.
            fault = answer(stream.unwrap(), &kept, fault);
        }
    });
    address
}

fn answer(stream: TcpStream, kept: &Mutex<HashMap<String, String>>, fault: Fault) -> Fault {
    let mut stream = BufReader::new(stream);
    while let Some(words) = command(&mut stream) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reply = match words[..] {
            ["PING"] => "+PONG\r\n".to_owned(),
            ["SET", key, value] => {
                let is = |number: u64| key.ends_with(&format!(":{number}"));
                let mut kept = kept.lock().unwrap();
                match fault {
                    Fault::HangUp(number) if is(number) => return Fault::None,
                    Fault::Forget(number) if is(number) => None,
                    Fault::Garble(number) if is(number) => kept.insert(key.into(), "?".into()),
                    _ => kept.insert(key.into(), value.into()),
                };
                "+OK\r\n".to_owned()
            }
            ["GET", key] => match kept.lock().unwrap().get(key) {
                Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                None => "$-1\r\n".to_owned(),
            },
            _ => return fault,
        };
        stream.get_mut().write_all(reply.as_bytes()).unwrap();
    }
    fault
}

fn command(from: &mut impl BufRead) -> Option<Vec<String>> {
    let mut number = |sign: char| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        let number = line.trim_end().strip_prefix(sign)?.parse::<usize>().ok()?;
        if sign == '*' {
            return Some((number, String::new()));
        }
        let mut word = vec![0; number + 2];
        from.read_exact(&mut word).ok()?;
        word.truncate(number);
        Some((number, String::from_utf8(word).ok()?))
    };
    let (words, _) = number('*')?;
    (0..words).map(|_| Some(number('$')?.1)).collect()
}

fn write(fault: Fault) -> Verdict {
    journal::write(serve(fault), Duration::ZERO, |acknowledged| {
        acknowledged < 20
    })
    .unwrap()
}

#[test]
fn what_was_acknowledged_is_there() {
    let verdict = write(Fault::None);
    assert_eq!((verdict.acknowledged, verdict.connections), (20, 1));
    assert!(verdict.is_good(), "{verdict}");
}

#[test]
fn a_lost_and_a_changed_write_are_noticed() {
    let lost = write(Fault::Forget(7));
    assert_eq!((lost.missing, lost.wrong, lost.is_good()), (1, 0, false));
    let changed = write(Fault::Garble(7));
    assert_eq!((changed.missing, changed.wrong), (0, 1));
    assert!(!changed.is_good());
}

#[test]
fn a_connection_that_ends_is_counted_and_its_write_made_again() {
    let verdict = write(Fault::HangUp(7));
    assert_eq!((verdict.acknowledged, verdict.connections), (20, 2));
    assert!(verdict.is_good(), "{verdict}");
}

#[test]
fn another_run_reads_back_what_an_earlier_one_wrote() {
    let address = serve(Fault::None);
    let written = journal::write(address, Duration::ZERO, |acknowledged| acknowledged < 5).unwrap();
    assert!(
        journal::verify(address, written.acknowledged)
            .unwrap()
            .is_good()
    );
    assert_eq!(journal::verify(address, 7).unwrap().missing, 2);
}

#[test]
fn a_server_that_ends_has_hung_up() {
    let address = serve(Fault::None);
    let mut server = Server::connect(address, Duration::from_secs(5)).unwrap();
    server.shut_down().unwrap();
}
