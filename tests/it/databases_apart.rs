//! Databases elsewhere: where a tenant's may be, and who ever hears the password. The server there is the test's own and knows
//! just enough of PostgreSQL's protocol to be told a password and to refuse it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use baton::error::Error;
use baton::reach::{Names, Reach};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::Server;

const PASSWORD: &str = "marked-password-5c1d";
const HOST: &str = "marked-host.test";
const USER: &str = "marked-user";

/// What the server there was told: users and databases, and passwords.
type Told = Arc<Mutex<Vec<String>>>;

async fn stranger(running: &mut JoinSet<()>) -> (u16, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Told::default();
    let heard = told.clone();
    running.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever goes away in the middle has said enough.
            let _ = refuse(stream, &heard).await;
        }
    });
    (port, told)
}

/// Listens to who it is and what he proves it with, and does not believe it.
async fn refuse(mut stream: TcpStream, told: &Told) -> std::io::Result<()> {
    let note = |bytes: &[u8]| {
        told.lock()
            .unwrap()
            .push(String::from_utf8_lossy(bytes).into_owned());
    };
    loop {
        let mut bytes = vec![0; usize::try_from(stream.read_u32().await?).unwrap() - 4];
        stream.read_exact(&mut bytes).await?;
        // A question whether TLS is spoken.
        if bytes == 80_877_103_u32.to_be_bytes() {
            stream.write_all(b"N").await?;
            continue;
        }
        note(&bytes[4..]);
        break;
    }
    stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    assert_eq!(stream.read_u8().await?, b'p');
    let mut bytes = vec![0; usize::try_from(stream.read_u32().await?).unwrap() - 4];
    stream.read_exact(&mut bytes).await?;
    note(&bytes);
    let said = format!(
        "SFATAL\0VFATAL\0C28P01\0Mpassword {PASSWORD} of user {USER} at {HOST} is wrong\0\0"
    );
    stream.write_all(b"E").await?;
    stream
        .write_u32(u32::try_from(said.len()).unwrap() + 4)
        .await?;
    stream.write_all(said.as_bytes()).await
}

fn database(uri: &str) -> Value {
    json!({"resource_id": "crm", "type": "database", "uri": uri, "access_permissions": ["read", "write"]})
}

async fn ask(server: &Server, tenant: &str) -> Error {
    let ask = json!({"resource_id": "crm", "sql": "SELECT 1"});
    server
        .try_call_as(tenant, "resource_query", ask)
        .await
        .unwrap_err()
}

fn any_file_has(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    })
}

fn opened() -> Reach {
    let names = Names::Told(Arc::new(|_: &str| vec![IpAddr::from([127, 0, 0, 1])]));
    Reach::new(vec![HOST.parse().unwrap()]).named_by(names)
}

