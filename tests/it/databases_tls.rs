//! PostgreSQL databases of tenants, and the server's own, over TLS, when the tests have a server: in front of it stands one that
//! speaks TLS as PostgreSQL does, or one that ends connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton::clock::Clock;
use baton::config::Config;
use baton::reach::Reach;
use baton::store::{Hub, Place, Postgres, Store};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::home::Home;
use crate::support::tls::{Authority, Shown};
use crate::support::{Server, config};

/// What a client asks first, if it wants TLS (PostgreSQL's documentation, 54.7 Message Formats, `SSLRequest`).
const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Serves what is at `to` over TLS alone; its address.
async fn front(to: String, shown: &Shown, running: &mut JoinSet<()>) -> String {
    let chain = CertificateDer::pem_slice_iter(shown.cert.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    // The certificate is not for this address.
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (acceptor, to) = (acceptor.clone(), to.clone());
            connections.spawn(async move {
                let mut first = [0; 8];
                stream.read_exact(&mut first).await.unwrap();
                if first != REQUEST {
                    return;
                }
                stream.write_all(b"S").await.unwrap();
                // A client that does not trust it hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut behind = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    format!("127.0.0.2:{port}")
}

/// A server that may reach the test's, by the name that the certificate is for too, and trusts these besides the machine's.
fn server(authorities: Option<PathBuf>) -> Server {
    let home = Arc::new(Home::new());
    let reach = Reach::new(vec![
        "127.0.0.0/8".parse().unwrap(),
        "localhost".parse().unwrap(),
    ]);
    let config = Config {
        reach,
        ca_cert: authorities,
        ..config(&home)
    };
    Server::with(home, config)
}

/// What a tenant hears who registers the database and asks it.
async fn ask(server: &Server, uri: &str) -> Result<Value, String> {
    let database = json!({"resource_id": "shop", "type": "database", "uri": uri});
    let asked = json!({"resource_id": "shop", "sql": "SELECT 6 * 7"});
    server.call("resource_register", database).await;
    let answer = server.try_call("resource_query", asked).await;
    let delete = json!({"resource_id": "shop"});
    server.call("resource_delete", delete).await;
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(answer["rows"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_databases_are_checked_where_it_is_asked_for() {
    let home = Home::new();
    let Some(uri) = home.database() else { return };
    let (user, place) = uri.split_once("://").unwrap().1.split_once('@').unwrap();
    let (host, name) = place.split_once('/').unwrap();
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let mut running = JoinSet::new();
    let other = front(host.to_owned(), &authority.sign(), &mut running).await;
    let named = authority.sign_for("127.0.0.2");
    let named = front(host.to_owned(), &named, &mut running).await;
    let (trusting, stranger) = (server(Some(file)), server(None));
    let at =
        |place: &str, mode: &str| format!("postgres://{user}:s3cret@{place}/{name}?sslmode={mode}");
    for (server, uri, works) in [
        (&trusting, at(&named, "verify-full"), true),
        (&trusting, at(&named, "verify-ca"), true),
        (&trusting, at(&named, "require"), true),
        (&trusting, at(&named, "prefer"), true),
        (&trusting, at(&named, "disable"), false),
        // The certificate of somebody else.
        (&trusting, at(&other, "verify-full"), false),
        (&trusting, at(&other, "require"), true),
        // Nobody whom this server trusts has signed it.
        (&stranger, at(&named, "verify-full"), false),
        (&stranger, at(&named, "require"), true),
        // No TLS there.
        (&trusting, at(host, "verify-full"), false),
        (&trusting, at(host, "require"), false),
        (&trusting, at(host, "prefer"), true),
    ] {
        let answer = ask(server, &uri).await;
        assert_eq!(answer.is_ok(), works, "{uri}: {answer:?}");
        match answer {
            Ok(rows) => assert_eq!(rows, json!([[42]]), "{uri}"),
            Err(said) => assert!(!said.contains("s3cret"), "{said}"),
        }
    }
}

/// Opens the server's own database at `url`, and lets go of it.
fn opened(url: &str) -> Result<(), String> {
    let to = Postgres::parse(url).map_err(|error| error.to_string())?;
    let store = Store::open(&Place::Postgres(to), Hub::default(), &Clock::system());
    store
        .map(|store| store.close())
        .map_err(|error| error.to_string())
}

async fn open(url: String) -> Result<(), String> {
    let open = tokio::task::spawn_blocking(move || opened(&url));
    open.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_database_is_reached_as_its_url_says() {
    let home = Home::new();
    let Some(uri) = home.database() else { return };
    let (user, place) = uri.split_once("://").unwrap().1.split_once('@').unwrap();
    let (host, name) = place.split_once('/').unwrap();
    let port = host.split_once(':').unwrap().1;
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let trusted = format!("sslmode=verify-full&sslrootcert={}", file.display());
    let mut running = JoinSet::new();
    let other = front(host.to_owned(), &authority.sign(), &mut running).await;
    let named = authority.sign_for("127.0.0.2");
    let named = front(host.to_owned(), &named, &mut running).await;
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let behind = host.to_owned();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut behind = TcpStream::connect(&behind).await.unwrap();
            connections.spawn(async move { copy_bidirectional(&mut stream, &mut behind).await });
        }
    });
    let socket = folder.path().display().to_string().replace('/', "%2F");
    for (place, with, works) in [
        (&*named, &*trusted, true),
        (&named, "sslmode=require", true),
        (&named, "sslmode=prefer", true),
        (&named, "sslmode=disable", false),
        (&other, &trusted, false),
        (host, "sslmode=require", false),
        (host, "sslmode=prefer", true),
        (&socket, "sslmode=prefer", true),
        (&socket, "sslmode=require", false),
        // The next one is asked where nobody answers.
        (&format!("127.0.0.1:1,{host}"), "", true),
        (
            &format!("127.0.0.1:1,{host}"),
            "load_balance_hosts=random",
            true,
        ),
        (&format!("nowhere.invalid,127.0.0.1:{port}"), "", true),
        (&format!("nowhere.invalid:1,{host}"), "", true),
        (&format!(":{port}"), "hostaddr=127.0.0.1", true),
        (host, "target_session_attrs=read-write", true),
        (host, "target_session_attrs=read-only", false),
        (host, "keepalives_interval=5&keepalives_retries=3", true),
    ] {
        let url = format!("postgres://{user}:s3cret@{place}/{name}?{with}");
        let opened = open(url.clone()).await;
        assert_eq!(opened.is_ok(), works, "{url}: {opened:?}");
        if let Err(said) = opened {
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}

/// Stands before what is at `to` and passes on what it says up to so many bytes; then hangs up, or says nothing more. Its address.
async fn short(to: String, bytes: usize, hangs_up: bool, running: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&to).await.unwrap();
            connections.spawn(async move {
                let (mut asked, mut answers) = client.into_split();
                let (answered, mut questions) = server.into_split();
                let mut answered = answered.take(bytes as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut asked, &mut questions) => (),
                    () = async {
                        let _ = tokio::io::copy(&mut answered, &mut answers).await;
                        if !hangs_up {
                            std::future::pending::<()>().await;
                        }
                    } => (),
                }
            });
        }
    });
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_or_falls_silent_at_any_byte_is_waited_for_in_vain_by_nobody() {
    let home = Home::new();
    let Some(uri) = home.database() else { return };
    let (user, place) = uri.split_once("://").unwrap().1.split_once('@').unwrap();
    let (host, name) = place.split_once('/').unwrap();
    open(uri.clone()).await.unwrap();
    let mut running = JoinSet::new();
    let hanging_up = (0..1_000).step_by(17).map(|bytes| (bytes, true));
    let silent = [0, 200].map(|bytes| (bytes, false));
    let mut last = Ok(());
    for (bytes, hangs_up) in hanging_up.chain(silent) {
        let place = short(host.to_owned(), bytes, hangs_up, &mut running).await;
        let url =
            format!("postgres://{user}:s3cret@{place}/{name}?sslmode=disable&connect_timeout=1");
        // Not a task's thread, which the runtime would wait for.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(opened(&url)));
        let opened = tokio::time::timeout(Duration::from_secs(10), told).await;
        last = opened
            .unwrap_or_else(|_| panic!("waits for ever at byte {bytes}"))
            .unwrap();
        let error = last.as_ref().err();
        assert!(
            error.is_none_or(|said| !said.contains("s3cret")),
            "{error:?}"
        );
        assert!(bytes > 400 || error.is_some(), "at byte {bytes}");
    }
    let said = last.unwrap_err();
    assert!(said.contains("can't be reached"), "{said}");
}

/// What a server says that ends a connection (PostgreSQL's documentation, 55.7 Message Formats, `ErrorResponse`).
const GOODBYE: &[u8] = b"E\0\0\0\x24SFATAL\0VFATAL\0C57P01\0Mgood bye\0\0";

#[tokio::test]
async fn a_query_that_finds_its_connection_ended_is_made_over_a_new_one() {
    let home = Home::new();
    let Some(uri) = home.database() else { return };
    let behind = uri.split_once('@').unwrap().1.split_once('/').unwrap().0;
    let (listener, ends) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        Arc::new(AtomicBool::new(false)),
    );
    let front = listener.local_addr().unwrap().to_string();
    let (to, is_ended) = (behind.to_owned(), ends.clone());
    let mut running = JoinSet::new();
    running.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (mut server, is_ended) = (TcpStream::connect(&to).await.unwrap(), is_ended.clone());
            connections.spawn(async move {
                let (mut asked, mut told) = ([0; 4096], [0; 4096]);
                loop {
                    tokio::select! {
                        Ok(count @ 1..) = client.read(&mut asked) => {
                            if is_ended.swap(false, Ordering::Relaxed) {
                                client.write_all(GOODBYE).await.unwrap();
                                return;
                            }
                            server.write_all(&asked[..count]).await.unwrap();
                        }
                        Ok(count @ 1..) = server.read(&mut told) => client.write_all(&told[..count]).await.unwrap(),
                        else => return,
                    }
                }
            });
        }
    });
    let server = server(None);
    let uri = uri.replace(behind, &front).replace('@', ":s3cret@") + "?sslmode=disable";
    let database = json!({"resource_id": "shop", "type": "database", "uri": uri});
    server.call("resource_register", database).await;
    let asked = json!({"resource_id": "shop", "sql": "SELECT 6 * 7"});
    let first = server.call("resource_query", asked.clone()).await;
    // It is told so as it asks, and no sooner.
    ends.store(true, Ordering::Relaxed);
    assert_eq!(server.call("resource_query", asked).await, first);
    assert!(!ends.load(Ordering::Relaxed), "nobody was sent away");
}
