//! The real program, in a home folder of the test's own, and what it leaves running.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use baton::clock::Clock;
use baton::store::{Hub, Store};

use crate::support::home::{Home as Place, MASTER_KEY};
use serde_json::Value;

/// A home folder with a data folder in it.
pub(crate) struct Home {
    place: Place,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::new(),
        }
    }

    /// A home whose data is in its folder, whatever database the tests are for.
    pub(crate) fn folder() -> Self {
        Self {
            place: Place::folder(),
        }
    }

    /// Where its data is, as the program says it.
    pub(crate) fn data(&self) -> String {
        match self.place.database() {
            Some(_) => self.place.place().to_string(),
            None => self.path("data").display().to_string(),
        }
    }

    /// Its database's URL for the superuser of a test's cluster, if it is on PostgreSQL.
    pub(crate) fn database_of_superuser(&self) -> Option<String> {
        let url = self.place.database()?;
        Some(url.replace("//baton@", "//admin@"))
    }

    /// The home folder, and the database of its own where the tests are for one.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Its store, beside whoever serves it.
    pub(crate) fn store(&self) -> Store {
        let place = match self.place.database() {
            Some(_) => self.place.place(),
            None => self.path("data").as_path().into(),
        };
        Store::open(&place, Hub::default(), &Clock::system()).expect("opens")
    }

    /// A path in the home folder.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.place.path().join(below)
    }

    /// The program with `arguments`, on this home's data folder.
    #[expect(
        clippy::disallowed_methods,
        reason = "what the caller has set for a Baton of their own must not reach this one"
    )]
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("BATON_") || name.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env("HOME", self.place.path())
            .env("BATON_DATA", self.path("data"))
            .env("BATON_RETRY_BACKOFF_MS", "50")
            .current_dir(self.place.path())
            .stdin(Stdio::null());
        if let Some(url) = self.place.database() {
            command.env("BATON_DATABASE", url);
            command.env("BATON_MASTER_KEY", MASTER_KEY);
        }
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// Runs the program, which must succeed; returns what it printed.
    pub(crate) fn print(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            complaint(&output)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Calls an operation by `baton call`.
    pub(crate) fn call(&self, tool: &str, input: &Value) -> Value {
        let printed = self.print(&["call", tool, &input.to_string()]);
        serde_json::from_str(&printed).expect("JSON")
    }

    /// Starts an executor.
    pub(crate) fn work(&self, arguments: &[&str]) -> Running {
        let log = std::fs::File::create(self.path("work.log")).expect("a log");
        let child = self
            .command(&[&["work"], arguments].concat())
            .stderr(log)
            .spawn()
            .expect("the program runs");
        Running(child)
    }

    /// Starts a server and returns its address.
    pub(crate) fn serve(&self, listen: &str) -> (Running, String) {
        self.serve_with(&["--listen", listen])
    }

    /// As [`Home::serve`], with further arguments.
    pub(crate) fn serve_with(&self, arguments: &[&str]) -> (Running, String) {
        let file = self.path("serve.log");
        let log = std::fs::File::create(&file).expect("a log");
        let child = self
            .command(&[&["serve"], arguments].concat())
            .stderr(log)
            .spawn()
            .expect("the program runs");
        let server = Running(child);
        let url = eventually("the server's address", || {
            let log = std::fs::read_to_string(&file).ok()?;
            let line = log.lines().next()?;
            Some(line.split_once("listens on ")?.1.to_owned())
        });
        (server, url)
    }

    /// What the last executor logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("work.log")).unwrap_or_default()
    }

    /// The task's fields.
    pub(crate) fn task(&self, task_id: &str) -> Value {
        self.call("task_get", &serde_json::json!({"task_id": task_id}))
    }

    /// Waits until the command of a test has written a number into the file `name`.
    pub(crate) fn number_in(&self, name: &str) -> i32 {
        let file = self.path(name);
        eventually(&format!("a number in {name}"), || {
            std::fs::read_to_string(&file).ok()?.trim().parse().ok()
        })
    }
}

/// A started program, killed at the end of the test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process number")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.id()).expect("a process number");
        rustix::process::kill_process(id, signal).expect("it runs");
    }

    /// Waits for its end; the exit code, if it has one.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let status = eventually("the end of the program", || {
            self.0.try_wait().expect("a child")
        });
        status.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard error of a program that failed.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks until there is an answer. Other processes can't be waited for in another way.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1_500 {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited 30 s for {what}");
}

/// Whether a process runs. One that has ended and that nobody has asked about does not.
pub(crate) fn is_running(id: i32) -> bool {
    if !Path::new("/proc/self/stat").exists() {
        let id = rustix::process::Pid::from_raw(id).expect("a process number");
        return rustix::process::test_kill_process(id).is_ok();
    }
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
