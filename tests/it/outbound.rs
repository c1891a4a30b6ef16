//! Calls to URLs that tenants name lead nowhere that the operator has not opened, by whatever path they leave: each path
//! that there is goes through the same table of hostile URLs, as they are and as where a redirect leads.

use std::net::{IpAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::any;
use baton::error::{Error, Kind};
use baton::outbound::{Bounds, Request};
use baton::reach::{Names, Reach};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::Server;

/// URLs that must not be called. Behind `PORT` on this machine somebody listens who must never be called.
const HOSTILE: [&str; 92] = [
    // This machine, in every way to write it.
    "http://127.0.0.1:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://127.255.255.254:PORT/",
    "http://2130706433:PORT/",
    "http://017700000001:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://0177.0.0x0.1:PORT/",
    "http://00000177.0.0.1:PORT/",
    "http://0x7f.1:PORT/",
    "http://127.0.0.01:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://0x0:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://127。0。0。1:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST:PORT/",
    "http://localhost.:PORT/",
    "http://ⓛocalhost:PORT/",
    "http://app.localhost:PORT/",
    "http:\\\\127.0.0.1:PORT\\",
    "http:127.0.0.1:PORT/",
    "http:////127.0.0.1:PORT/",
    "https://127.0.0.1:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[0:0:0:0:0:ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::7f00:1]:PORT/",
    "http://[64:ff9b:1::127.0.0.1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    "http://[2606:4700::5efe:7f00:1]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fec0::1]:PORT/",
    // Names that lead there.
    "http://127.0.0.1.nip.test:PORT/",
    "http://inside.test:PORT/",
    "http://six.test:PORT/",
    "http://mapped.test:PORT/",
    "http://nat64.test:PORT/",
    "http://many.test:PORT/",
    "http://xn--nside-6qa.test:PORT/",
    "http://nowhere.test:PORT/",
    "http://public.test.inside.test:PORT/",
    "http://notpublic.test:PORT/",
    // Private networks, and what is beside the public one.
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://3232235521/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.0.0.8/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[fc00::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    // Where clouds tell machines about themselves.
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/opc/v1/",
    // What is before the host.
    "http://public.test@127.0.0.1:PORT/",
    "http://public.test:PORT@127.0.0.1/",
    "http://user:hunter2@public.test/",
    "http://127.0.0.1:PORT\\@public.test/",
    "http://@public.test:80@127.0.0.1:PORT/",
    // Other schemes and ports.
    "file:///etc/passwd",
    "ftp://public.test/",
    "gopher://127.0.0.1:PORT/_GET",
    "unix:/run/docker.sock",
    "data:text/plain,x",
    "ws://127.0.0.1:PORT/",
    "http://public.test:22/",
    "http://public.test:25/",
    "http:///",
];

/// What leaves by a path that tenants have.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<String, Error>> + Send + 'a>>;

/// A path by which a tenant can make Baton call a URL.
type Leaves = fn(&Server, String) -> Sent<'_>;

/// Every such path, and what it answers. A new one is one more entry.
const PATHS: [(&str, Leaves); 7] = [
    ("fetch", |server, url| {
        Box::pin(async move {
            let outside = server.app.system.outside();
            let answer = outside.fetch(Request::get(url), &Bounds::default()).await?;
            Ok(String::from_utf8_lossy(&answer.body).into_owned())
        })
    }),
    ("a tool", |server, url| {
        Box::pin(async move {
            let tool = json!({"name": "fetch", "description": "Reads any URL",
                "parameters": {"properties": {"url": {"type": "string"}}, "required": ["url"]},
                "implementation": {"type": "http", "method": "GET", "url": "{+url}"}});
            server.call("tool_create", tool).await;
            let call = json!({"name": "fetch", "arguments": {"url": url}});
            let answer = server.try_call("tool_call", call).await?;
            Ok(answer.to_string())
        })
    }),
    ("resource_read", |server, url| {
        Box::pin(async move {
            let input = json!({"resource_id": "service", "type": "api_endpoint", "uri": url});
            let registered = server.try_call("resource_register", input).await;
            registered.map_err(unfit)?;
            let read = json!({"resource_id": "service"});
            let read = server.try_call("resource_read", read).await?;
            Ok(read.to_string())
        })
    }),
    ("tool_import_openapi", |server, url| {
        Box::pin(async move {
            let import = server.try_call("tool_import_openapi", json!({"url": url}));
            match import.await.expect_err("it is no API") {
                // It was read, and is no document.
                error if error.findings().iter().any(|it| it.path == "/url") => Ok("hello".into()),
                error => Err(error),
            }
        })
    }),
    ("a script", |server, url| Box::pin(by_script(server, url))),
    ("a bucket", |server, url| {
        Box::pin(async move {
            let bucket = json!({"resource_id": "bucket", "type": "file_storage", "uri": "s3://files",
                "metadata": {"endpoint": url}});
            let registered = server.try_call("resource_register", bucket).await;
            registered.map_err(unfit)?;
            let read = server.try_call("resource_read", json!({"resource_id": "bucket"}));
            reached(read.await)
        })
    }),
    ("another MCP server", |server, url| {
        Box::pin(async move {
            let tool = json!({"name": "far", "description": "Another server's",
                "implementation": {"type": "upstream", "url": url}});
            reached(server.try_call("tool_create", tool).await.map_err(unfit))
        })
    }),
];

/// What can't be such a URL at all is refused before anybody looks where it leads.
fn unfit(error: Error) -> Error {
    match error.code() {
        "invalid_input" => Error::invalid("address_refused", error.message()),
        _ => error,
    }
}

/// Whoever was reached spoke no such protocol.
fn reached(answer: Result<serde_json::Value, Error>) -> Result<String, Error> {
    match answer {
        Err(error) if error.code() == "remote_error" => Ok("hello".into()),
        Ok(answer) => Ok(answer.to_string()),
        Err(error) => Err(error),
    }
}

/// What a script finds at `url`, which it was granted, and where it is led from there.
async fn by_script(server: &Server, mut url: String) -> Result<String, Error> {
    const SOURCE: &str = "async function main({url}, baton) {
        try { const {body, headers} = await baton.fetch(url); return {body, location: headers.location}; }
        catch ({code, message}) { return {code, message}; }
    }";
    loop {
        let ports = url.split(':').filter_map(|part| {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
            Some(format!("*:{}", digits.parse::<u16>().ok()?))
        });
        let hosts: Vec<String> = ports.chain(["*".to_owned()]).collect();
        let name = format!("fetch-{}", hosts.concat().replace(['*', ':'], "-"));
        let tool = json!({"name": name, "description": "Reads any URL",
            "parameters": {"properties": {"url": {"type": "string"}}, "required": ["url"]},
            "implementation": {"type": "script", "source": SOURCE, "hosts": hosts}});
        server.call("tool_create", tool).await;
        let call = json!({"name": name, "arguments": {"url": url}});
        let answer = server.call("tool_call", call).await;
        let message = answer["message"].as_str().unwrap_or_default();
        match (answer["code"].as_str(), answer["location"].as_str()) {
            (None, Some(location)) => location.clone_into(&mut url),
            (None, None) => return Ok(answer["body"].to_string()),
            // What no two readers read alike is not even looked up.
            (Some("invalid_input" | "address_refused"), _) => {
                return Err(Error::invalid("address_refused", message));
            }
            (Some("remote_error"), _) => return Err(Error::invalid("remote_error", message)),
            (Some(other), _) => panic!("{url}: {other}: {message}"),
        }
    }
}

