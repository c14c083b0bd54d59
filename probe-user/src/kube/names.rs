//! What the API accepts as a name. Names from objects go into request paths and label values, so nothing else passes.

/// A DNS label (RFC 1123): namespaces.
#[must_use]
pub fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A DNS subdomain (RFC 1123): pods, services, nodes and most other objects.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// A uid: UUIDs from the API, hashes for static pods. At most as long as a record's path can hold.
#[must_use]
pub fn is_uid(uid: &str) -> bool {
    (1..=128).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_api_accepts_passes() {
        for (name, label, subdomain, uid) in [
            ("shop", true, true, true),
            ("shop.example", false, true, false),
            ("", false, false, false),
            ("a/b", false, false, false),
            ("a?watch=1", false, false, false),
            ("A", false, false, true),
            ("5b0d7c2e-0b1f-4a53-8d3b-0f3c1f2f9f7d", true, true, true),
            ("~other", false, false, false),
            ("a\nb", false, false, false),
        ] {
            assert_eq!(
                (is_label(name), is_subdomain(name), is_uid(name)),
                (label, subdomain, uid),
                "{name:?}"
            );
        }
        assert!(!is_label(&"a".repeat(64)) && !is_subdomain(&"a".repeat(254)) && !is_uid(&"a".repeat(129)));
    }
}
