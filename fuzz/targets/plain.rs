//! Plain calls and their `_meta`: what the short way takes for a call is the same call for rmcp.
#![no_main]

use std::sync::LazyLock;

use baton::transport::fuzz::PlainCalls;
use baton_fuzz::SERVER;

static CALLS: LazyLock<PlainCalls> = LazyLock::new(|| PlainCalls::new(&SERVER.app));

libfuzzer_sys::fuzz_target!(|text: &[u8]| CALLS.check(text));
