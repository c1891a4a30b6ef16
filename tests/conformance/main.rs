//! The server that the official conformance suite is run against: the product's edges before a catalogue of the suite's
//! fixtures. `run.py` starts it with `--serve`; without that it ends at once, so that `cargo test` passes over it.

mod ask;
mod jobs;
mod read;
mod tools;

use std::io::Write;

use baton::app::App;
use baton::catalog::{Catalog, Parts};
use baton::clock::Clock;
use baton::config::Settings;
use baton::op::List;
use baton::random::Random;

/// The events that say that a list has changed.
const TOOLS_CHANGED: &str = "dev.baton.test.tools_changed";
const PROMPTS_CHANGED: &str = "dev.baton.test.prompts_changed";

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() != Some("--serve") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(serve())
}

/// Serves on a free port, which it prints, until standard input is closed.
async fn serve() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        data: Some(folder.path().to_owned()),
        ..Settings::default()
    };
    let config = settings.complete(Settings::default())?;
    let app = App::with_catalog(config, Clock::system(), Random::system(), catalog())?;
    app.start_workers();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut output = std::io::stdout();
    writeln!(output, "http://{}/mcp", listener.local_addr()?)?;
    output.flush()?;
    let stopping = app.stopping().clone();
    std::thread::spawn(move || {
        // Whoever started this holds the other end.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stopping.cancel();
    });
    let front = |others| baton::transport::front(&app, others);
    baton::http::serve(app.clone(), listener, None, front).await?;
    app.stop().await;
    Ok(())
}

fn catalog() -> Catalog {
    Catalog::of(Parts {
        ops: [tools::operations(), ask::operations(), jobs::operations()]
            .into_iter()
            .flatten()
            .collect(),
        resources: read::resources(),
        prompts: read::prompts(),
        lists: &[List::Tools, List::Prompts],
        list_changed_by: |event| match event.kind.as_str() {
            TOOLS_CHANGED => Some(List::Tools),
            PROMPTS_CHANGED => Some(List::Prompts),
            _ => None,
        },
    })
}
