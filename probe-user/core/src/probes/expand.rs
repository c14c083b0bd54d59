//! `$(NAME)` in a probe's command, by the container's own variables, as the kubelet fills it in.
//!
//! Only what the container's `env` says outright counts: a value that comes from elsewhere (`valueFrom`) is empty to the kubelet here, and of
//! `envFrom` it knows nothing. `$$` is a dollar sign; a name that nobody has stays as it is written.

use crate::rules::object::EnvVar;
use std::collections::{BTreeMap, BTreeSet};

/// Longest command with its variables filled in, in bytes: a few words may name a long value many times.
pub const COMMAND_BYTES: usize = 256 << 10;

/// The command with its variables filled in; `None` if it would be longer than [`COMMAND_BYTES`].
pub fn command(words: &[String], env: &[EnvVar]) -> Option<Vec<String>> {
    // Of a name that is there twice the last value counts.
    let env: BTreeMap<&str, &str> = env.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
    let mut room = COMMAND_BYTES;
    let mut filled = Vec::with_capacity(words.len());
    for word in words {
        let word = expand(word, |name| env.get(name).copied(), room)?;
        // Each word ends with a byte of its own, as the kernel has it.
        room = room.checked_sub(word.len() + 1)?;
        filled.push(word);
    }
    Some(filled)
}

/// Those variables that one of the commands names.
pub fn named<'a>(commands: impl Iterator<Item = &'a [String]>, env: &[EnvVar]) -> Vec<EnvVar> {
    let mut names = BTreeSet::new();
    for word in commands.flatten() {
        let note = |name: &str| {
            names.insert(name.to_owned());
            None
        };
        let _as_written = expand(word, note, usize::MAX);
    }
    env.iter().filter(|it| names.contains(&it.name)).cloned().collect()
}

/// The text with its variables filled in; `None` if it would have more bytes than `most`.
fn expand<'a>(text: &str, mut value: impl FnMut(&str) -> Option<&'a str>, most: usize) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text);
    let mut push = |piece: &str| {
        let fits = piece.len() <= most - out.len();
        fits.then(|| out.push_str(piece))
    };
    while let Some((before, after)) = rest.split_once('$') {
        push(before)?;
        rest = after;
        if let Some(escaped) = after.strip_prefix('$') {
            push("$")?;
            rest = escaped;
        } else if let Some((name, behind)) = after.strip_prefix('(').and_then(|name| name.split_once(')')) {
            match value(name) {
                Some(value) => push(value)?,
                None => ["$(", name, ")"].into_iter().try_for_each(&mut push)?,
            }
            rest = behind;
        } else {
            push("$")?;
        }
    }
    push(rest)?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.to_owned(), value: value.to_owned() }
    }

    fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
        words.map(str::to_owned).to_vec()
    }

    #[test]
    fn variables_are_filled_in_as_the_kubelet_does() {
        let env = [("A", "old"), ("A", "1"), ("B", "$(A)"), ("EMPTY", ""), ("", "none"), ("X(Y", "odd")];
        let env = env.map(|(name, value)| variable(name, value));
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
            assert_eq!(command(&words([text]), &env), Some(words([expected])), "{text}");
        }
    }

    #[test]
    fn a_command_is_as_long_as_its_bound_and_no_longer() {
        let half = COMMAND_BYTES / 2;
        let env = [variable("HALF", &"x".repeat(half)), variable("WORD", "y")];
        for (text, fits) in
            [(["$(HALF)", ""], true), (["$(HALF)$(WORD)", ""], true), (["$(HALF)", "$(HALF)"], false)]
        {
            assert_eq!(command(&words(text), &env).is_some(), fits, "{text:?}");
        }
        let text = |len: usize| words(["$(HALF)", &"z".repeat(len)]);
        assert!(command(&text(half - 2), &env).is_some(), "two words and what ends them");
        assert_eq!(command(&text(half - 1), &env), None);
        assert_eq!(command(&words([&"$(HALF)".repeat(100_000)]), &env), None, "what is too long is not made");
    }

    #[test]
    fn variables_are_kept_that_a_command_names() {
        let env = ["A", "B", "A", "C"].map(|name| variable(name, name));
        let commands = [words(["$(A)", "$$(B)"]), words(["x$(D)$(A)", "$(C"])];
        let kept = named(commands.iter().map(Vec::as_slice), &env);
        assert_eq!(kept, [variable("A", "A"), variable("A", "A")]);
    }
}
