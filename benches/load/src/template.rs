//! Arguments with placeholders: `{{i}}` the number of the request, `{{i%N}}` that number modulo N, `{{w}}` the worker.

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(Vec<u8>),
    Number { modulo: u64 },
    Worker,
}

#[derive(Clone, Debug, Default)]
pub struct Template(Vec<Part>);

impl Template {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            // Nested JSON objects end in `}}` and begin in `{{` nowhere, so an opening pair is always ours.
            let end = rest[start..]
                .find("}}")
                .ok_or_else(|| format!("unfinished placeholder in {text}"))?
                + start;
            parts.push(Part::Literal(rest[..start].into()));
            parts.push(match &rest[start + 2..end] {
                "i" => Part::Number { modulo: u64::MAX },
                "w" => Part::Worker,
                other => {
                    let modulo = other
                        .strip_prefix("i%")
                        .and_then(|n| n.parse().ok())
                        .filter(|n| *n > 0);
                    Part::Number {
                        modulo: modulo
                            .ok_or_else(|| format!("unknown placeholder {{{{{other}}}}}"))?,
                    }
                }
            });
            rest = &rest[end + 2..];
        }
        parts.push(Part::Literal(rest.into()));
        Ok(Self(parts))
    }

    pub fn render(&self, number: u64, worker: usize, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::Number { modulo } => push_number(out, number % modulo),
                Part::Worker => push_number(out, worker as u64),
            }
        }
    }
}

pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_in() {
        let mut out = Vec::new();
        Template::parse("a{{i}}b{{w}}c{{i%100}}d")
            .unwrap()
            .render(1234, 0, &mut out);
        assert_eq!(out, b"a1234b0c34d");
        assert!(Template::parse("{{x}}").is_err());
        assert!(Template::parse("{{i").is_err());
    }

    #[test]
    fn arguments_with_nested_objects_stay_as_they_are() {
        let mut out = Vec::new();
        Template::parse(r#"{"a":{"b":{}}}"#)
            .unwrap()
            .render(0, 0, &mut out);
        assert_eq!(out, br#"{"a":{"b":{}}}"#);
    }
}