fn addresses(name: &str) -> Vec<IpAddr> {
    let found: &[&str] = match name {
        "public.test" | "inside.test" | "public.test.inside.test" | "notpublic.test" => {
            &["127.0.0.1"]
        }
        "localhost" | "app.localhost" | "127.0.0.1.nip.test" => &["127.0.0.1", "::1"],
        "six.test" => &["::1"],
        "mapped.test" => &["::ffff:127.0.0.1"],
        "nat64.test" => &["64:ff9b::7f00:1"],
        "many.test" => &["10.0.0.1", "127.0.0.1", "fe80::1", "::"],
        "metadata.google.internal" => &["169.254.169.254"],
        "xn--nside-6qa.test" => &["127.0.0.1"],
        _ => &[],
    };
    found.iter().map(|text| text.parse().unwrap()).collect()
}

/// A server of the outside world at `address`, which answers `hello`, and redirects from `/STATUS/N` to the Nth of `targets`.
async fn world(running: &mut JoinSet<()>, address: &str, targets: Vec<String>) -> u16 {
    let redirect = |Path((status, at)): Path<(u16, usize)>,
                    State(targets): State<Arc<Vec<String>>>| async move {
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        let location = axum::http::HeaderValue::from_bytes(targets[at].as_bytes()).unwrap();
        let head = [
            (axum::http::header::LOCATION, location),
            (axum::http::header::CONNECTION, "close".parse().unwrap()),
        ];
        (status, head).into_response()
    };
    let router = Router::new()
        .route("/{status}/{at}", any(redirect))
        .fallback(|| async { "hello" })
        .with_state(Arc::new(targets));
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    running.spawn(async move { axum::serve(listener, router).await.unwrap() });
    port
}

