//! The bodies of the API's answers: pages of lists, and watch events. Objects in them stay text ([`RawValue`]) until they
//! are reduced one by one, so that one odd object spoils nothing else.

use crate::kube::objects::Identified;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page<'a> {
    /// Where the list stands.
    pub metadata: PageMetadata,
    /// The objects.
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// Metadata of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageMetadata {
    /// The state that the list shows; a watch goes on from here.
    pub resource_version: String,
    /// Where the next page begins, if there is one.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// One line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum WatchEvent<'a> {
    /// ADDED or MODIFIED.
    Changed(&'a str),
    /// DELETED: the object's last state.
    Deleted(&'a str),
    /// BOOKMARK: all up to this resource version has been sent.
    Bookmark(String),
    /// ERROR: the server ends the watch; the code of its Status.
    Error(u16),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusCode {
    code: u16,
}

/// Reads one line; `None` if it is no watch event.
#[must_use]
pub fn watch_event(line: &[u8]) -> Option<WatchEvent<'_>> {
    let event: RawEvent<'_> = serde_json::from_slice(line).ok()?;
    let object = event.object.get();
    match &*event.kind {
        "ADDED" | "MODIFIED" => Some(WatchEvent::Changed(object)),
        "DELETED" => Some(WatchEvent::Deleted(object)),
        "BOOKMARK" => {
            let version = serde_json::from_str::<Identified>(object).ok()?.metadata.resource_version;
            (!version.is_empty()).then_some(WatchEvent::Bookmark(version))
        }
        "ERROR" => {
            Some(WatchEvent::Error(serde_json::from_str::<StatusCode>(object).unwrap_or_default().code))
        }
        _ => None,
    }
}

/// The number in a resource version: versions of one resource grow (KEP-5504).
#[must_use]
pub fn version_number(version: &str) -> Option<u64> {
    version.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_lines_are_told_apart() {
        for (line, expected) in [
            (r#"{"type":"ADDED","object":{"a":1}}"#, Some(WatchEvent::Changed(r#"{"a":1}"#))),
            (r#"{"object":{"a":1},"type":"MODIFIED"}"#, Some(WatchEvent::Changed(r#"{"a":1}"#))),
            (r#"{"type":"DELETED","object":[]}"#, Some(WatchEvent::Deleted("[]"))),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12"}}}"#,
                Some(WatchEvent::Bookmark("12".into())),
            ),
            (r#"{"type":"BOOKMARK","object":{}}"#, None),
            (r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#, Some(WatchEvent::Error(410))),
            (r#"{"type":"ERROR","object":"?"}"#, Some(WatchEvent::Error(0))),
            (r#"{"type":"NOVEL","object":{}}"#, None),
            (r#"{"type":"ADDED"}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(watch_event(line.as_bytes()), expected, "{line}");
        }
        assert_eq!(watch_event(b"\xff{}"), None);
    }

    #[test]
    fn a_page_keeps_its_objects_as_text() {
        let text = r#"{"kind":"PodList","metadata":{"resourceVersion":"5","continue":"t"},"items":[{"n":1e999},7,null]}"#;
        let page: Page<'_> = serde_json::from_str(text).expect("a page");
        let items: Vec<&str> = page.items.expect("items").into_iter().map(RawValue::get).collect();
        assert_eq!(items, [r#"{"n":1e999}"#, "7", "null"]);
        assert_eq!(
            (page.metadata.resource_version.as_str(), page.metadata.next.as_deref()),
            ("5", Some("t"))
        );
        let none: Page<'_> =
            serde_json::from_str(r#"{"metadata":{"resourceVersion":"5"},"items":null}"#).expect("a page");
        assert!(none.items.is_none());
        assert!(serde_json::from_str::<Page<'_>>(r#"{"kind":"Status"}"#).is_err());
    }
}
