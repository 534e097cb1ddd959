//! The page of all results, looked at in headless Chromium. Skipped where there is none.

mod browser;
mod results;

use std::{path::Path, process::Command};

use browser::Browser;
use serde_json::{Value, json};

/// Of a small phone; of a notebook.
const WIDTHS: [u32; 2] = [390, 1280];

/// What is to be seen once all that is folded is open. A drawing is 360 wide in its own unit; text that
/// leaves it is cut off.
const LOOK: &str = r"(() => {
    document.querySelectorAll('details').forEach(details => details.open = true);
    const page = document.documentElement;
    const beyond = [...document.querySelectorAll('body *')]
        .filter(element => element.getBoundingClientRect().right > page.clientWidth + 1)
        .map(element => `${element.tagName}.${element.getAttribute('class')}: ${element.textContent.slice(0, 60)}`);
    const drawings = [...document.querySelectorAll('svg')];
    const cut = drawings.flatMap(drawing => {
        const { width, height } = drawing.viewBox.baseVal;
        return [...drawing.querySelectorAll('text')].filter(text => {
            const box = text.getBBox();
            return box.x < -1 || box.x + box.width > width + 1 || box.y < -1 || box.y + box.height > height + 3;
        }).map(text => `${drawing.getAttribute('aria-label')}: ${text.textContent}`);
    });
    return {
        width: page.clientWidth,
        scroll_width: page.scrollWidth,
        beyond: beyond.slice(0, 5),
        drawings: drawings.length,
        narrowest: Math.min(...drawings.map(drawing => drawing.getBoundingClientRect().width)),
        empty: drawings.filter(drawing => drawing.getBoundingClientRect().height < 20).length,
        cut: cut.slice(0, 5),
        not_numbers: (page.innerHTML.match(/NaN|inf\b|undefined/g) || []).slice(0, 5),
        sections: [...document.querySelectorAll('h2')].map(head => head.textContent),
        ground: getComputedStyle(document.body).backgroundColor,
    };
})()";

/// Says something past the capturing of test output.
fn say(text: &str) {
    use std::io::Write;
    // Nobody reads it: no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The page of the project's results, of a sweep, and of a folder that cannot be shown.
fn report(folder: &Path) -> String {
    results::gather(folder);
    let page = folder.join("report.html");
    let output = Command::new(env!("CARGO_BIN_EXE_me2-bench"))
        .args(["report", "--results"])
        .arg(folder)
        .arg("--out")
        .arg(&page)
        .output()
        .expect("me2-bench starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(1),
        "one folder cannot be shown: {told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(
        told.starts_with("cannot show broken: manifest.json"),
        "{told}"
    );
    format!("file://{}", page.display())
}

#[test]
fn the_page_is_whole_at_any_width_by_day_and_night() {
    let mut browser = match Browser::start() {
        Ok(browser) => browser,
        Err(reason) => return say(&format!("SKIPPED: {reason}")),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let address = report(folder.path());
    let mut grounds = Vec::new();
    for width in WIDTHS {
        for colours in ["light", "dark"] {
            let (seen, events) = browser.look(&address, width, colours, LOOK);
            check(&seen, width);
            check_events(&events, &address);
            grounds.push(seen["ground"].clone());
        }
    }
    assert_ne!(grounds[0], grounds[1], "by night it is another colour");
    browser.close();
}

fn check(seen: &Value, width: u32) {
    assert_eq!(seen["width"], width, "{seen:#}");
    assert_eq!(seen["scroll_width"], width, "it scrolls sideways: {seen:#}");
    assert_eq!(
        seen["beyond"],
        json!([]),
        "something leaves the page: {seen:#}"
    );
    assert!(seen["drawings"].as_u64() > Some(60), "{seen:#}");
    assert_eq!(seen["empty"], 0, "a drawing has nothing in it: {seen:#}");
    assert!(
        seen["narrowest"].as_f64() > Some(320.0),
        "too small to read: {seen:#}"
    );
    assert_eq!(seen["cut"], json!([]), "text leaves its drawing: {seen:#}");
    assert_eq!(seen["not_numbers"], json!([]), "{seen:#}");
    for section in [
        "At a glance",
        "Long links",
        "Against QEMU",
        "Folders that cannot be shown",
    ] {
        let sections = seen["sections"].as_array().expect("a list");
        assert!(
            sections.iter().any(|head| head == section),
            "no {section}: {seen:#}"
        );
    }
}

/// No request but for the page itself, and nothing that the browser complains of.
fn check_events(events: &[Value], address: &str) {
    let mut requests = Vec::new();
    for event in events {
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = event["params"]["request"]["url"]
                    .as_str()
                    .unwrap_or_default();
                requests.push(url.to_owned());
            }
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                panic!("the browser complains: {event:#}")
            }
            _ => {}
        }
    }
    requests.retain(|url| !url.starts_with("data:"));
    assert_eq!(requests, [address]);
}
