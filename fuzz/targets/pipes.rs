//! A whole connection over pipes: it ends when its input does, and says nothing but JSON-RPC.
#![no_main]

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use baton::transport::serve_pipes;
use baton_fuzz::SERVER;
use serde_json::Value;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let output = Output::default();
    let input = Cursor::new(text.to_vec());
    let served = serve_pipes(&SERVER.app, input, output.clone(), true);
    SERVER
        .runtime
        .block_on(served)
        .expect("a connection ends well");
    let output = output.0.lock().expect("no panic").clone();
    for line in output
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let message: Value = serde_json::from_slice(line).expect("each line is JSON");
        let messages = message
            .as_array()
            .map_or(std::slice::from_ref(&message), Vec::as_slice);
        for message in messages {
            assert_eq!(message["jsonrpc"], "2.0", "{message}");
        }
    }
});
