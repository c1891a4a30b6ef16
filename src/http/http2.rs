//! What HTTP/2 needs besides: its connections are held by clients that ask for nothing, send the rest of a head never, or
//! leave answers where they are by giving no window. hyper bounds none of it, so this counts what a connection has open.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::guard::Serves;

/// What one connection has open. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Open>>);

struct Open {
    /// The requests that are not answered to the end; those whose client has to take something, since when.
    requests: HashMap<u64, Option<Instant>>,
    begun: u64,
    /// Since when there is none.
    at_rest: Instant,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Open {
            requests: HashMap::new(),
            begun: 0,
            at_rest: now(),
        })))
    }

    /// The same, for one connection that is watched.
    pub(super) fn over(&self, served: impl Serves) -> Router {
        Router::new()
            .fallback_service(served)
            .layer(from_fn_with_state(self.clone(), follow))
    }

    /// Returns when the connection has been without a request for `rest`, or its client has taken nothing of an answer for
    /// `unread`.
    pub(super) async fn until_idle(self, rest: Duration, unread: Duration) {
        loop {
            // Whoever has to take something from now on has as long, so it is soon enough to look again then.
            let again = now() + unread;
            let deadline = self.deadline(rest, unread).unwrap_or(again);
            if deadline <= now() {
                return;
            }
            tokio::time::sleep_until(deadline.min(again)).await;
        }
    }

    fn deadline(&self, rest: Duration, unread: Duration) -> Option<Instant> {
        let open = self.open();
        if open.requests.is_empty() {
            return Some(open.at_rest + rest);
        }
        let oldest = open.requests.values().flatten().min();
        oldest.map(|since| *since + unread)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Turn {
        let mut open = self.open();
        open.begun += 1;
        let number = open.begun;
        open.requests.insert(number, None);
        Turn {
            watch: self.clone(),
            number,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection's patience is the runtime's time, as its timers are"
)]
fn now() -> Instant {
    Instant::now()
}

/// A request that is not answered to the end.
struct Turn {
    watch: Watch,
    number: u64,
}

impl Turn {
    /// Says whose turn it is: the client's, which has to take what there is, or the server's.
    fn of_client(&self, since: Option<Instant>) {
        self.watch.open().requests.insert(self.number, since);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = self.watch.open();
        open.requests.remove(&self.number);
        open.at_rest = now();
    }
}

async fn follow(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let turn = watch.begin();
    let answer = next.run(request).await;
    answer.map(|body| Body::new(Watched { body, turn }))
}

/// The body of an answer. hyper asks for the next piece only when the client has given a window for the last one.
struct Watched {
    body: Body,
    turn: Turn,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.turn.of_client(frame.is_ready().then(now));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::super::listen::{FAREWELL, HEAD, PING, UNREAD, serve_http2};
    use super::super::patient::Patient;
    use super::super::rest;
    use super::*;
    use crate::app::App;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const A_SECOND: Duration = Duration::from_secs(1);
    const AN_HOUR: Duration = Duration::from_hours(1);
    // Kinds of frames, and flags.
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PINGS: u8 = 6;
    const GOAWAY: u8 = 7;
    const CONTINUATION: u8 = 9;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [kind, flags, 0, 0, 0, stream];
        [&length[1..], &head, payload].concat()
    }

    /// A greeting with the settings, and further frames.
    fn greeting(settings: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
        let settings = frame(SETTINGS, 0, 0, settings);
        [PREFACE, &settings, &frames.concat()].concat()
    }

    /// The head of a request, by numbers of HPACK's table: the method, http, the path, the host.
    fn head(method: u8, path: &[u8]) -> Vec<u8> {
        [&[method, 0x86], path, &[0x41, 9], b"localhost"].concat()
    }

    fn get_root() -> Vec<u8> {
        let head = head(0x82, &[0x84]);
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)
    }

    /// The kinds of frames that a client hears, each with its time, and when the server closes. The client says `begin`, then
    /// `more` once a second.
    async fn converse(
        router: Router,
        begin: Vec<u8>,
        more: Vec<u8>,
        answers_pings: bool,
    ) -> (Vec<(u8, Duration)>, Duration) {
        let (client, server) = duplex(64 * 1024);
        let ends = (CancellationToken::new(), CancellationToken::new());
        let (mut hear, mut tell) = split(client);
        let (say, mut sayings) = mpsc::channel::<Vec<u8>>(8);
        let (start, mut frames) = (now(), Vec::new());
        let mut tasks = JoinSet::new();
        let here = Ipv4Addr::LOCALHOST.into();
        let server = Patient::new(server, HEAD, UNREAD);
        tasks.spawn(serve_http2((server, here), router, ends));
        tasks.spawn(async move {
            while let Some(bytes) = sayings.recv().await {
                let _ = tell.write_all(&bytes).await;
            }
        });
        say.send(begin).await.unwrap();
        let drip = say.clone();
        tasks.spawn(async move {
            while !more.is_empty() && drip.send(more.clone()).await.is_ok() {
                tokio::time::sleep(A_SECOND).await;
            }
        });
        let listens = async {
            let mut prefix = [0; 9];
            while hear.read_exact(&mut prefix).await.is_ok() {
                let length = u32::from_be_bytes([0, prefix[0], prefix[1], prefix[2]]);
                let mut payload = vec![0; length.try_into().unwrap()];
                hear.read_exact(&mut payload).await.unwrap();
                frames.push((prefix[3], now() - start));
                if prefix[3] == PINGS && prefix[4] & ACK == 0 && answers_pings {
                    say.send(frame(PINGS, ACK, 0, &payload)).await.unwrap();
                }
            }
        };
        let _ = tokio::time::timeout(AN_HOUR, listens).await;
        (frames, now() - start)
    }

    #[track_caller]
    fn is_about(took: Duration, expected: Duration) {
        let latest = expected + FAREWELL + A_SECOND;
        assert!((expected..=latest).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_for_nothing_is_closed() {
        let router = Router::new().route("/", get(|| async { "here" }));
        for begin in [
            PREFACE.to_vec(),
            greeting(&[], &[]),
            greeting(&[], &[get_root()]),
        ] {
            for answers_pings in [true, false] {
                let begin = begin.clone();
                let (heard, took) = converse(router.clone(), begin, vec![], answers_pings).await;
                is_about(took, HEAD);
                assert!(heard.iter().any(|(kind, _)| *kind == GOAWAY), "{heard:?}");
            }
        }
        // A head whose one long field never ends.
        let mut long = head(0x82, &[0x84]);
        long.extend([0, 1, b'x', 0x7f, 0x91, 0x4d]);
        let begin = greeting(&[], &[frame(HEADERS, END_STREAM, 1, &long)]);
        let more = frame(CONTINUATION, 0, 1, b"x");
        let (_, took) = converse(router, begin, more, true).await;
        assert!(took <= HEAD + FAREWELL + A_SECOND, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_is_kept_as_long_as_it_lives() {
        let router = Router::new().route("/", get(std::future::pending::<()>));
        let begin = greeting(&[], &[get_root()]);
        let (_, took) = converse(router.clone(), begin.clone(), vec![], true).await;
        assert_eq!(took, AN_HOUR);
        let (_, took) = converse(router, begin, vec![], false).await;
        is_about(took, UNREAD + PING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_no_window_for_an_answer_is_cut() {
        let router = Router::new().route("/", get(|| async { "here" }));
        let no_window = [0, 4, 0, 0, 0, 0];
        let begin = greeting(&no_window, &[get_root()]);
        let (heard, took) = converse(router, begin, vec![], true).await;
        assert!(heard.iter().any(|(kind, _)| *kind == HEADERS), "{heard:?}");
        assert!(!heard.iter().any(|(kind, _)| *kind == DATA), "{heard:?}");
        is_about(took, UNREAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_a_byte_a_second_is_answered_before_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        let path = [&[0x04, 13], &b"/api/v1/tasks"[..]].concat();
        let begun = frame(HEADERS, END_HEADERS, 1, &head(0x83, &path));
        let more = frame(DATA, 0, 1, b" ");
        let (heard, took) = converse(rest::router(&app), greeting(&[], &[begun]), more, true).await;
        let answer = heard.iter().find(|(kind, _)| *kind == HEADERS);
        is_about(answer.expect("an answer").1, Duration::from_secs(30));
        is_about(took, Duration::from_secs(30) + HEAD);
    }
}
