//! Services over HTTP as resources: read, revalidated and changed, with secrets that nobody else hears of.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use baton::reach::{Names, Reach};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::Server;

const SECRET: &str = "s3cret-of-the-crm";

/// What the service was asked: method, path, what it was shown, what was sent as known.
type Asked = Arc<Mutex<Vec<(Method, String, String, bool)>>>;

async fn answer(State(asked): State<Asked>, request: Request) -> Response {
    let shown = request.headers().get("x-crm-key");
    let shown = shown.map_or("", |shown| shown.to_str().unwrap()).to_owned();
    let known = request.headers().contains_key(header::IF_NONE_MATCH);
    let path = request.uri().to_string();
    let about = (request.method().clone(), path.clone(), shown, known);
    asked.lock().unwrap().push(about);
    let head = [
        (header::ETAG, "\"1\""),
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
    ];
    match path.as_str() {
        "/v1/broken" => (StatusCode::INTERNAL_SERVER_ERROR, SECRET).into_response(),
        "/v1/nothing" => StatusCode::NOT_FOUND.into_response(),
        _ if known => StatusCode::NOT_MODIFIED.into_response(),
        _ => (head, r#"{"name": "Ada"}"#).into_response(),
    }
}

async fn with_service(running: &mut JoinSet<()>) -> (Server, Asked, Value) {
    let asked = Asked::default();
    let router = Router::new().fallback(answer).with_state(asked.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    running.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let names = Names::Told(Arc::new(|_: &str| vec![IpAddr::from([127, 0, 0, 1])]));
    let server = Server::within(Reach::new(vec!["crm.test".parse().unwrap()]).named_by(names));
    let secret = json!({"name": "crm", "value": SECRET});
    server.call("secret_set", secret).await;
    let service = json!({"resource_id": "crm", "type": "api_endpoint", "uri": format!("http://crm.test:{port}/v1/"),
        "access_permissions": ["read", "write"], "metadata": {"auth": {"secret": "crm", "header": "x-crm-key"}}});
    server.call("resource_register", service.clone()).await;
    (server, asked, service)
}

fn at(path: &str) -> Value {
    json!({"resource_id": "crm", "path": path})
}

#[tokio::test]
async fn a_service_is_read_revalidated_and_changed() {
    let mut running = JoinSet::new();
    let (server, asked, mut service) = with_service(&mut running).await;
    for _ in 0..2 {
        let read = server.call("resource_read", at("people/a b")).await;
        assert_eq!(
            (&read["text"], &read["mime_type"]),
            (&json!(r#"{"name": "Ada"}"#), &json!("application/json"))
        );
    }
    let uri = "baton://resources/crm/people/a%20b";
    let content = server
        .app
        .catalog
        .read(&server.ctx("default"), uri)
        .await
        .unwrap();
    assert_eq!(content.mime_type, "application/json");
    let mut write = at("people/eve.json");
    write["text"] = "{}".into();
    server.call("resource_write", write).await;
    let mut remove = at("people/eve.json");
    remove["remove"] = true.into();
    server.call("resource_write", remove).await;
    let (ada, eve) = (
        "/v1/people/a%20b".to_owned(),
        "/v1/people/eve.json".to_owned(),
    );
    let secret = || SECRET.to_owned();
    let expected = [
        (Method::GET, ada.clone(), secret(), false),
        (Method::GET, ada.clone(), secret(), true),
        (Method::GET, ada, secret(), true),
        (Method::PUT, eve.clone(), secret(), false),
        (Method::DELETE, eve, secret(), false),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
    assert_eq!(
        server.code("resource_read", at("../admin")).await,
        "invalid_input"
    );
    assert_eq!(
        server.code("resource_read", at("nothing")).await,
        "unknown_file"
    );
    // Another tenant's secret of that name is none of this one's.
    let read = json!({"resource_id": "crm"});
    server
        .call_as("globex", "resource_register", service.clone())
        .await;
    let refused = server.try_call_as("globex", "resource_read", read).await;
    assert_eq!(refused.unwrap_err().code(), "unknown_secret");
    // Who is not an admin could have it sent to himself.
    service["agent_id"] = "ada".into();
    assert_eq!(
        server.code("resource_register", service.clone()).await,
        "forbidden"
    );
    service["resource_id"] = "mine".into();
    assert_eq!(server.code("resource_register", service).await, "forbidden");
}

#[tokio::test]
async fn no_secret_of_a_service_is_shown() {
    let mut running = JoinSet::new();
    let (server, _, service) = with_service(&mut running).await;
    let broken = server
        .try_call("resource_read", at("broken"))
        .await
        .unwrap_err();
    assert_eq!(broken.code(), "remote_error");
    let mut texts = vec![format!("{broken:?}"), broken.to_string()];
    for op in ["resource_list", "resource_get"] {
        texts.push(
            server
                .call(
                    op,
                    if op == "resource_get" {
                        json!({"resource_id": "crm"})
                    } else {
                        json!({})
                    },
                )
                .await
                .to_string(),
        );
    }
    for (place, value) in [
        ("/uri", json!("https://ada:s3cret-of-the-crm@crm.test/")),
        ("/uri", json!("https://crm.test/?key=s3cret-of-the-crm")),
        (
            "/metadata/headers/authorization",
            json!({"headers": {"authorization": "s3cret-of-the-crm"}}),
        ),
    ] {
        let mut bad = service.clone();
        bad[place.split('/').nth(1).unwrap()] = value;
        let refused = server.try_call("resource_register", bad).await.unwrap_err();
        assert_eq!(refused.findings()[0].path, place);
        texts.push(format!("{refused:?}"));
    }
    let ctx = server.ctx("default");
    let events = ctx
        .read(|_, tx| baton::events::after(tx, 0, 100))
        .await
        .unwrap();
    texts.push(format!("{events:?}"));
    for text in texts {
        assert!(!text.contains(SECRET), "{text}");
    }
}
