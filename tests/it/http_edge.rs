//! What holds for every path: health, problems, who may be addressed and who may call, panics, and the end.

use axum::Router;
use axum::routing::get;
use reqwest::Method;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::until;

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_answer() {
    let server = HttpServer::start().await;
    let health = server.get("/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &"ok".into()));
    let ready = server.get("/ready").await;
    assert_eq!((ready.status, &ready.body["database"]), (200, &"ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_database_is_gone_lives_and_is_not_ready() {
    let server = HttpServer::start().await;
    server.home.ruin();
    let ready = server.get("/ready").await;
    assert_eq!(
        (ready.status, &ready.body["status"]),
        (503, &"not_ready".into())
    );
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_wrong_methods_are_problems() {
    let server = HttpServer::start().await;
    let answer = server.get("/api/v1/nothing").await;
    answer.is_problem(404, "unknown_path");
    assert!(
        answer.body["detail"]
            .as_str()
            .unwrap()
            .contains("/api/v1/nothing")
    );
    let answer = Answer::of(server.request(Method::POST, "/health")).await;
    answer.is_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_leads_to_the_documentation() {
    let server = HttpServer::start().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    for outside in ["https://", "http://", "src=\"//"] {
        assert!(
            !page.text.contains(outside),
            "the page loads from {outside}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_are_refused_everywhere() {
    let server = HttpServer::builder()
        .settings(|settings| settings.allowed_hosts = vec!["baton.example.com".into()])
        .start()
        .await;
    for path in ["/health", "/docs", "/nothing", "/mcp"] {
        let request = server.request(Method::GET, path);
        let answer = Answer::of(request.header("host", "evil.example")).await;
        answer.is_problem(403, "host_not_allowed");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("--allowed-host evil.example"), "{detail}");
    }
    for host in ["localhost", "[::1]:9", "baton.example.com"] {
        let request = server.request(Method::GET, "/health");
        assert_eq!(
            Answer::of(request.header("host", host)).await.status,
            200,
            "{host}"
        );
    }
    let answer = server.raw("GET /health HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = server
        .raw("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_foreign_origins_are_refused_and_others_get_what_browsers_need() {
    let server = HttpServer::builder()
        .settings(|settings| settings.allowed_origins = vec!["https://app.example.com/".into()])
        .start()
        .await;
    let from = |origin: &str| {
        server
            .request(Method::GET, "/health")
            .header("origin", origin)
    };
    let answer = Answer::of(from("https://evil.example")).await;
    answer.is_problem(403, "origin_not_allowed");
    assert_eq!(answer.header("access-control-allow-origin"), "");
    Answer::of(from("null"))
        .await
        .is_problem(403, "origin_not_allowed");

    for origin in ["http://localhost:6274", "https://app.example.com"] {
        let answer = Answer::of(from(origin)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
    }
    let request = server
        .request(Method::OPTIONS, "/api/v1/tasks")
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-tenant-id");
    let answer = Answer::of(request).await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "content-type,x-tenant-id"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_and_the_server_lives_on() {
    async fn broken() {
        panic!("a bug with a secret in its message");
    }
    let server = HttpServer::builder()
        .extra(Router::new().route("/broken", get(broken)))
        .start()
        .await;
    let answer = server.get("/broken").await;
    answer.is_problem(500, "internal");
    assert!(!answer.text.contains("secret"));
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_withdraws_its_call() {
    struct Withdrawn(mpsc::Sender<&'static str>);
    impl Drop for Withdrawn {
        fn drop(&mut self) {
            let _ = self.0.try_send("withdrawn");
        }
    }
    let (tell, mut told) = mpsc::channel(2);
    let waits = move || {
        let call = Withdrawn(tell.clone());
        async move {
            call.0.send("begun").await.unwrap();
            std::future::pending::<()>().await;
            drop(call);
        }
    };
    let server = HttpServer::builder()
        .extra(Router::new().route("/waits", get(waits)))
        .start()
        .await;
    let mut call = JoinSet::new();
    call.spawn(server.request(Method::GET, "/waits").send());
    assert_eq!(told.recv().await, Some("begun"));
    call.abort_all();
    assert_eq!(told.recv().await, Some("withdrawn"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_takes_no_new_connections_and_finishes_calls_in_flight() {
    let (begun, mut begins) = mpsc::channel(1);
    let finish = CancellationToken::new();
    let finished = finish.clone();
    let slow = move || {
        let (begun, finished) = (begun.clone(), finished.clone());
        async move {
            begun.send(()).await.unwrap();
            finished.cancelled().await;
            "finished"
        }
    };
    let server = HttpServer::builder()
        .extra(Router::new().route("/slow", get(slow)))
        .start()
        .await;
    // A connection that rests must not hold the stop up.
    assert_eq!(server.get("/health").await.status, 200);
    let mut call = JoinSet::new();
    call.spawn(server.request(Method::GET, "/slow").send());
    begins.recv().await.unwrap();
    let address = server.address;
    let refused = async {
        until(async || TcpStream::connect(address).await.is_err()).await;
        finish.cancel();
    };
    tokio::join!(server.stop(), refused);
    let answer = call.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "finished");
}
