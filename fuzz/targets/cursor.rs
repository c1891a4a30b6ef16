//! Cursors of lists: what is read is written again to the same position, and any text is a page or a mistake of the caller.
#![no_main]

use baton::error::Kind;
use baton::page::Position;
use baton_fuzz::SERVER;

libfuzzer_sys::fuzz_target!(|cursor: &str| {
    if let Ok(position) = Position::decode(cursor) {
        let again = Position::decode(&position.encode());
        assert_eq!(again.ok(), Some(position));
    }
    let app = &SERVER.app;
    let ctx = app.system.ctx("default".parse().expect("a tenant"), "fuzz");
    let page = SERVER
        .runtime
        .block_on(app.catalog.list(&ctx, Some(cursor), 10));
    if let Err(error) = page {
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    }
    let input = serde_json::json!({"cursor": cursor});
    let input = input.as_object().cloned().expect("an object");
    let listed = SERVER
        .runtime
        .block_on(app.catalog.call(ctx, "task_list", input));
    if let Err(error) = listed {
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    }
});
