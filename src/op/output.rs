//! What an operation answers: structured data, blocks for people and models, or both.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Structured;
use crate::error::{Error, Result};

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// Text.
    Text(String),
    /// Anything else, in base64.
    Blob(String),
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Where it is.
    pub uri: String,
    /// Media type.
    pub mime_type: String,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// A piece of content, as MCP has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    #[serde(rename_all = "camelCase")]
    Image {
        /// In base64.
        data: String,
        /// Media type.
        mime_type: String,
    },
    /// A sound.
    #[serde(rename_all = "camelCase")]
    Audio {
        /// In base64.
        data: String,
        /// Media type.
        mime_type: String,
    },
    /// A document, whole.
    Resource {
        /// The document.
        resource: Document,
    },
    /// Where a document is.
    #[serde(rename_all = "camelCase")]
    ResourceLink {
        /// Where.
        uri: String,
        /// What it is called.
        name: String,
        /// Media type.
        mime_type: Option<String>,
    },
}

impl Block {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// Who speaks in a message of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub from: Speaker,
    /// What is said.
    pub block: Block,
}

/// What an operation answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Data that fits the operation's output schema.
    pub structured: Option<Structured>,
    /// For people and models. Where there are none, edges show the data as text.
    pub content: Vec<Block>,
    /// Whether it is a failure, which whoever called may be able to mend.
    pub is_error: bool,
}

impl Output {
    /// Blocks without data.
    pub fn of(content: impl IntoIterator<Item = Block>) -> Self {
        Self {
            content: content.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of([Block::text(text)])
    }

    /// A failure.
    pub fn error(text: impl Into<String>) -> Self {
        Self {
            is_error: true,
            ..Self::text(text)
        }
    }

    /// As data, for callers who know no blocks.
    ///
    /// # Errors
    /// `tool_failed` when it is a failure.
    pub fn into_structured(self) -> Result<Structured> {
        if self.is_error {
            let texts = self.content.iter().filter_map(|block| match block {
                Block::Text { text } => Some(text.as_str()),
                _ => None,
            });
            let message = texts.collect::<Vec<_>>().join("\n");
            return Err(Error::conflict("tool_failed", message));
        }
        Ok(match self.structured {
            Some(data) => data,
            None => json!({"content": self.content}).into(),
        })
    }
}

impl From<Structured> for Output {
    fn from(data: Structured) -> Self {
        Self {
            structured: Some(data),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_data_for_those_who_know_no_blocks() {
        let data = Structured::from(json!({"a": 1}));
        assert_eq!(
            Output::from(data.clone()).into_structured().ok(),
            Some(data)
        );
        let resource = Document {
            uri: "a://b".into(),
            mime_type: "text/plain".into(),
            body: Body::Text("x".into()),
        };
        let output = Output::of([Block::text("hello"), Block::Resource { resource }]);
        let resource = json!({"uri": "a://b", "mimeType": "text/plain", "text": "x"});
        let content = json!([
            {"type": "text", "text": "hello"}, {"type": "resource", "resource": resource}
        ]);
        let content = json!({"content": content}).into();
        assert_eq!(output.into_structured().ok(), Some(content));
        let error = Output::error("no").into_structured().unwrap_err();
        assert_eq!((error.code(), error.message()), ("tool_failed", "no"));
    }
}
