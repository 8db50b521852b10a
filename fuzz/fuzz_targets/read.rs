//! Bytes as a model: read, checked, inspected, prepared, quantized by an engine that makes everything up, written, and
//! read again.
#![no_main]

#[path = "../../tests/it/gauntlet/mod.rs"]
mod gauntlet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gauntlet::run(bytes);
});
