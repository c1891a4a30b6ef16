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
                let value = &params[name];
                assert!(!value.is_empty() && !value.contains('/'), "{name}={value}");
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