/// Somebody on this machine who must not be called.
struct Trap(TcpListener);

impl Trap {
    fn set() -> Self {
        let trap = TcpListener::bind("127.0.0.1:0").unwrap();
        trap.set_nonblocking(true).unwrap();
        Self(trap)
    }

    fn urls(&self) -> Vec<String> {
        let port = self.0.local_addr().unwrap().port().to_string();
        let urls = HOSTILE.iter().map(|url| url.replace("PORT", &port));
        urls.collect()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let came = self.0.accept();
        let kind = came.expect_err("nobody was called").kind();
        assert_eq!(kind, std::io::ErrorKind::WouldBlock);
    }
}

fn reach(opened: &[&str]) -> Reach {
    let opened = opened.iter().map(|text| text.parse().unwrap()).collect();
    Reach::new(opened).named_by(Names::Told(Arc::new(addresses)))
}

#[tokio::test]
async fn no_path_leads_where_the_operator_has_not_opened() {
    let (trap, mut running) = (Trap::set(), JoinSet::new());
    let hostile = trap.urls();
    let world = world(&mut running, "127.0.0.1", hostile.clone()).await;
    let server = Server::within(reach(&["public.test"]));
    for (path, call) in PATHS {
        let hello = call(&server, format!("http://public.test:{world}/")).await;
        assert!(hello.unwrap().contains("hello"), "{path}");
        for url in &hostile {
            let refused = call(&server, url.clone()).await;
            let refused = refused.expect_err(&format!("{path}: {url}"));
            assert_eq!(
                (refused.kind(), refused.code()),
                (Kind::Invalid, "address_refused"),
                "{path}: {url}: {refused}"
            );
            assert!(!refused.message().contains("hunter2"), "{refused}");
        }
        trap.is_untouched();
    }
}

