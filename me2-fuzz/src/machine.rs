//! The machine document, and pieces of state.

use me2_vmm::{
    machine::{CPUS_MAX, DOCUMENT_BYTES_MAX, MachineDocument},
    state,
};
use me2_wire::{
    blob::{BLOB_BYTES_MAX, BLOBS_MAX},
    message::{self, Handover},
};

/// A machine document.
pub fn document(input: &[u8]) {
    let Ok(document) = MachineDocument::from_json(input) else {
        return;
    };
    assert!(input.len() <= DOCUMENT_BYTES_MAX && (1..=CPUS_MAX).contains(&document.cpus));
    let layout = document.layout().expect("checked");
    assert_eq!(u64::from(layout.page_count()) << 12, document.memory_bytes);
    let again = MachineDocument::from_json(&document.to_json());
    assert_eq!(again.expect("what was written can be read"), document);
}

/// A handover with the state of a VM, behind the number of its vCPUs.
pub fn state(input: &[u8]) {
    let Some((cpus, input)) = input.split_first() else {
        return;
    };
    let Ok(handover) = message::decode::<Handover>(input) else {
        return;
    };
    assert!(handover.state.len() <= BLOBS_MAX);
    let bounded = |bytes: &Vec<u8>| bytes.len() <= BLOB_BYTES_MAX.min(input.len());
    assert!(handover.state.iter().all(|blob| bounded(&blob.bytes)));
    // Sound or not: it says which without a VM, and nothing else happens.
    _ = state::check(&handover.state, 1 + u32::from(*cpus) % CPUS_MAX);
}
