//! Cursors of lists: any text is a mistake of the caller unless it was sealed here, and whatever was sealed leads to a page
//! and is read as it was written.
#![no_main]

use baton::error::Kind;
use baton::page::Position;
use baton_fuzz::SERVER;
use serde_json::json;

libfuzzer_sys::fuzz_target!(|input: (i64, &str)| {
    let (key, text) = input;
    let app = &SERVER.app;
    let ctx = app.system.ctx("default".parse().expect("a tenant"), "fuzz");
    let run = &SERVER.runtime;
    let id = text.to_owned();
    let position = Position { key, id };
    for list in ["task_list", "key_list", "resources/list"] {
        let seal = run.block_on(ctx.read(move |_, tx| tx.seal(list)));
        let seal = seal.expect("a seal");
        let sealed = seal.close(&position);
        if let Ok(again) = seal.open(&sealed) {
            assert_eq!(again, position);
        }
        for cursor in [text, &sealed] {
            let answer = if list == "resources/list" {
                run.block_on(app.catalog.list(&ctx, Some(cursor), 10))
                    .map(drop)
            } else {
                let input = json!({"cursor": cursor});
                let input = input.as_object().cloned().expect("an object");
                run.block_on(app.catalog.call(ctx.clone(), list, input))
                    .map(drop)
            };
            if let Err(error) = answer {
                assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
            }
        }
    }
});
