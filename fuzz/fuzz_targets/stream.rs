#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| me2_fuzz::wire::stream(input));
