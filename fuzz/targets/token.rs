//! Tokens: whatever one says, a stranger stays outside, and of what the issuer has signed only what is all right comes in.
//! A text of two lines is a header and claims, which are signed; any other is a token as it stands.
#![no_main]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use baton::access::Access;
use baton::config::Auth;
use baton::error::Kind;
use baton_fuzz::{NOW, Server};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

const PUBLIC: &str = "https://baton.example.com";
/// RFC 7515 appendix A.2: a key that signs nothing here, so that signatures of another family are read, too.
const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";

struct Door {
    server: Server,
    issuer: String,
    key: Ed25519KeyPair,
}

static DOOR: LazyLock<Door> = LazyLock::new(|| {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let issuer = format!("http://{}", listener.local_addr().expect("an address"));
    let x = BASE64.encode(key.public_key().as_ref());
    let keys = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x},
        {"kty": "RSA", "kid": "two", "use": "sig", "n": MODULUS, "e": "AQAB"},
    ]});
    let metadata = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    std::thread::spawn(move || publish(&listener, &metadata.to_string(), &keys.to_string()));
    let named = issuer.clone();
    let server = Server::with(move |settings| {
        settings.auth = vec![Auth::Keys, Auth::Oidc];
        settings.oidc_issuer = Some(named);
        settings.public_url = Some(PUBLIC.into());
    });
    Door {
        server,
        issuer,
        key,
    }
});

/// Serves the two documents of an issuer for ever.
fn publish(listener: &TcpListener, metadata: &str, keys: &str) {
    for stream in listener.incoming().flatten() {
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        let body = if first.contains("/keys") {
            keys
        } else {
            metadata
        };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}");
        let _ = write!(&stream, "{head}\r\n\r\n{body}");
    }
}

fn sign(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let signature = BASE64.encode(DOOR.key.sign(text.as_bytes()).as_ref());
    format!("{text}.{signature}")
}

/// What must be so of claims that let somebody in as `name`.
fn check(claims: &Value, name: &str) {
    let subject = claims["sub"].as_str().expect("somebody");
    let shown: String = subject.chars().take(128).collect();
    assert_eq!(name, format!("user:{shown}"));
    assert!(!name.chars().any(char::is_control), "{name:?}");
    assert_eq!(claims["iss"], DOOR.issuer);
    let seconds = NOW.as_micros() / 1_000_000;
    assert!(claims["exp"].as_f64().expect("an end") >= (seconds - 61) as f64);
    let audience = claims["aud"].to_string();
    assert!(audience.contains(PUBLIC) && audience.contains("/mcp"));
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let signed = text.split_once('\n');
    let token = match signed {
        // Claims name the issuer, whose address is another one each time.
        Some((header, claims)) => sign(header, &claims.replace("ISSUER", &DOOR.issuer)),
        None => text.to_owned(),
    };
    let access: &Access = &DOOR.server.app.access;
    match DOOR.server.runtime.block_on(access.let_in(Some(&token))) {
        Err(error) => assert_eq!(error.kind(), Kind::Unauthenticated, "{error:?}"),
        Ok(principal) => {
            let (_, claims) = signed.expect("nobody has signed it");
            let claims = claims.replace("ISSUER", &DOOR.issuer);
            let claims = serde_json::from_str(&claims).expect("claims are JSON");
            check(&claims, &principal.expect("somebody").name);
        }
    }
});
