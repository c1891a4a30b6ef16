//! Baton: a multi-tenant Model Context Protocol server through which an orchestrator hands work to executors and never
//! loses track of it.
//!
//! The map, from the ground up (`ARCHITECTURE.md` tells the story):
//!
//! - [`error`], [`codes`], [`id`], [`clock`], [`random`], [`page`], [`secret`], [`principal`], [`trace`], `places`, [`quota`], [`config`]: foundations;
//! - `database`: connections to SQLite and PostgreSQL; [`store`]: transactions, group commit, the log's numbering; [`outbound`]: every HTTP call that leaves; [`tls`]: the certificate that is shown; [`vault`]: the master key, and how it seals; `template`, `apis`: texts with values in them, and what OpenAPI documents describe; [`folders`], [`buckets`]: files on the disk and in object stores;
//! - [`caller`]: what can be said to who called; [`throttle`]: how often somebody may call, and how much at a time; [`presence`]: who was let in lately, and by whose leave something goes on; [`ctx`]: the one door; [`events`]: the one log; [`op`]: what an operation is; [`secrets`]: what tenants keep secret; [`script`]: where what they write runs; [`upstream`]: other servers whose tools they use;
//! - [`tasks`], and what [`orchestrator`]s and [`executor`]s may do with them, [`end_task`] above all: what Baton is for;
//! - [`access`]: who may come in; [`limits`]: what administrators allow them; [`memory`]: what agents remember; [`tools`] that tenants make;
//! - [`sessions`] of legacy clients, for every process to go on with;
//! - [`catalog`]: the one table of operations; [`handles`] of its long calls, for clients that follow them;
//! - `feed`: what changes in a tenant, read once for all who listen; `rounds`: what a call says to its client while it runs; `questions`: whose answers come to another process;
//! - `mcp` and its [`transport`], `http`, `cli`: edges, which only translate; [`work`]: the executor that ships; [`app`] wires everything.

pub mod access;
pub mod allowance;
mod apis;
pub mod app;
pub mod buckets;
pub mod caller;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod codes;
pub mod config;
pub mod ctx;
mod database;
pub mod end_task;
pub mod error;
pub mod events;
pub mod executor;
mod feed;
pub mod folders;
pub mod handles;
pub mod http;
pub mod id;
mod language;
pub mod limits;
pub mod mcp;
pub mod memory;
pub mod meter;
pub mod op;
pub mod orchestrator;
pub mod outbound;
pub mod page;
mod places;
pub mod presence;
pub mod principal;
pub mod queries;
mod questions;
pub mod quota;
pub mod random;
pub mod reach;
pub mod resources;
mod rounds;
pub mod script;
pub mod secret;
pub mod secrets;
pub mod sessions;
mod splice;
pub mod store;
pub mod tasks;
mod template;
pub mod tenants;
pub mod throttle;
pub mod tls;
pub mod tools;
pub mod trace;
pub mod transport;
pub mod upstream;
pub mod vault;
pub mod work;
