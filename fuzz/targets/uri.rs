//! URIs of resources: what one matches makes it again, and to read or complete one is no fault of ours.
#![no_main]

use baton::error::Kind;
use baton_fuzz::SERVER;

libfuzzer_sys::fuzz_target!(|uri: &str| {
    let app = &SERVER.app;
    for kind in app.catalog.resources() {
        if let Some(params) = kind.matches(uri) {
            let mut made = String::new();
            let mut template = kind.template;
            while let Some((literal, (name, rest))) = template
                .split_once('{')
                .and_then(|(literal, tail)| Some((literal, tail.split_once('}')?)))
            {
                // RFC 6570 §3.2.3: such a value may have slashes.
                let (name, is_path) = name
                    .strip_prefix('+')
                    .map_or((name, false), |name| (name, true));
                let value = &params[name];
                let fits = !value.is_empty() && (is_path || !value.contains('/'));
                assert!(fits, "{name}={value}");
                made.extend([literal, value]);
                template = rest;
            }
            assert_eq!(made + template, uri);
        }
    }
    let ctx = app.system.ctx("default".parse().expect("a tenant"), "fuzz");
    if let Err(error) = SERVER.runtime.block_on(app.catalog.read(&ctx, uri)) {
        assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    }
});
