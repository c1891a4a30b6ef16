//! Takes server-sent events out of a stream that arrives in any pieces. Only their data matters here.

/// Feed decoded bytes into `buffer`, take events out with [`Events::next`].
#[derive(Default)]
pub struct Events {
    pub buffer: Vec<u8>,
    read: usize,
    data: Vec<u8>,
    has_data: bool,
}

impl Events {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The data of the next whole event, when it has any.
    pub fn next(&mut self) -> Option<&[u8]> {
        while let Some(length) = memchr::memchr(b'\n', &self.buffer[self.read..]) {
            let line = &self.buffer[self.read..self.read + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.read += length + 1;
            if line.is_empty() {
                if std::mem::take(&mut self.has_data) {
                    return Some(&self.data);
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                if self.has_data {
                    self.data.push(b'\n');
                } else {
                    self.data.clear();
                }
                self.has_data = true;
                self.data
                    .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            }
        }
        self.buffer.drain(..self.read);
        self.read = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_be_split_anywhere() {
        let text = b": hi\r\nevent: endpoint\r\ndata: /m?x=1\r\n\r\nid: 1\ndata:\n\ndata: {\"a\":\ndata: 1}\n\nretry: 3000\n\ndata: z\n\n";
        for step in 1..text.len() {
            let mut events = Events::default();
            let mut got = Vec::new();
            for part in text.chunks(step) {
                events.buffer.extend_from_slice(part);
                while let Some(data) = events.next() {
                    got.push(String::from_utf8(data.to_vec()).unwrap());
                }
            }
            assert_eq!(got, ["/m?x=1", "", "{\"a\":\n1}", "z"], "step {step}");
        }
    }
}
