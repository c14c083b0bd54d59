//! `$(NAME)` in a probe's command, by the container's own variables, as the kubelet fills it in.
//!
//! Only what the container's `env` says outright counts: a value that comes from elsewhere (`valueFrom`) is empty to the kubelet here, and of
//! `envFrom` it knows nothing. `$$` is a dollar sign; a name that nobody has stays as it is written.

/// The text with its variables filled in; of a name that is there twice the last value counts.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, behind)) = after.strip_prefix('(').and_then(|name| name.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = behind;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_as_the_kubelet_does() {
        let env = [("A", "old"), ("A", "1"), ("B", "$(A)"), ("EMPTY", ""), ("", "none"), ("X(Y", "odd")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("a$(A)b$(A)c", "a1b1c"),
            ("$(B)", "$(A)"),
            ("<$(EMPTY)>", "<>"),
            ("$()", "none"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A $ä", "$A $ä"),
            ("$", "$"),
            ("a$", "a$"),
            ("$$", "$"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$(X(Y)", "odd"),
            ("$($(A)", "$($(A)"),
            ("$-$(A)", "$-1"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }
}