#[tokio::test]
async fn only_the_database_hears_its_password() {
    let mut running = JoinSet::new();
    let (port, told) = stranger(&mut running).await;
    let server = Server::within(opened());
    let uri = format!("postgres://{USER}:{PASSWORD}@{HOST}:{port}/things");
    let mut shown = vec![
        server
            .call("resource_register", database(&uri))
            .await
            .to_string(),
    ];
    let refused = ask(&server, "default").await;
    assert_eq!(refused.code(), "database_unusable");
    {
        let told = told.lock().unwrap();
        assert!(
            told[0].contains(USER) && told[0].contains("things"),
            "{told:?}"
        );
        assert_eq!(told[1], format!("{PASSWORD}\0"));
    }
    let said = format!("{refused:?} {refused}");
    assert!(!said.contains(HOST) && !said.contains(USER), "{said}");
    shown.push(said);
    let known = server
        .call("resource_get", json!({"resource_id": "crm"}))
        .await;
    assert_eq!(
        known["uri"],
        format!("postgres://{USER}@{HOST}:{port}/things")
    );
    shown.push(known.to_string());
    shown.push(server.call("resource_list", json!({})).await.to_string());
    let read = server
        .try_call("resource_read", json!({"resource_id": "crm"}))
        .await
        .unwrap_err();
    shown.push(format!("{read:?}"));
    for bad in [
        format!("postgres://{USER}:{PASSWORD}@{HOST}/a?host=/tmp"),
        format!("postgres://{USER}:{PASSWORD}@{HOST}"),
        format!("mysql://{USER}:{PASSWORD}@{HOST}/a"),
        format!("postgres://{USER}:{PASSWORD}@{HOST}/{}", "a".repeat(3_000)),
        format!("host={HOST} user={USER} password={PASSWORD}"),
    ] {
        let refused = server
            .try_call("resource_register", database(&bad))
            .await
            .unwrap_err();
        assert_eq!(refused.findings()[0].path, "/uri", "{refused:?}");
        shown.push(format!("{refused:?}"));
    }
    let events = server
        .ctx("default")
        .read(|_, tx| baton::events::after(tx, 0, 100))
        .await
        .unwrap();
    shown.push(format!("{events:?}"));
    for text in shown {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    assert!(!any_file_has(server.home().path(), PASSWORD));
}

#[tokio::test]
async fn a_password_outlives_restarts_and_master_keys_and_no_change_of_address() {
    let mut running = JoinSet::new();
    let (port, told) = stranger(&mut running).await;
    let (elsewhere_too, told_too) = stranger(&mut running).await;
    let home = Arc::new(crate::support::home::Home::folder());
    let config = || baton::config::Config {
        reach: opened(),
        ..crate::support::config(&home)
    };
    let server = Server::with(home.clone(), config());
    let at = |secret: &str, port: u16| {
        database(&format!("postgres://{USER}{secret}@{HOST}:{port}/things"))
    };
    let secret = format!(":{PASSWORD}");
    let registered = server.call("resource_register", at(&secret, port)).await;
    let rotated = baton::secrets::rotate(&server.app.system).await.unwrap();
    assert!(rotated.made && rotated.tenants == 1);
    server.app.stop().await;
    let server = Server::with(home.clone(), config());
    ask(&server, "default").await;
    let heard = || {
        told.lock()
            .unwrap()
            .iter()
            .filter(|told| told.contains(PASSWORD))
            .count()
    };
    assert_eq!(heard(), 1);
    // Who registers the address as it is shown keeps its password, and one who says the same changes nothing.
    let same = server.call("resource_register", at(&secret, port)).await;
    assert_eq!(same["updated_at"], registered["updated_at"]);
    let mut shown = at("", port);
    shown["metadata"] = json!({"connection_pool_size": 2});
    server.call("resource_register", shown).await;
    ask(&server, "default").await;
    assert_eq!(heard(), 2);
    // Who registers another place under its name gets no password sent there.
    server
        .call("resource_register", at("", elsewhere_too))
        .await;
    ask(&server, "default").await;
    assert!(
        !told_too
            .lock()
            .unwrap()
            .iter()
            .any(|told| told.contains(PASSWORD))
    );
    server.call("resource_register", at("", port)).await;
    ask(&server, "default").await;
    assert_eq!(heard(), 2, "what was replaced is forgotten");
    // Another tenant's of the same address has a password of its own, or none.
    server
        .call_as("globex", "resource_register", at("", port))
        .await;
    ask(&server, "globex").await;
    assert_eq!(heard(), 2);
    for size in [json!(0), json!(17), json!("4"), json!(1.5)] {
        let mut bad = at("", port);
        bad["metadata"] = json!({"connection_pool_size": size});
        let refused = server.try_call("resource_register", bad).await.unwrap_err();
        assert_eq!(refused.findings()[0].path, "/metadata/connection_pool_size");
    }
}

#[tokio::test]
async fn no_database_is_asked_where_the_operator_has_not_opened() {
    let mut running = JoinSet::new();
    let (port, told) = stranger(&mut running).await;
    let looked = Arc::new(AtomicUsize::new(0));
    let looks = looked.clone();
    let names = move |name: &str| -> Vec<IpAddr> {
        match name {
            "inside.test" => vec!["127.0.0.1".parse().unwrap()],
            "metadata.google.internal" => vec!["169.254.169.254".parse().unwrap()],
            // Public when it is looked at, and inside when it is connected to.
            "turns.test" if looks.fetch_add(1, Ordering::Relaxed) == 0 => {
                vec!["8.8.8.8".parse().unwrap()]
            }
            "turns.test" => vec!["127.0.0.1".parse().unwrap()],
            _ => Vec::new(),
        }
    };
    let server = Server::within(Reach::new(Vec::new()).named_by(Names::Told(Arc::new(names))));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "inside.test",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "metadata.google.internal",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "[fd00::1]",
        "nowhere.test",
    ] {
        let uri = format!("postgres://a:b@{host}:{port}/d");
        let refused = server.try_call("resource_register", database(&uri)).await;
        let code = refused.expect_err(host).code();
        assert_eq!(code, "address_refused", "{host}");
    }
    let turning = database(&format!("postgres://a:b@turns.test:{port}/d"));
    server.call("resource_register", turning).await;
    assert_eq!(ask(&server, "default").await.code(), "address_refused");
    assert!(told.lock().unwrap().is_empty(), "nobody was connected to");
}
