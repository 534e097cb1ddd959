use std::sync::mpsc;

use super::{
    queue::{End, QUEUED_BYTES_MAX},
    *,
};

/// Takes a batch each time it is told to, or refuses it.
struct Told(mpsc::Receiver<io::Result<()>>, mpsc::Sender<Vec<u8>>);

impl Sink for Told {
    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        // Nobody who tells: a disk that is well again.
        self.0.recv().unwrap_or(Ok(()))?;
        let _ = self.1.send(records.to_vec());
        Ok(())
    }
}

const LONG: Duration = Duration::from_secs(60);

/// As quinn writes one.
fn record(records: &mut Records, number: usize, filling: usize) {
    let text = format!(
        r#"{{"number":{number},"filling":"{}"}}"#,
        "x".repeat(filling)
    );
    for piece in [&[RECORD_BEGIN][..], text.as_bytes(), b"\n"] {
        records.write_all(piece).unwrap();
    }
}

/// The numbers of the records in a file, each of which must be whole.
fn numbers(file: &[u8]) -> Vec<u64> {
    let Some(file) = file.strip_prefix(&[RECORD_BEGIN]) else {
        assert!(file.is_empty());
        return Vec::new();
    };
    let texts = file.split(|byte| *byte == RECORD_BEGIN);
    let read = texts.map(|text| {
        assert_eq!(text.last(), Some(&b'\n'));
        serde_json::from_slice::<serde_json::Value>(text).expect("a whole record")
    });
    read.map(|record| record["number"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_slow_disk_holds_up_nobody_and_what_is_left_out_is_counted() {
    let (queue, filling) = (Arc::new(Queue::default()), 1000);
    let (tell, told) = mpsc::channel();
    let (sender, written) = mpsc::channel();
    let (writing, sink) = (queue.clone(), Told(told, sender));
    let writer = std::thread::spawn(move || writing.write(sink, "a slow disk"));
    let mut records = Records::new(queue.clone());
    let count = 3 * QUEUED_BYTES_MAX / filling;
    (0..count).for_each(|number| record(&mut records, number, filling));
    drop(tell);
    let end = queue.close(LONG);
    writer.join().unwrap();
    let there = numbers(&written.iter().flatten().collect::<Vec<_>>());
    assert_eq!(end.written, there.len() as u64);
    assert_eq!(end.written + end.left_out, count as u64);
    // What fits into the queue, and once more if the writer had taken a full one.
    let of_queue = (QUEUED_BYTES_MAX / (filling + 50)) as u64;
    assert!(
        (of_queue..=2 * of_queue + 1000).contains(&end.written),
        "{end:?}"
    );
    assert!(there.is_sorted(), "in their order");
}

#[test]
fn a_disk_that_is_full_for_a_while_lacks_what_came_then() {
    let queue = Arc::new(Queue::default());
    let (tell, told) = mpsc::channel();
    let (sender, written) = mpsc::channel();
    let (writing, sink) = (queue.clone(), Told(told, sender));
    let writer = std::thread::spawn(move || writing.write(sink, "a full disk"));
    let mut records = Records::new(queue.clone());
    record(&mut records, 1, 0);
    tell.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    // The second comes when the first is settled, or goes with it.
    record(&mut records, 2, 0);
    drop(tell);
    let end = queue.close(LONG);
    writer.join().unwrap();
    let there = numbers(&written.iter().flatten().collect::<Vec<_>>());
    assert_eq!(
        (end.written + end.left_out, end.written),
        (2, there.len() as u64)
    );
    assert!(end.left_out >= 1, "{end:?}");
}

#[test]
fn the_end_does_not_wait_for_a_disk_that_hangs() {
    let queue = Arc::new(Queue::default());
    let (tell, told) = mpsc::channel();
    let (sender, _written) = mpsc::channel();
    let (writing, sink) = (queue.clone(), Told(told, sender));
    let writer = std::thread::spawn(move || writing.write(sink, "a disk that hangs"));
    record(&mut Records::new(queue.clone()), 1, 0);
    let end = queue.close(Duration::from_millis(1));
    assert_eq!((end.written, end.left_out), (0, 1));
    drop(tell);
    writer.join().unwrap();
}

#[test]
fn a_record_that_was_never_ended_is_not_there() {
    let queue = Arc::new(Queue::default());
    let mut records = Records::new(queue.clone());
    records.write_all(&[RECORD_BEGIN]).unwrap();
    records.write_all(b"{\"number\":").unwrap();
    record(&mut records, 7, 0);
    let (sender, written) = mpsc::channel();
    let (_, told) = mpsc::channel();
    let writing = queue.clone();
    let writer = std::thread::spawn(move || writing.write(Told(told, sender), "a disk"));
    assert_eq!(
        queue.close(LONG),
        End {
            written: 1,
            left_out: 0
        }
    );
    writer.join().unwrap();
    assert_eq!(numbers(&written.iter().flatten().collect::<Vec<_>>()), [7]);
}

#[test]
fn half_of_a_write_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    let mut sink = WholeRecords { file, bytes: 0 };
    sink.append(b"\x1e{}\n").unwrap();
    // Half of the next got there before the disk was full.
    sink.file.write_all(b"\x1e{\"nu").unwrap();
    sink.take_back();
    sink.append(b"\x1e[]\n").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"\x1e{}\n\x1e[]\n");
}

#[test]
fn what_is_there_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    Qlog::open(&path, "first".into()).unwrap();
    // Without a connection, it is as if it had not been there.
    let again = Qlog::open(&path, "second".into()).unwrap();
    assert!(again.stream().is_some());
    again.finish();
    let text = std::fs::read(&path).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&text[1..]).unwrap();
    assert_eq!(
        (&header["qlog_format"], &header["title"]),
        (&"JSON-SEQ".into(), &"second".into())
    );
    let refused = Qlog::open(&path, "third".into()).unwrap_err();
    assert!(matches!(refused, QlogError::InUse { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), text);
    let nowhere = Qlog::open(&folder.path().join("no/where"), String::new()).unwrap_err();
    assert!(matches!(nowhere, QlogError::Open { .. }), "{nowhere}");
}

#[test]
fn nothing_is_recorded_unless_it_is_asked_for() {
    assert!(Qlog::default().stream().is_none());
}
