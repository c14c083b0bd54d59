//! House rules that no lint covers: every member inherits the workspace's lints, every source file opens with `//!`.
//!
//! Reads manifests and sources as text; a rule that is broken becomes one line that names the file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::metadata::Metadata;

/// One line for each broken rule.
pub(super) fn broken_rules(metadata: &Metadata) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for manifest in &metadata.manifests {
        if !inherits_lints(&read(manifest)?) {
            broken.push(format!("{}: no `[lints]` with `workspace = true`", manifest.display()));
        }
    }
    let mut sources = Vec::new();
    collect_sources(&metadata.root, &metadata.target, &mut sources)?;
    for source in sources {
        if !opens_with_doc(&read(&source)?) {
            broken.push(format!("{}: does not open with `//!`", source.display()));
        }
    }
    Ok(broken)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// All `.rs` files below `folder`, sorted; hidden folders and the target folder are not sources.
fn collect_sources(folder: &Path, target: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_symlink() || hidden || path == target {
            continue;
        }
        if path.is_dir() {
            collect_sources(&path, target, sources)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if line.split_whitespace().collect::<String>() == "workspace=true" && section == "[lints]" {
            return true;
        }
    }
    false
}

/// After an optional shebang, blank lines and inner attributes.
fn opens_with_doc(source: &str) -> bool {
    let mut rest = source;
    if rest.starts_with("#!") && !rest.starts_with("#![") {
        rest = rest.split_once('\n').map_or("", |(_shebang, rest)| rest);
    }
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("#![") {
            return rest.starts_with("//!");
        }
        rest = after_brackets(rest);
    }
}

/// What follows the bracket that closes the first one. Brackets inside strings would have to balance; ours do.
fn after_brackets(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth == 1 => return &text[at + 1..],
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_open_with_module_docs_after_shebang_and_attributes() {
        for good in [
            "//! doc\n",
            "\n//! doc\n",
            "#![no_std]\n//! doc\n",
            "#!/usr/bin/env x\n//! doc\n",
            "#!/usr/bin/env x\n#![expect(\n    clippy::x,\n    reason = \"a [b] c\"\n)]\n\n//! doc\n",
        ] {
            assert!(opens_with_doc(good), "{good}");
        }
        for bad in
            ["", "use std::fs;\n//! late\n", "// plain\n", "/// item\nfn f() {}\n", "#![no_std]\n", "#![a\n"]
        {
            assert!(!opens_with_doc(bad), "{bad}");
        }
    }

    #[test]
    fn lints_are_inherited_by_the_lints_section_only() {
        assert!(inherits_lints("[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"));
        assert!(inherits_lints("[lints]\nworkspace=true"));
        assert!(!inherits_lints("[package]\nname = \"x\"\n"));
        assert!(!inherits_lints("[package.version]\nworkspace = true\n"));
        assert!(!inherits_lints("[lints]\n[dependencies]\nworkspace = true\n"));
    }

    #[test]
    fn hidden_and_target_folders_hold_no_sources() {
        let root = std::env::temp_dir().join(format!("xtask-house-{}", std::process::id()));
        for folder in ["src", "target/debug", ".git"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("a.rs"), "").unwrap();
        }
        let mut sources = Vec::new();
        collect_sources(&root, &root.join("target"), &mut sources).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(sources, [root.join("src/a.rs")]);
    }
}
