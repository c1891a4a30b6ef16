//! A bare HTTP/1.1 client over one kept-alive socket: as little work as possible beside the server that is measured.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct Target {
    pub authority: String,
    pub path: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or("only http:// can be measured")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address: std::net::SocketAddr = authority
            .parse()
            .map_err(|_| format!("{authority} is no IP:PORT"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{authority}: only loopback addresses are put under load"
            ));
        }
        Ok(Self {
            authority: authority.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
        })
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Framing {
    Length(usize),
    Chunked(Chunk),
    Close,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Chunk {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub event_stream: bool,
    pub close: bool,
    framing: Framing,
}

impl Head {
    pub fn body_done(&self) -> bool {
        matches!(
            self.framing,
            Framing::Length(0) | Framing::Chunked(Chunk::Done)
        )
    }

    fn parse(raw: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(raw).map_err(|_| bad("the head is not text"))?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| bad("not an HTTP/1.1 answer"))?;
        let (mut length, mut chunked, mut event_stream, mut close) = (None, false, false, false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(
                    value
                        .parse()
                        .map_err(|_| bad("content-length is no number"))?,
                );
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("content-type") {
                event_stream = value.starts_with("text/event-stream");
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.eq_ignore_ascii_case("close");
            }
        }
        let framing = match length {
            _ if chunked => Framing::Chunked(Chunk::Size),
            Some(length) => Framing::Length(length),
            None if status == 204 => Framing::Length(0),
            None => Framing::Close,
        };
        Ok(Self {
            status,
            event_stream,
            close: close || framing == Framing::Close,
            framing,
        })
    }
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    read: usize,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Connection {
    pub async fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(&target.authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
            read: 0,
        })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub async fn head(&mut self) -> io::Result<Head> {
        loop {
            let unread = &self.buffer[self.read..];
            if let Some(end) = memchr::memmem::find(unread, b"\r\n\r\n") {
                let head = Head::parse(&unread[..end])?;
                self.read += end + 4;
                return Ok(head);
            }
            if unread.len() > MAX_HEAD {
                return Err(bad("the head of the answer is too large"));
            }
            self.fill().await?;
        }
    }

    /// Appends decoded bytes of the body to `out`: at least one, unless the body is done.
    pub async fn body(&mut self, head: &mut Head, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len();
        loop {
            self.decode(head, out)?;
            if head.body_done() || out.len() > before {
                return Ok(());
            }
            match self.fill().await {
                Err(error)
                    if head.framing == Framing::Close
                        && error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    head.framing = Framing::Length(0);
                    return Ok(());
                }
                filled => filled?,
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        }
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ));
        }
        Ok(())
    }

    fn decode(&mut self, head: &mut Head, out: &mut Vec<u8>) -> io::Result<()> {
        while !head.body_done() && self.read < self.buffer.len() {
            let unread = &self.buffer[self.read..];
            let (wanted, rest): (usize, fn(usize) -> Framing) = match head.framing {
                Framing::Length(left) => (left, Framing::Length),
                Framing::Close => (unread.len(), |_| Framing::Close),
                Framing::Chunked(Chunk::Data(left)) => (left, |left| {
                    Framing::Chunked(if left == 0 {
                        Chunk::DataEnd
                    } else {
                        Chunk::Data(left)
                    })
                }),
                Framing::Chunked(state) => {
                    let Some(end) = memchr::memchr(b'\n', unread) else {
                        return Ok(());
                    };
                    let line = unread[..end].strip_suffix(b"\r").unwrap_or(&unread[..end]);
                    head.framing = Framing::Chunked(state.after_line(line)?);
                    self.read += end + 1;
                    continue;
                }
            };
            let taken = wanted.min(unread.len());
            out.extend_from_slice(&unread[..taken]);
            self.read += taken;
            head.framing = rest(wanted - taken);
        }
        Ok(())
    }
}

impl Chunk {
    fn after_line(self, line: &[u8]) -> io::Result<Self> {
        match self {
            Self::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
                let size = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|hex| usize::from_str_radix(hex.trim(), 16).ok());
                match size.ok_or_else(|| bad("the size of a chunk is no number"))? {
                    0 => Ok(Self::Trailer),
                    size => Ok(Self::Data(size)),
                }
            }
            Self::DataEnd if line.is_empty() => Ok(Self::Size),
            Self::DataEnd => Err(bad("a chunk is longer than it says")),
            Self::Trailer if line.is_empty() => Ok(Self::Done),
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_how_the_body_ends() {
        let head = Head::parse(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; x\r\ntransfer-encoding: chunked",
        )
        .unwrap();
        assert!(head.event_stream && !head.close && head.framing == Framing::Chunked(Chunk::Size));
        let head = Head::parse(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0").unwrap();
        assert!(head.body_done() && head.status == 202);
        assert!(Head::parse(b"HTTP/1.1 200 OK").unwrap().close);
        assert!(Head::parse(b"SSH-2.0").is_err());
    }

    #[test]
    fn only_loopback_is_put_under_load() {
        assert!("http://10.0.0.1:80/mcp".parse::<Target>().is_err());
        assert!("https://127.0.0.1:80/mcp".parse::<Target>().is_err());
        assert_eq!("http://[::1]:8080".parse::<Target>().unwrap().path, "/");
    }
}
