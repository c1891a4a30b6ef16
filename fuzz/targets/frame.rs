//! JSON-RPC framing: any line or body is read, or refused with an error that can be sent.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| baton::transport::fuzz::frame(text));
