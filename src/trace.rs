//! Where a call stands in the work of its caller: W3C Trace Context and Baggage, as headers, `_meta` and the environment
//! carry them. What is malformed is taken for absent, and is never an error.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::Span;

/// What a trace is carried by, wherever it is.
pub const NAMES: [&str; 3] = [PARENT, STATE, BAGGAGE];
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";
static TRACEPARENT: HeaderName = HeaderName::from_static(PARENT);

/// Bytes and entries of a state and of a baggage that everybody must be able to carry; what has more is left behind.
const STATE_BOUNDS: (usize, usize) = (512, 32);
const BAGGAGE_BOUNDS: (usize, usize) = (8_192, 64);
/// Bytes of a key or a value in a state.
const ENTRY: usize = 256;

/// A caller's trace context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Trace {
    /// The caller's trace and the span that called (W3C Trace Context)
    traceparent: String,
    /// What the tracing systems on the way added
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    /// What the caller wants everybody behind it to know (W3C Baggage)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baggage: Option<String>,
}

impl Trace {
    /// What `find` has of the [`NAMES`]. Without a parent there is none.
    pub fn read<'a>(find: impl Fn(&'static str) -> Option<Cow<'a, str>>) -> Option<Self> {
        Some(Self {
            traceparent: parent(&find(PARENT)?)?,
            tracestate: find(STATE)
                .filter(|state| is_state(state))
                .map(Cow::into_owned),
            baggage: find(BAGGAGE)
                .filter(|baggage| is_baggage(baggage))
                .map(Cow::into_owned),
        })
    }

    /// The trace of an HTTP request.
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        // Most have none.
        headers.get(&TRACEPARENT)?;
        Self::read(|name| {
            let values = headers.get_all(name).iter().map(HeaderValue::to_str);
            let values = values.collect::<Result<Vec<_>, _>>().ok()?;
            (!values.is_empty()).then(|| values.join(",").into())
        })
    }

    /// What there is of the [`NAMES`].
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = [
            Some(&self.traceparent),
            self.tracestate.as_ref(),
            self.baggage.as_ref(),
        ];
        let parts = NAMES.into_iter().zip(values);
        parts.filter_map(|(name, value)| Some((name, value?.as_str())))
    }

    /// The trace as an event has it, which is without baggage: parent and state, with a blank between.
    pub fn line(&self) -> String {
        match &self.tracestate {
            None => self.traceparent.clone(),
            Some(state) => format!("{} {state}", self.traceparent),
        }
    }

    /// What [`Trace::line`] wrote; nothing is no trace.
    pub fn of_line(line: &str) -> Option<Self> {
        let (parent, state) = match line.split_once(' ') {
            Some((parent, state)) => (parent, Some(state)),
            None => (line, None),
        };
        (!parent.is_empty()).then(|| Self {
            traceparent: parent.to_owned(),
            tracestate: state.map(str::to_owned),
            baggage: None,
        })
    }

    /// The parent and the state, as an event shows them.
    pub fn into_attributes(self) -> (String, Option<String>) {
        (self.traceparent, self.tracestate)
    }

    /// The span in which what a call of `trace` logs says so; without a trace it is none, and costs nothing.
    pub fn span(trace: Option<&Self>) -> Span {
        let Some(Self { traceparent, .. }) = trace else {
            return Span::none();
        };
        let (trace_id, span_id) = (traceparent.get(3..35), traceparent.get(36..52));
        // Of the highest level, so that it is there for whatever is logged.
        tracing::error_span!("call", trace_id, span_id)
    }
}

/// A parent in the form of the first version, which every later one extends.
fn parent(text: &str) -> Option<String> {
    let hex = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.bytes().all(is_hex).then_some(digits)
    };
    let is_id = |id: &&str| id.bytes().any(|byte| byte != b'0');
    let version = hex(0, 2).filter(|version| *version != "ff")?;
    let (trace, span) = (hex(3, 35).filter(is_id)?, hex(36, 52).filter(is_id)?);
    let flags = u8::from_str_radix(hex(53, 55)?, 16).ok()?;
    let has_dashes = [2, 35, 52].iter().all(|at| text.as_bytes()[*at] == b'-');
    let rest = text.get(55..).filter(|_| has_dashes)?;
    match version {
        "00" => rest.is_empty().then(|| text.to_owned()),
        _ if rest.is_empty() || rest.starts_with('-') => {
            Some(format!("00-{trace}-{span}-{:02x}", flags & 1))
        }
        _ => None,
    }
}

