//! The names that a command's process may have at its end. The kernel names a process after the file that it executed last: the last part of
//! the path, cut to 15 bytes; a script's own name, not its interpreter's.
//!
//! Programs that are known to execute what their arguments name may end as any of these. What another program or a script executes in its own
//! place is not known here: such a probe is not recognised.

/// Bytes of a name (TASK_COMM_LEN without the zero byte at its end).
const NAME_BYTES: usize = 15;
/// Most names of a command that are kept.
const NAMES_MAX: usize = 32;
/// Programs that may execute, in their own place, something that their arguments name. Shells do so with the last command of `-c`.
const EXECUTE_OTHERS: [&str; 19] = [
    "ash", "bash", "busybox", "chpst", "chroot", "chrt", "dash", "env", "gosu", "ionice", "ksh", "nice",
    "setpriv", "setsid", "sh", "stdbuf", "su-exec", "taskset", "zsh",
];

/// Names that the process of this command may have when it ends.
pub fn names_of(command: &[String]) -> Vec<String> {
    let Some((program, arguments)) = command.split_first() else { return Vec::new() };
    let mut names = vec![name_of(program)];
    if EXECUTE_OTHERS.contains(&names[0].as_str()) {
        let words = arguments.iter().flat_map(|argument| argument.split(|c: char| !is_of_word(c)));
        for name in words.filter(|word| !word.starts_with('-')).map(name_of) {
            if names.len() < NAMES_MAX && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Part of a path as scripts write it, without quotes.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@')
}

fn name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default().as_bytes();
    // What is cut in the middle of a character is decoded just as the kernel's own bytes are.
    String::from_utf8_lossy(&name[..name.len().min(NAME_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_after_what_it_executed_last() {
        let cases: [(&[&str], &[&str]); 12] = [
            (&[], &[]),
            (&[""], &[]),
            (&["/usr/bin/"], &[]),
            (&["cat", "/tmp/healthy"], &["cat"]),
            (&["/opt/redis/redis-cli", "ping"], &["redis-cli"]),
            (&["/a-very-long-program-name"], &["a-very-long-pro"]),
            (&["/check/vierzehn-und-ä"], &["vierzehn-und-\u{e4}"]),
            (&["/check/vierzehnundeinä"], &["vierzehnundein\u{fffd}"]),
            (&["sh", "-c", "test -f /tmp/ok && exec /bin/check"], &["sh", "test", "ok", "exec", "check"]),
            (&["/bin/bash", "/probe.sh"], &["bash", "probe.sh"]),
            (&["env", "A=b", "wget", "--spider", "localhost"], &["env", "A", "b", "wget", "localhost"]),
            (&["sh", "-c", "sh\nsh;'sh'|`sh`"], &["sh"]),
        ];
        for (command, names) in cases {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(names_of(&command), names, "{command:?}");
        }
        let many = (0..100).map(|n| format!("word{n}"));
        let many: Vec<String> = ["sh".to_owned()].into_iter().chain(many).collect();
        assert_eq!(names_of(&many).len(), NAMES_MAX);
    }
}
