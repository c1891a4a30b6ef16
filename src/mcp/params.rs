//! What is wrong with a known method's params: rmcp takes such a request for one of an unknown method, and does not say.

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CancelTaskParams, CompleteRequestParams, CustomRequest, ErrorCode,
    GetPromptRequestParams, GetTaskParams, InitializeRequestParams, PaginatedRequestParams,
    ReadResourceRequestParams, SubscribeRequestParams, SubscriptionsListenRequestParams,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::op::pointer;

/// What is wrong with the params, as a path and a sentence.
type Check = fn(Value) -> Option<(String, String)>;

const KNOWN: &[(&str, Check)] = &[
    ("initialize", check::<InitializeRequestParams>),
    ("server/discover", check::<serde_json::Map<String, Value>>),
    ("tools/call", check::<CallToolRequestParams>),
    ("tools/list", check::<PaginatedRequestParams>),
    ("resources/read", check::<ReadResourceRequestParams>),
    ("resources/list", check::<PaginatedRequestParams>),
    ("resources/templates/list", check::<PaginatedRequestParams>),
    ("resources/subscribe", check::<SubscribeRequestParams>),
    ("resources/unsubscribe", check::<UnsubscribeRequestParams>),
    ("prompts/get", check::<GetPromptRequestParams>),
    ("prompts/list", check::<PaginatedRequestParams>),
    ("completion/complete", check::<CompleteRequestParams>),
    (
        "subscriptions/listen",
        check::<SubscriptionsListenRequestParams>,
    ),
    ("tasks/get", check::<GetTaskParams>),
    ("tasks/update", check::<UpdateTaskParams>),
    ("tasks/cancel", check::<CancelTaskParams>),
];

/// The error for a request that rmcp could not place.
pub(super) fn refusal(request: CustomRequest) -> ErrorData {
    let method = request.method;
    let Some((_, check)) = KNOWN.iter().find(|(known, _)| *known == method) else {
        let message = format!("there is no method {method}");
        return ErrorData::new(ErrorCode::METHOD_NOT_FOUND, message, None);
    };
    let params = request.params.unwrap_or_else(|| json!({}));
    match check(params) {
        Some((path, what)) => {
            let data = json!({"path": path});
            ErrorData::invalid_params(format!("{method}: {path}: {what}"), Some(data))
        }
        None => ErrorData::invalid_params(
            format!("the params of {method} are not what the method takes"),
            None,
        ),
    }
}

fn check<T: DeserializeOwned>(params: Value) -> Option<(String, String)> {
    let error = serde_path_to_error::deserialize::<_, T>(params).err()?;
    let path = format!("/params{}", pointer(error.path()));
    Some((path, error.inner().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_and_the_remedy_are_named() {
        let cases = [
            (
                "tools/call",
                json!({"name": 5}),
                "tools/call: /params/name: invalid type: integer `5`, expected a string",
            ),
            (
                "tools/call",
                json!({"name": "a", "arguments": [1]}),
                "tools/call: /params/arguments: invalid type: sequence, expected a map",
            ),
            (
                "resources/read",
                json!({}),
                "resources/read: /params: missing field `uri`",
            ),
            (
                "subscriptions/listen",
                json!({"notifications": {"resourceSubscriptions": [1]}}),
                "subscriptions/listen: /params/notifications/resourceSubscriptions/0: invalid type: integer `1`, expected a \
                 string",
            ),
            ("no/such", json!({}), "there is no method no/such"),
        ];
        for (method, params, expected) in cases {
            let refusal = refusal(CustomRequest::new(method, Some(params)));
            assert_eq!(refusal.message, expected);
        }
    }
}