/// The entries of a list, which may have blanks around it.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(trim)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_state(text: &str) -> bool {
    let mut keys = Vec::new();
    let mut entries = entries(text).filter(|entry| !entry.is_empty());
    let is_well = entries.all(|entry| {
        let Some((key, value)) = entry.split_once('=') else {
            return false;
        };
        let is_new = !keys.contains(&key);
        keys.push(key);
        let may_begin = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let is_key =
            |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
        let is_value = |c: u8| matches!(c, b' '..=b'~') && c != b'=';
        is_new
            && may_begin
            && key.len() <= ENTRY
            && (1..=ENTRY).contains(&value.len())
            && key.bytes().all(is_key)
            && value.bytes().all(is_value)
    });
    is_well && text.len() <= STATE_BOUNDS.0 && (1..=STATE_BOUNDS.1).contains(&keys.len())
}

fn is_baggage(text: &str) -> bool {
    let is_token = |text: &str| {
        let is_mark = |c: u8| b"!#$%&'*+-.^_`|~".contains(&c);
        !text.is_empty()
            && text
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || is_mark(c))
    };
    let is_value = |text: &str| {
        let is_octet = |c: u8| matches!(c, b'!'..=b'~') && !b"\",;\\".contains(&c);
        text.bytes().all(is_octet)
    };
    let is_pair = |text: &str| {
        let pair = text.split_once('=');
        pair.is_some_and(|(key, value)| is_token(trim(key)) && is_value(trim(value)))
    };
    let is_entry = |entry: &str| {
        let mut parts = entry.split(';').map(trim);
        parts.next().is_some_and(is_pair) && parts.all(|more| is_token(more) || is_pair(more))
    };
    text.len() <= BAGGAGE_BOUNDS.0
        && entries(text).count() <= BAGGAGE_BOUNDS.1
        && entries(text).all(is_entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_strictly() {
        assert_eq!(parent(GOOD).as_deref(), Some(GOOD));
        let later = format!("cc{}-what-the-future-will-be-like", &GOOD[2..]);
        assert_eq!(parent(&later).as_deref(), Some(GOOD));
        let flagged = format!("01{}ff", &GOOD[2..53]);
        assert_eq!(parent(&flagged).as_deref(), Some(GOOD));
        let zeros = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00".to_owned(),
            GOOD.to_uppercase(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            format!(" {GOOD}"),
            format!("{GOOD},{GOOD}"),
            GOOD[..54].to_owned(),
            GOOD.replace('-', "_"),
            GOOD.replacen("00-", "ff-", 1),
            GOOD.replacen("00-", "0g-", 1),
            GOOD.replacen("0af7651916cd43dd8448eb211c80319c", &zeros.0, 1),
            GOOD.replacen("b7ad6b7169203331", &zeros.1, 1),
            GOOD.replacen("b7ad6b7169203331", "b7ad6b716920333ä", 1),
            format!("cc{}.what", &GOOD[2..]),
        ] {
            assert_eq!(parent(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_state_and_a_baggage_are_read_strictly() {
        for good in [
            "rojo=00f067aa0ba902b7",
            "rojo=1, congo=t61rcWkgMzE ,,a@b=c d",
            "0a=!",
        ] {
            assert!(is_state(good), "{good}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        let (many, long) = (many.join(","), format!("a={}", "x".repeat(257)));
        for bad in [
            "", " ", "a", "=b", "a=", "A=b", "_a=b", "a=b=c", "a=b,a=c", "a=ä", "a=b\n", &many,
            &long,
        ] {
            assert!(!is_state(bad), "{bad}");
        }
        for good in ["a=b", "a=", " userId = al%20ice;meta;of=x , b=2"] {
            assert!(is_baggage(good), "{good}");
        }
        let long = format!("a={}", "x".repeat(8_192));
        for bad in [
            "", "a", "=b", "a=b,", "a b=c", "a=b c", "a=b;", "a=\"b\"", "a=ä", &long,
        ] {
            assert!(!is_baggage(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_malformed_is_absent_and_headers_may_come_in_pieces() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            Trace::of_headers(&headers)
        };
        assert_eq!(headers(&[]), None);
        assert_eq!(headers(&[(STATE, "a=b"), (BAGGAGE, "a=b")]), None);
        assert_eq!(headers(&[(PARENT, GOOD), (PARENT, GOOD)]), None);
        let trace = headers(&[
            (PARENT, GOOD),
            (STATE, "a=b"),
            (STATE, "c=d"),
            (BAGGAGE, "?"),
        ]);
        let trace = trace.unwrap();
        let parts: Vec<_> = trace.parts().collect();
        assert_eq!(parts, [(PARENT, GOOD), (STATE, "a=b,c=d")]);
        assert_eq!(Trace::of_line(&trace.line()), Some(trace));
        assert_eq!(Trace::of_line(""), None);
    }
}
