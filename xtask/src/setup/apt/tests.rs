//! Sources files and version lists as they are met on real machines; no apt is run.

use super::*;

fn source(uri: &str, suites: &[&str], signed_by: Option<&str>) -> Source {
    Source {
        uri: uri.to_owned(),
        suites: suites.iter().map(|s| (*s).to_owned()).collect(),
        components: vec!["main".to_owned()],
        signed_by: signed_by.map(str::to_owned),
    }
}

#[test]
fn one_line_sources_with_and_without_options() {
    let text = "# deb http://old.example/ bookworm main\n\
                deb http://a.example/debian bookworm main contrib # note\n\
                deb [arch=amd64 signed-by=/k/v.gpg] https://b.example/apt bookworm main\n\
                deb [ signed-by=/k/w.gpg ] mirror+file:/etc/apt/mirrors/debian.list bookworm-updates main\n\
                deb-src http://a.example/debian bookworm main\n\
                debris http://a.example/debian bookworm main\n\
                deb [arch=amd64 http://broken.example bookworm main\n\
                deb http://short.example\n";
    let sources = parse_one_line(text);
    let uris: Vec<&str> = sources.iter().map(|s| s.uri.as_str()).collect();
    let expected =
        ["http://a.example/debian", "https://b.example/apt", "mirror+file:/etc/apt/mirrors/debian.list"];
    assert_eq!(uris, expected);
    assert_eq!(sources[0].components, ["main", "contrib"]);
    assert_eq!(sources[0].signed_by, None);
    assert_eq!(sources[1].signed_by.as_deref(), Some("/k/v.gpg"));
    assert_eq!(sources[2].signed_by.as_deref(), Some("/k/w.gpg"));
}

#[test]
fn deb822_stanzas_with_comments_inside_and_lists() {
    let text = "Types: deb\n# http://snapshot.example/\nURIs: http://a.example/debian\n\
                Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k/debian-archive-keyring.gpg\n\n\
                Types: deb deb-src\nURIs: http://b.example/x http://c.example/x\nSuites:\n trixie\n trixie-updates\n\
                Components: main\n\n\n\
                Types: deb-src\nURIs: http://d.example\nSuites: trixie\nComponents: main\n\n\
                Enabled: no\nTypes: deb\nURIs: http://e.example\nSuites: trixie\nComponents: main\n";
    let sources = parse_deb822(text);
    let uris: Vec<&str> = sources.iter().map(|s| s.uri.as_str()).collect();
    assert_eq!(uris, ["http://a.example/debian", "http://b.example/x", "http://c.example/x"]);
    assert_eq!(sources[0].signed_by.as_deref(), Some("/k/debian-archive-keyring.gpg"));
    assert_eq!(sources[1].suites, ["trixie", "trixie-updates"]);
}

#[test]
fn a_key_inside_a_stanza_is_not_a_keyring_file() {
    let text = "Types: deb\nURIs: http://a.example\nSuites: trixie\nComponents: main\nSigned-By:\n \
                -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
    assert_eq!(parse_deb822(text)[0].signed_by, None);
}

#[test]
fn a_vendors_source_of_the_same_suite_is_not_debians() {
    let vendor = source("https://vendor.example/debian", &["trixie"], Some("/usr/share/keyrings/vendor.gpg"));
    let debian = source(
        "http://mirror.example/debian",
        &["trixie", "trixie-updates"],
        Some("/usr/share/keyrings/debian-archive-keyring.gpg"),
    );
    let unsigned = source("http://plain.example/debian", &["trixie"], None);
    let security = source("http://mirror.example/debian-security", &["trixie-security"], None);
    let cdrom = source("cdrom:[Debian 13]/", &["trixie"], None);
    let all = [cdrom, vendor.clone(), security, unsigned.clone(), debian.clone()];
    assert_eq!(debian_source(&all, "trixie"), Some(&debian));
    assert_eq!(debian_source(&all[..4], "trixie"), Some(&unsigned));
    assert_eq!(debian_source(&[vendor], "trixie"), None);
    assert_eq!(debian_source(&all, "bookworm"), None);
}

#[test]
fn files_are_read_in_apts_order_and_others_are_passed_over() {
    let root = std::env::temp_dir().join(format!("xtask-apt-{}", std::process::id()));
    let parts = root.join("etc/apt/sources.list.d");
    fs::create_dir_all(&parts).unwrap();
    fs::write(root.join("etc/apt/sources.list"), "deb http://first.example trixie main\n").unwrap();
    let stanza = "Types: deb\nURIs: http://second.example\nSuites: trixie\nComponents: main\n";
    fs::write(parts.join("a.sources"), stanza).unwrap();
    fs::write(parts.join("b.list"), "deb http://third.example trixie main\n").unwrap();
    fs::write(parts.join("c.list.disabled"), "deb http://off.example trixie main\n").unwrap();
    let uris: Vec<String> = machine_sources(&root).unwrap().into_iter().map(|s| s.uri).collect();
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(uris, ["http://first.example", "http://second.example", "http://third.example"]);
}

#[test]
fn exactly_the_compilers_version_is_chosen() {
    let madison = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://m.example trixie-backports/main amd64 Packages\n  \
                   rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://m.example trixie-backports/main amd64 Packages\n  \
                   rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://m.example trixie-backports/main amd64 Packages\n  \
                   rust-src | 1.94.1+dfsg1-1 | http://m.example trixie-backports/main Sources\n";
    assert_eq!(version_of_upstream(madison, "1.95.0").as_deref(), Some("1.95.0+dfsg1-2~bpo13+1"));
    assert_eq!(version_of_upstream(madison, "1.95"), None);
    assert_eq!(version_of_upstream(madison, "1.94.1"), None, "a source package has no files to unpack");
    assert_eq!(version_of_upstream("", "1.95.0"), None);
}

#[test]
fn the_upstream_part_of_a_debian_version() {
    for (version, upstream) in [
        ("1.95.0+dfsg1-2~bpo13+1", "1.95.0"),
        ("1:1.95.0-2", "1.95.0"),
        ("1.95.0~beta.2+dfsg1-1", "1.95.0~beta.2"),
        ("1.95.0", "1.95.0"),
    ] {
        assert_eq!(upstream_part(version), upstream, "{version}");
    }
}

#[test]
fn the_line_for_another_suite_keeps_mirror_and_keyring() {
    let source = source("http://m.example/debian", &["bookworm"], None);
    assert_eq!(
        one_line(&source, Some("/k/d.gpg"), "trixie-backports"),
        "deb [signed-by=/k/d.gpg] http://m.example/debian trixie-backports main\n"
    );
    assert_eq!(one_line(&source, None, "sid"), "deb http://m.example/debian sid main\n");
}

#[test]
fn os_release_fields_lose_their_quotes() {
    let text = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
    assert_eq!(os_release_field(text, "ID").as_deref(), Some("debian"));
    assert_eq!(os_release_field(text, "VERSION_ID").as_deref(), Some("12"));
    assert_eq!(os_release_field(text, "ID_LIKE"), None);
}
