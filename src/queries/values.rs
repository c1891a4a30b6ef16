//! Values between JSON and PostgreSQL. Parameters go as texts, which the database reads as what it wants there; rows come in the
//! binary form of the protocol. What JSON has no kind for is a text as the database would write it; bytes are `{"base64": …}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use serde_json::{Map, Number, Value, json};
use std::error::Error as StdError;
use std::fmt::Write as _;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

type Problem = Box<dyn StdError + Sync + Send>;

/// The largest integer that every reader of JSON has exactly.
const EXACT: u64 = 1 << 53;
/// How deep values lie in values.
const DEPTH: usize = 32;

/// The field of an object that stands for bytes.
pub(super) const BYTES: &str = "base64";

/// The bytes that a value stands for, if it stands for some.
pub(super) fn bytes_of(value: &Value) -> Option<Result<Vec<u8>, String>> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let text = fields.get(BYTES)?.as_str()?;
    Some(STANDARD.decode(text).map_err(|_| "is no base64".to_owned()))
}

/// Bytes as a value.
pub(super) fn of_bytes(bytes: &[u8]) -> Value {
    json!({BYTES: STANDARD.encode(bytes)})
}

/// An integer as a value.
pub(super) fn of_integer(number: i64) -> Value {
    if number.unsigned_abs() <= EXACT {
        number.into()
    } else {
        number.to_string().into()
    }
}

/// A number with a fraction as a value.
pub(super) fn of_float(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| special(number).into(), Value::Number)
}

fn special(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// A parameter.
#[derive(Debug)]
pub(super) struct Parameter<'a>(pub(super) &'a Value);

