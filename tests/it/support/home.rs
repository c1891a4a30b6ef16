//! Where a test keeps its data: a temporary folder and, when `BATON_TEST_DATABASE` names a PostgreSQL server, a database
//! of its own there. Both are gone with it.

use std::path::Path;

use baton::clock::Clock;
use baton::config::Settings;
use baton::store::{Hub, Place, Postgres, Store};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The master key of servers on PostgreSQL, which make none up.
pub(crate) const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(crate) struct Home {
    folder: TempDir,
    database: Option<Database>,
}

struct Database {
    server: String,
    name: String,
}

impl Home {
    /// A folder, whatever database the tests are for.
    pub(crate) fn folder() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            database: None,
        }
    }

    /// The PostgreSQL server that the tests are for.
    #[expect(
        clippy::disallowed_methods,
        reason = "which database the tests are for is no setting of Baton"
    )]
    pub(crate) fn server() -> Option<String> {
        std::env::var("BATON_TEST_DATABASE").ok()
    }

    /// Whether that server has pgvector: every search is to use it then.
    #[expect(
        clippy::disallowed_methods,
        reason = "which database the tests are for is no setting of Baton"
    )]
    pub(crate) fn has_pgvector() -> bool {
        Self::server().is_some() && std::env::var_os("BATON_TEST_PGVECTOR").is_some()
    }

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Self::server().map(|server| {
            let name = folder
                .path()
                .file_name()
                .map(|name| name.to_string_lossy().replace('.', "baton_"))
                .expect("a temporary folder has a name");
            execute(&server, format!("CREATE DATABASE \"{name}\""));
            Database { server, name }
        });
        Self { folder, database }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database's URL, if there is one.
    pub(crate) fn database(&self) -> Option<String> {
        let database = self.database.as_ref()?;
        Some(format!("{}/{}", database.server, database.name))
    }

    /// Makes `settings` mean this place.
    pub(crate) fn settle(&self, settings: &mut Settings) {
        settings.data = Some(self.path().to_owned());
        settings.database = self.database().map(Into::into);
        let key = self.database.as_ref().map(|_| MASTER_KEY.to_owned());
        settings.master_key = key.map(Into::into);
        settings.full_scan_threshold = Self::has_pgvector().then_some(0);
    }

    /// Where the data lies.
    pub(crate) fn place(&self) -> Place {
        match self.database() {
            Some(url) => Place::Postgres(Postgres::parse(&url).expect("a database URL")),
            None => self.path().into(),
        }
    }

    /// Makes the data useless.
    pub(crate) fn ruin(&self) {
        if let Some(Database { server, name }) = &self.database {
            return execute(server, format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        }
        for file in ["baton.db", "baton.db-wal"] {
            std::fs::write(self.path().join(file), vec![7; 64 * 1024]).expect("written");
        }
    }

    /// Changes the data behind the back of every server.
    #[expect(
        clippy::disallowed_methods,
        reason = "the store would not let it happen"
    )]
    pub(crate) fn execute(&self, sql: &str) {
        match self.database() {
            Some(url) => execute_in(&url, format!("SET baton.tenant = '*'; {sql}")),
            None => rusqlite::Connection::open(self.path().join("baton.db"))
                .and_then(|database| database.execute_batch(sql))
                .expect("the statements work"),
        }
    }

    /// Opens the store without a server.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.place(), Hub::default(), &Clock::system()).expect("opens")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(Database { server, name }) = &self.database {
            execute(
                server,
                format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"),
            );
        }
    }
}

/// Runs a statement on the server, on a thread of its own: a runtime's must not block.
fn execute(server: &str, sql: String) {
    execute_in(&format!("{server}/postgres"), sql);
}

fn execute_in(url: &str, sql: String) {
    let server = url.to_owned();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls)
                .await
                .expect("the test server");
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            client.batch_execute(&sql).await
        })
    };
    let outcome = std::thread::spawn(run).join().expect("no panic");
    outcome.expect("the statement works");
}