#[tokio::test]
async fn no_redirect_leads_there_either() {
    let (trap, mut running) = (Trap::set(), JoinSet::new());
    let hostile = trap.urls();
    let world = world(&mut running, "127.0.0.1", hostile.clone()).await;
    let server = Server::within(reach(&["public.test"]));
    for (path, call) in PATHS {
        for (at, url) in hostile.iter().enumerate() {
            let status = [301, 302, 303, 307, 308][at % 5];
            let url_of_redirect = format!("http://public.test:{world}/{status}/{at}");
            match call(&server, url_of_redirect).await {
                Err(refused) => {
                    let codes = ["address_refused", "remote_error"];
                    assert!(codes.contains(&refused.code()), "{path}: {url}: {refused}");
                }
                // What names no host is a path of the server that redirects to it.
                Ok(hello) => assert!(hello.contains("hello"), "{path}: {url}"),
            }
        }
        trap.is_untouched();
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_leads_nowhere_else() {
    let mut running = JoinSet::new();
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let back = format!(
        "http://rebind.test:{}/",
        inside.local_addr().unwrap().port()
    );
    let world = world(&mut running, "127.0.0.2", vec![back]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // The first answer is where it may lead, every further one where it may not.
    let names = Names::Told(Arc::new(move |_: &str| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if first { "127.0.0.2" } else { "127.0.0.1" };
        vec![address.parse().unwrap()]
    }));
    let opened = vec!["127.0.0.2".parse().unwrap()];
    let server = Server::within(Reach::new(opened).named_by(names));
    let outside = server.app.system.outside();
    let url = format!("http://rebind.test:{world}/");
    let answer = outside.fetch(Request::get(url), &Bounds::default()).await;
    assert_eq!(answer.unwrap().body, b"hello");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is looked up once");
    // On a new connection, and to where it leads by then.
    for path in ["/302/0", "/"] {
        asked.store(usize::from(path == "/"), Ordering::SeqCst);
        let fresh = Server::within(server.app.config.reach.clone());
        let outside = fresh.app.system.outside();
        let url = format!("http://rebind.test:{world}{path}");
        let refused = outside.fetch(Request::get(url), &Bounds::default()).await;
        assert_eq!(refused.unwrap_err().code(), "address_refused");
    }
    inside.accept().expect_err("nobody was called");
}

#[tokio::test]
async fn what_is_read_is_bounded() {
    let mut running = JoinSet::new();
    let targets = vec!["/302/0".to_owned(), "/302/2".to_owned(), "/".to_owned()];
    let world = world(&mut running, "127.0.0.1", targets).await;
    let server = Server::within(reach(&["public.test"]));
    let outside = server.app.system.outside();
    let to = |path: &str| Request::get(format!("http://public.test:{world}{path}"));
    let short = Bounds {
        bytes: 3,
        ..Bounds::default()
    };
    let cut = outside.fetch(to("/"), &short).await.unwrap();
    assert_eq!((cut.body.as_slice(), cut.is_cut), (&b"hel"[..], true));
    let usual = Bounds::default();
    let whole = outside.fetch(to("/302/1"), &usual).await.unwrap();
    assert_eq!(
        (whole.body.as_slice(), whole.is_cut),
        (&b"hello"[..], false)
    );
    let round = outside.fetch(to("/302/0"), &Bounds::default()).await;
    assert_eq!(round.unwrap_err().code(), "remote_error");
    let shown = Bounds {
        redirects: 0,
        ..Bounds::default()
    };
    let shown = outside.fetch(to("/302/0"), &shown).await.unwrap();
    assert_eq!(shown.status.as_u16(), 302);
    let mut ours = to("/");
    ours.headers.insert("host", "127.0.0.1".parse().unwrap());
    let refused = outside.fetch(ours, &Bounds::default()).await;
    assert_eq!(refused.unwrap_err().code(), "invalid_input");
}

#[tokio::test]
async fn this_machine_is_closed_however_it_is_named_by_its_own_resolver() {
    let trap = Trap::set();
    let port = trap.0.local_addr().unwrap().port();
    let server = Server::start();
    let outside = server.app.system.outside();
    for host in ["localhost", "LocalHost.", "nowhere.invalid"] {
        let url = format!("http://{host}:{port}/");
        let refused = outside.fetch(Request::get(url), &Bounds::default()).await;
        assert_eq!(refused.unwrap_err().code(), "address_refused", "{host}");
    }
    trap.is_untouched();
}
