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

/// The eras that have a method.
#[derive(Clone, Copy, PartialEq)]
enum Eras {
    Both,
    Legacy,
    Modern,
}

const KNOWN: &[(&str, Eras, Check)] = &[
    ("initialize", Eras::Legacy, check::<InitializeRequestParams>),
    (
        "server/discover",
        Eras::Both,
        check::<serde_json::Map<String, Value>>,
    ),
    ("tools/call", Eras::Both, check::<CallToolRequestParams>),
    ("tools/list", Eras::Both, check::<PaginatedRequestParams>),
    (
        "resources/read",
        Eras::Both,
        check::<ReadResourceRequestParams>,
    ),
    (
        "resources/list",
        Eras::Both,
        check::<PaginatedRequestParams>,
    ),
    (
        "resources/templates/list",
        Eras::Both,
        check::<PaginatedRequestParams>,
    ),
    (
        "resources/subscribe",
        Eras::Legacy,
        check::<SubscribeRequestParams>,
    ),
    (
        "resources/unsubscribe",
        Eras::Legacy,
        check::<UnsubscribeRequestParams>,
    ),
    ("prompts/get", Eras::Both, check::<GetPromptRequestParams>),
    ("prompts/list", Eras::Both, check::<PaginatedRequestParams>),
    (
        "completion/complete",
        Eras::Both,
        check::<CompleteRequestParams>,
    ),
    ("logging/setLevel", Eras::Legacy, level),
    (
        "subscriptions/listen",
        Eras::Modern,
        check::<SubscriptionsListenRequestParams>,
    ),
    ("tasks/get", Eras::Both, check::<GetTaskParams>),
    ("tasks/update", Eras::Both, check::<UpdateTaskParams>),
    ("tasks/cancel", Eras::Both, check::<CancelTaskParams>),
];

/// The error for a request that rmcp could not place.
pub(super) fn refusal(request: CustomRequest, is_legacy: bool) -> ErrorData {
    let method = request.method;
    let not_here = if is_legacy {
        Eras::Modern
    } else {
        Eras::Legacy
    };
    let known = KNOWN.iter().find(|(known, ..)| *known == method);
    let Some((_, _, check)) = known.filter(|(_, eras, _)| *eras != not_here) else {
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

#[expect(
    deprecated,
    reason = "clients of the era with sessions set their level"
)]
fn level(params: Value) -> Option<(String, String)> {
    check::<rmcp::model::SetLevelRequestParams>(params)
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
                false,
                "tools/call",
                json!({"name": 5}),
                "tools/call: /params/name: invalid type: integer `5`, expected a string",
            ),
            (
                false,
                "tools/call",
                json!({"name": "a", "arguments": [1]}),
                "tools/call: /params/arguments: invalid type: sequence, expected a map",
            ),
            (
                false,
                "resources/read",
                json!({}),
                "resources/read: /params: missing field `uri`",
            ),
            (
                false,
                "subscriptions/listen",
                json!({"notifications": {"resourceSubscriptions": [1]}}),
                "subscriptions/listen: /params/notifications/resourceSubscriptions/0: invalid type: integer `1`, expected a \
                 string",
            ),
            (true, "no/such", json!({}), "there is no method no/such"),
            (
                false,
                "resources/subscribe",
                json!({}),
                "there is no method resources/subscribe",
            ),
            (
                true,
                "subscriptions/listen",
                json!({}),
                "there is no method subscriptions/listen",
            ),
            (
                true,
                "logging/setLevel",
                json!({"level": "loud"}),
                "logging/setLevel: /params/level: unknown variant `loud`, expected one of `debug`, `info`, `notice`, `warning`, \
                 `error`, `critical`, `alert`, `emergency`",
            ),
        ];
        for (is_legacy, method, params, expected) in cases {
            let refusal = refusal(CustomRequest::new(method, Some(params)), is_legacy);
            assert_eq!(refusal.message, expected);
        }
    }
}
