//! What a column can hold, the same on every database: NULL, i64, f64, text, bytes.

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::{AgentId, HandleId, LeaseToken, MemoryId, ResourceId, TaskId, TenantId, ToolId};

type Boxed = Box<dyn std::error::Error + Sync + Send>;

/// A value on its way to or from a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// Counts, microseconds, and 0 or 1.
    Integer(i64),
    /// Measurements.
    Real(f64),
    /// Text without NUL.
    Text(String),
    /// Hashes and other bytes.
    Bytes(Vec<u8>),
}

/// The parameters `$1…` of a statement.
macro_rules! vals {
    ($($value:expr),* $(,)?) => { [$($crate::database::Value::from($value)),*] };
}
pub(crate) use vals;

macro_rules! into_value {
    ($($type:ty => |$value:ident| $make:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $make
            }
        })*
    };
}
into_value! {
    i64 => |value| Self::Integer(value);
    u32 => |value| Self::Integer(i64::from(value));
    bool => |value| Self::Integer(i64::from(value));
    f64 => |value| Self::Real(value);
    &str => |value| Self::Text(value.to_owned());
    &String => |value| Self::Text(value.clone());
    String => |value| Self::Text(value);
    Vec<u8> => |value| Self::Bytes(value);
    &[u8] => |value| Self::Bytes(value.to_vec());
    Time => |value| Self::Integer(value.as_micros());
    &TenantId => |value| Self::Text(value.as_str().to_owned());
    &TaskId => |value| Self::Text(value.as_str().to_owned());
    &AgentId => |value| Self::Text(value.as_str().to_owned());
    &HandleId => |value| Self::Text(value.as_str().to_owned());
    &MemoryId => |value| Self::Text(value.as_str().to_owned());
    &ToolId => |value| Self::Text(value.as_str().to_owned());
    &ResourceId => |value| Self::Text(value.as_str().to_owned());
    &LeaseToken => |value| Self::Text(value.as_str().to_owned());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A type that a column can be read as.
pub trait FromValue: Sized {
    /// The value as this type, or `None` when it is of another.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty => $pattern:pat => $make:expr;)*) => {
        $(impl FromValue for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $pattern => $make,
                    _ => None,
                }
            }
        })*
    };
}
from_value! {
    i64 => Value::Integer(value) => Some(value);
    u32 => Value::Integer(value) => u32::try_from(value).ok();
    bool => Value::Integer(value) => Some(value != 0);
    f64 => Value::Real(value) => Some(value);
    String => Value::Text(value) => Some(value);
    Vec<u8> => Value::Bytes(value) => Some(value);
    Time => Value::Integer(value) => Some(Time::from_micros(value));
    TenantId => Value::Text(value) => value.parse().ok();
    TaskId => Value::Text(value) => value.parse().ok();
    AgentId => Value::Text(value) => value.parse().ok();
    HandleId => Value::Text(value) => value.parse().ok();
    MemoryId => Value::Text(value) => value.parse().ok();
    ToolId => Value::Text(value) => value.parse().ok();
    ResourceId => Value::Text(value) => value.parse().ok();
    LeaseToken => Value::Text(value) => value.parse().ok();
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A row, read by column index; each column once.
#[derive(Debug)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    /// The value of column `index`.
    pub(crate) fn value(&self, index: usize) -> Option<&Value> {
        self.0.get(index)
    }

    /// All values.
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.0
    }

    /// Takes the value of column `index`.
    ///
    /// # Errors
    /// `Internal` when the column does not exist or holds something else: the schema and the code disagree.
    pub fn get<T: FromValue>(&mut self, index: usize) -> Result<T> {
        let value = self
            .0
            .get_mut(index)
            .map(|value| std::mem::replace(value, Value::Null));
        value.and_then(T::from_value).ok_or_else(|| {
            Error::internal(format!(
                "column {index} is not a {}",
                std::any::type_name::<T>()
            ))
        })
    }

    /// Takes the JSON text of column `index` and parses it.
    ///
    /// # Errors
    /// `Internal` when the column holds no JSON of that shape.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self, index: usize) -> Result<T> {
        serde_json::from_str(&self.get::<String>(index)?).map_err(Error::internal)
    }

    /// As [`Row::json`], where NULL is `None`.
    ///
    /// # Errors
    /// `Internal` when the column holds no JSON of that shape.
    pub fn json_opt<T: serde::de::DeserializeOwned>(&mut self, index: usize) -> Result<Option<T>> {
        let text: Option<String> = self.get(index)?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(Error::internal)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl ToSql for Value {
    fn to_sql(&self, to: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Boxed> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(value) if *to == Type::INT8 => value.to_sql(to, out),
            Self::Integer(value) if *to == Type::INT4 => i32::try_from(*value)?.to_sql(to, out),
            Self::Real(value) if *to == Type::FLOAT8 => value.to_sql(to, out),
            Self::Text(text) if *to == Type::TEXT => text.to_sql(to, out),
            Self::Bytes(bytes) if *to == Type::BYTEA => bytes.to_sql(to, out),
            other => Err(format!("{other:?} where the database expects {to}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(of: &Type, raw: &'a [u8]) -> std::result::Result<Self, Boxed> {
        Ok(match *of {
            Type::INT8 => Self::Integer(i64::from_sql(of, raw)?),
            Type::INT4 => Self::Integer(i32::from_sql(of, raw)?.into()),
            Type::BOOL => Self::Integer(bool::from_sql(of, raw)?.into()),
            Type::FLOAT8 => Self::Real(f64::from_sql(of, raw)?),
            Type::TEXT => Self::Text(String::from_sql(of, raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            _ => return Err(format!("a column of type {of}").into()),
        })
    }

    fn from_sql_null(_: &Type) -> std::result::Result<Self, Boxed> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
