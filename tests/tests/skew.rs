//! VMs between builds of different age: those that `cargo xtask faults --skew COMMIT` has built.

use std::path::Path;

use me2_tests::{require_kvm, say, skew::Earlier};

#[test]
fn an_earlier_me2_and_todays_move_vms_to_each_other_or_say_why_not() {
    require_kvm!();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    // TARGET/PROFILE/deps/TEST
    let own = std::env::current_exe().expect("a program has a path");
    let target = own.ancestors().nth(3).expect("it is in a target folder");
    let built = Earlier::built(checkout.expect("a folder of the workspace"), target);
    if built.is_empty() {
        say(
            "SKIPPED: no earlier me2 is built: cargo xtask faults --skew COMMIT builds and keeps one",
        );
    }
    for earlier in built {
        let played = earlier.play();
        say(&format!("{}: {:?}", played.commit, played.outcome));
    }
}
