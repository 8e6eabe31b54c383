//! C-01 to C-10 of docs/HOSTILE.md: configurations that must not start anything.

use super::tests::load;

/// What is wrong with the way in which this is refused.
fn mistaken(id: &str, text: &str, said: &[&str]) -> Option<String> {
    match load(text) {
        Ok(_) => Some(format!("{id}: {text:?} is taken")),
        Err(error) if !said.iter().all(|part| error.contains(part)) || error.len() > 4096 => {
            Some(format!("{id}: {text:?} gave {error:?}"))
        }
        Err(_) => None,
    }
}

#[test]
fn c_01_to_c_10_are_refused_by_key() {
    let cases = [
        (
            "C-01",
            "[rotation]\nupdate_frequncy = \"3d\"",
            &["line 4", "update_frequncy", "update_frequency"][..],
        ),
        ("C-01", "[rotatoin]", &["rotatoin", "rotation"]),
        ("C-01", "[ingress.tls]\ncert = \"a.pem\"", &["line 4", "cert", "certificate"]),
        ("C-02", "[password]\nlength = 4", &["password.length", "8 to 128"]),
        ("C-02", "[password]\nlength = 10000", &["password.length", "8 to 128"]),
        ("C-02", "[password]\nlength = -16", &["line 4", "length"]),
        ("C-02", "[password]\nlength = 8", &["password.length", "bits"]),
        ("C-03", "[password]\nalphabet = \"\"", &["password.alphabet"]),
        ("C-03", "[password]\nalphabet = \"a\"", &["password.alphabet"]),
        ("C-03", "[password]\nalphabet = \"aabbccddeeff0011223344\"", &["password.alphabet"]),
        ("C-03", "[password]\nalphabet = \"abcdefghijkl\\u0000\"", &["password.alphabet"]),
        ("C-03", "[password]\nalphabet = \"abcdefghijklä\"", &["password.alphabet"]),
        ("C-03", "[password]\nalphabet = \"abcdefghijkl \\n\"", &["password.alphabet"]),
        ("C-04", "[rotation]\nupdate_frequency = \"0d\"", &["rotation.update_frequency"]),
        ("C-04", "[rotation]\nupdate_frequency = \"-1d\"", &["line 4", "update_frequency"]),
        ("C-04", "[rotation]\nupdate_frequency = 3", &["line 4", "update_frequency", "3d"]),
        ("C-04", "[rotation]\nupdate_frequency = \"\"", &["line 4", "update_frequency"]),
        ("C-04", "[rotation]\nupdate_frequency = \"99999999999999999999d\"", &["line 4", "update_frequency"]),
        (
            "C-06",
            "[vault]\nmaster_key = \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0ISE=\"",
            &["line 4", "master_key"],
        ),
        ("C-08", "[workers]\nlease = \"0s\"", &["workers.lease", "at least 1s"]),
        ("C-09", "[trust]\nnonce_ttl = \"61m\"", &["trust.nonce_ttl", "at most 1h"]),
        ("C-09", "[trust]\nnonce_ttl = \"1s\"", &["trust.nonce_ttl", "at least 5s"]),
        ("C-10", "[ingress]\nlisten = \"0.0.0.0:443\"", &["ingress.listen", "ingress.tls.certificate"]),
        ("C-10", "[ingress]\nlisten = \"[::]:443\"", &["ingress.listen", "ingress.tls.certificate"]),
        ("C-10", "[ingress]\nlisten = \"somewhere\"", &["line 4", "listen"]),
        ("C-13", "[workers]\nbatch = 0", &["workers.batch", "1 to 1024"]),
        ("C-13", "[workers]\nbatch = 18446744073709551616", &["line 4"]),
        ("C-13", "[workers]\nbatch = 1\nbatch = 2", &["line 5", "batch"]),
        ("C-13", "[workers]\nbatch = \"many\"", &["line 4", "batch"]),
        ("C-13", "[workers]\nbatch = [1]", &["line 4", "batch"]),
        ("C-13", "[ingress.admission]\npause = \"1h\"", &["ingress.admission.pause", "5s"]),
        ("C-13", "]]]", &["line 3"]),
    ];
    let whole = |text: &str| format!("[deployment]\nname = \"x\"\n{text}\n");
    let wrong: Vec<_> =
        cases.iter().filter_map(|(id, text, said)| mistaken(id, &whole(text), said)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn c_06_a_secret_under_a_key_that_there_is_not_is_not_repeated() {
    for text in
        ["[vault]\nmaster_key = \"canary\"", "[ingress.tls]\npassword=\"canary\"", "[data]\ntoken = 'canary'"]
    {
        let error = load(&format!("[deployment]\nname = \"x\"\n{text}\n")).err().unwrap();
        assert!(error.contains("line 4") && !error.contains("canary"), "C-06: {error}");
    }
}

#[test]
fn c_14_names_that_would_reach_into_other_places() {
    for name in ["", "../x", "a/b", "a\\b", "a b", "A", "ä", "a\u{0}b", "a\nb", &"a".repeat(300)] {
        let text = format!("[deployment]\nname = {}\n", toml_text(name));
        assert_eq!(mistaken("C-14", &text, &["deployment.name"]), None);
    }
}

#[test]
fn c_15_files_that_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyturn.toml");
    for (content, said) in [
        (&b"\xff\xfe[\0d\0e\0p\0"[..], &["keyturn.toml"][..]),
        (b"[deployment]\nname = \"\xc3\x28\"\n", &["keyturn.toml"]),
        (b"", &["deployment.name"]),
        (b"\0\0\0\0", &["keyturn.toml"]),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = super::Config::load(&file).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "C-15: {content:?} gave {error:?}");
    }
    std::fs::write(&file, "\u{feff}[deployment]\r\nname = \"x\"\r\n").unwrap();
    super::Config::load(&file).expect("C-15: what Windows editors write is read");
    let error = super::Config::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("there is no such file"), "C-15: a folder: {error}");
}

/// A TOML string with everything escaped that has to be.
fn toml_text(text: &str) -> String {
    let escaped: Vec<_> = text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    format!("\"{}\"", escaped.concat())
}
