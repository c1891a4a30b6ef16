//! A connection whose client may be slow, but not for ever: hyper waits without end for a client that does not read, and for
//! one that does not say which version of HTTP it speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What a client of HTTP/2 sends first. As long as nothing else came, the version is open.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that breaks off when its client takes too long.
pub(super) struct Patient<S> {
    stream: S,
    /// How many bytes of the preface have come, and until when more must come; none when the version is known.
    version: Option<(usize, Pin<Box<Sleep>>)>,
    /// How long the client may leave bytes unread, and until when it has to take the next ones.
    unread: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// The version must be known within `version`; what is written must be taken within `unread`.
    pub(super) fn new(stream: S, version: Duration, unread: Duration) -> Self {
        Self {
            stream,
            version: Some((0, Box::pin(tokio::time::sleep(version)))),
            unread,
            deadline: None,
        }
    }

    /// Passes on what became of a write, and breaks off when the client has taken nothing for too long.
    fn taken<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let unread = self.unread;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(unread)));
        deadline
            .as_mut()
            .poll(context)
            .map(|()| Err(too_slow("the client does not read")))
    }
}

fn too_slow(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((seen, deadline)) = &mut self.version else {
            return read;
        };
        if read.is_pending() {
            return deadline
                .as_mut()
                .poll(context)
                .map(|()| Err(too_slow("the client does not say what it wants")));
        }
        let new = &buffer.filled()[before..];
        *seen += new.len();
        let is_open = PREFACE
            .get(*seen - new.len()..*seen)
            .is_some_and(|expected| expected == new);
        if !is_open || *seen == PREFACE.len() {
            self.version = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.taken(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.taken(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (_client, server) = duplex(16);
        let mut patient = Patient::new(server, LATE, SOON);
        patient.write_all(&[0; 16]).await.unwrap();
        let error = patient.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_given_up_and_one_that_speaks_is_not() {
        for (said, is_given_up) in [
            ("", true),
            ("P", true),
            ("PRI * HTTP/2.0", true),
            ("GE", false),
            ("POST", false),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
        ] {
            let (mut client, server) = duplex(1_024);
            let mut patient = Patient::new(server, SOON, LATE);
            client.write_all(said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let reading = tokio::time::timeout(SOON * 5, patient.read_to_end(&mut heard)).await;
            let given_up =
                matches!(&reading, Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut);
            assert_eq!(given_up, is_given_up, "{said:?}: {reading:?}");
        }
    }
}