impl ToSql for Parameter<'_> {
    fn to_sql(&self, to: &Type, out: &mut BytesMut) -> Result<IsNull, Problem> {
        Ok(match text(self.0, to)? {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A value as the database reads it where it wants a `to`.
fn text(value: &Value, to: &Type) -> Result<Option<String>, Problem> {
    let to = match to.kind() {
        Kind::Domain(inner) => inner,
        _ => to,
    };
    if *to == Type::JSON || *to == Type::JSONB {
        return Ok((!value.is_null()).then(|| value.to_string()));
    }
    if *to == Type::BYTEA && !value.is_null() {
        let bytes = bytes_of(value).ok_or(r#"bytes are given as {"base64": "…"}"#)??;
        let digits = bytes.iter().fold("\\x".to_owned(), |mut digits, byte| {
            // Writing to a String does not fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        return Ok(Some(digits));
    }
    Ok(match (value, to.kind()) {
        (Value::Null, _) => None,
        (Value::String(text), _) if text.contains('\0') => {
            return Err("a text has no NUL character".into());
        }
        (Value::String(text), _) => Some(text.clone()),
        (Value::Array(values), Kind::Array(inner)) => Some(array(values, inner)?),
        (value, _) => Some(value.to_string()),
    })
}

fn array(values: &[Value], of: &Type) -> Result<String, Problem> {
    let mut parts = Vec::with_capacity(values.len());
    for value in values {
        parts.push(match value {
            // An array of arrays is one of more dimensions.
            Value::Array(values) if *of != Type::JSON && *of != Type::JSONB => array(values, of)?,
            value => text(value, of)?.map_or_else(
                || "NULL".to_owned(),
                |text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            ),
        });
    }
    Ok(format!("{{{}}}", parts.join(",")))
}

/// A value of a row.
pub(super) struct Field(pub(super) Value);

impl<'a> FromSql<'a> for Field {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Problem> {
        read(of, raw, 0).map(Self)
    }

    fn from_sql_null(_: &Type) -> Result<Self, Problem> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn read(of: &Type, raw: &[u8], depth: usize) -> Result<Value, Problem> {
    if depth > DEPTH {
        return Err("it is nested too deep".into());
    }
    match of.kind() {
        Kind::Domain(inner) => return read(inner, raw, depth + 1),
        Kind::Enum(_) => return Ok(std::str::from_utf8(raw)?.into()),
        Kind::Array(inner) => return elements(inner, raw, depth),
        Kind::Composite(fields) => {
            let mut raw = Raw(raw);
            let count = usize::try_from(raw.int()?)?;
            let mut object = Map::new();
            for field in fields.iter().take(count) {
                raw.int()?;
                object.insert(field.name().to_owned(), raw.value(field.type_(), depth)?);
            }
            return Ok(Value::Object(object));
        }
        _ => {}
    }
    Ok(match *of {
        Type::BOOL => bool::from_sql(of, raw)?.into(),
        Type::INT2 => i16::from_sql(of, raw)?.into(),
        Type::INT4 => i32::from_sql(of, raw)?.into(),
        Type::INT8 => of_integer(i64::from_sql(of, raw)?),
        Type::OID | Type::XID | Type::CID => u32::from_sql(&Type::OID, raw)?.into(),
        // The shortest digits that mean it, as the database writes it.
        Type::FLOAT4 => match f32::from_sql(of, raw)? {
            number if number.is_finite() => serde_json::from_str(&number.to_string())?,
            number => special(number.into()).into(),
        },
        Type::FLOAT8 => of_float(f64::from_sql(of, raw)?),
        Type::NUMERIC => numeric(raw)?.into(),
        Type::BYTEA => of_bytes(raw),
        Type::JSON => serde_json::from_slice(raw)?,
        Type::JSONB => serde_json::from_slice(raw.get(1..).unwrap_or_default())?,
        Type::UUID => uuid(raw)?.into(),
        Type::TIMESTAMP => moment(raw, "")?.into(),
        Type::TIMESTAMPTZ => moment(raw, "Z")?.into(),
        Type::DATE => match Raw(raw).int()? {
            i32::MAX => "infinity".into(),
            i32::MIN => "-infinity".into(),
            days => {
                let day =
                    jiff::civil::date(2000, 1, 1).checked_add(jiff::Span::new().try_days(days)?)?;
                day.to_string().into()
            }
        },
        Type::TIME => time_of_day(Raw(raw).long()?)?.into(),
        Type::INTERVAL => interval(raw)?.into(),
        Type::INET | Type::CIDR => network(of, raw)?.into(),
        Type::CHAR => i8::from_sql(of, raw)
            .map(|byte| char::from(byte.unsigned_abs()).to_string())?
            .into(),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML => {
            std::str::from_utf8(raw)?.into()
        }
        _ if matches!(of.name(), "citext" | "ltree") => {
            let raw = if of.name() == "ltree" {
                raw.get(1..).unwrap_or_default()
            } else {
                raw
            };
            std::str::from_utf8(raw)?.into()
        }
        _ if raw.is_empty() => Value::String(String::new()),
        _ => {
            return Err(format!(
                "a value of type {} can't be shown; cast it to text",
                of.name()
            )
            .into());
        }
    })
}

/// Bytes that are read one after another.
struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("it is too short")?;
        self.0 = rest;
        Ok(*first)
    }

    fn short(&mut self) -> Result<i16, Problem> {
        self.take().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> Result<i32, Problem> {
        self.take().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64, Problem> {
        self.take().map(i64::from_be_bytes)
    }

    /// A value with its length before it.
    fn value(&mut self, of: &Type, depth: usize) -> Result<Value, Problem> {
        let Ok(length) = usize::try_from(self.int()?) else {
            return Ok(Value::Null);
        };
        let (value, rest): (&'a [u8], _) =
            self.0.split_at_checked(length).ok_or("it is too short")?;
        self.0 = rest;
        read(of, value, depth + 1)
    }
}

fn elements(of: &Type, raw: &[u8], depth: usize) -> Result<Value, Problem> {
    let mut raw = Raw(raw);
    let dimensions = usize::try_from(raw.int()?)?;
    raw.take::<8>()?;
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(usize::try_from(raw.int()?)?);
        raw.int()?;
    }
    if sizes.is_empty() {
        return Ok(json!([]));
    }
    fill(of, &mut raw, &sizes, depth)
}

/// The elements of one dimension after another.
fn fill(of: &Type, raw: &mut Raw<'_>, sizes: &[usize], depth: usize) -> Result<Value, Problem> {
    let Some((size, inner)) = sizes.split_first() else {
        return raw.value(of, depth);
    };
    (0..*size)
        .map(|_| fill(of, raw, inner, depth + 1))
        .collect()
}

/// A number of any length: digits to the base of 10,000, the weight of the first, a sign, and digits behind the point.
fn numeric(raw: &[u8]) -> Result<String, Problem> {
    let mut raw = Raw(raw);
    let (count, weight) = (raw.short()?, raw.short()?);
    let (sign, scale) = (raw.short()?.cast_unsigned(), raw.short()?);
    let mut text = match sign {
        0 => String::new(),
        0x4000 => "-".to_owned(),
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        _ => return Ok("-Infinity".to_owned()),
    };
    let digits: Vec<i16> = (0..count).map(|_| raw.short()).collect::<Result<_, _>>()?;
    let digit = |at: i16| {
        usize::try_from(at)
            .ok()
            .and_then(|at| digits.get(at))
            .copied()
            .unwrap_or_default()
    };
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=weight {
        // Writing to a String does not fail.
        let _ = if at == 0 {
            write!(text, "{}", digit(0))
        } else {
            write!(text, "{:04}", digit(at))
        };
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut at = weight + 1;
        while fraction.len() < usize::try_from(scale)? {
            let _ = write!(fraction, "{:04}", digit(at));
            at += 1;
        }
        fraction.truncate(usize::try_from(scale)?);
        text = format!("{text}.{fraction}");
    }
    Ok(text)
}

fn uuid(raw: &[u8]) -> Result<String, Problem> {
    let number = u128::from_be_bytes(Raw(raw).take()?);
    let digits = format!("{number:032x}");
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    Ok(parts.join("-"))
}

fn moment(raw: &[u8], end: &str) -> Result<String, Problem> {
    match Raw(raw).long()? {
        i64::MAX => Ok("infinity".to_owned()),
        i64::MIN => Ok("-infinity".to_owned()),
        micros => {
            let span = jiff::Span::new().try_microseconds(micros)?;
            let moment = jiff::civil::date(2000, 1, 1)
                .at(0, 0, 0, 0)
                .checked_add(span)?;
            Ok(format!("{moment}{end}"))
        }
    }
}

fn time_of_day(micros: i64) -> Result<String, Problem> {
    let span = jiff::Span::new().try_microseconds(micros)?;
    // The end of a day is a time too.
    Ok(match micros {
        86_400_000_000 => "24:00:00".to_owned(),
        _ => jiff::civil::time(0, 0, 0, 0).checked_add(span)?.to_string(),
    })
}

/// A span as ISO 8601 has it.
fn interval(raw: &[u8]) -> Result<String, Problem> {
    let mut raw = Raw(raw);
    let (micros, days, months) = (raw.long()?, raw.int()?, raw.int()?);
    let mut text = "P".to_owned();
    let (seconds, rest) = (micros / 1_000_000, (micros % 1_000_000).abs());
    for (amount, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if amount != 0 {
            let _ = write!(text, "{amount}{unit}");
        }
    }
    if micros != 0 || text.len() == 1 {
        text.push('T');
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        for (amount, unit) in [(hours, 'H'), (minutes, 'M')] {
            if amount != 0 {
                let _ = write!(text, "{amount}{unit}");
            }
        }
        if seconds != 0 || rest != 0 || text.ends_with('T') {
            let sign = if micros < 0 { "-" } else { "" };
            let fraction = format!(".{rest:06}");
            let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
            let _ = write!(text, "{sign}{}{fraction}S", seconds.abs());
        }
    }
    Ok(text)
}

fn network(of: &Type, raw: &[u8]) -> Result<String, Problem> {
    let [family, bits, _, length] = Raw(raw).take::<4>()?;
    let address: std::net::IpAddr = match (family, length) {
        (2, 4) => Raw(&raw[4..]).take::<4>()?.into(),
        (3, 16) => Raw(&raw[4..]).take::<16>()?.into(),
        _ => return Err("it is no address".into()),
    };
    let is_whole = *of == Type::INET && u32::from(bits) == if family == 2 { 32 } else { 128 };
    Ok(if is_whole {
        address.to_string()
    } else {
        format!("{address}/{bits}")
    })
}
