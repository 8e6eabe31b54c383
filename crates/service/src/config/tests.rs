use std::fs;

use super::*;

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyturn.toml");
    fs::write(&file, text).unwrap();
    Config::load(&file).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "."))
}

#[test]
fn a_name_is_all_it_takes() {
    let config = load("[deployment]\nname = \"contoso\"\n").unwrap();
    assert_eq!(config.rotation, RotationPolicy::default());
    assert_eq!(config.passwords, PasswordPolicy::default());
    assert_eq!(config.workers, WorkerSettings::default());
    assert_eq!(config.freshness, Freshness::default());
    assert_eq!(config.admission, AdmissionPolicy::default());
    assert_eq!(config.join_types, JoinTypes::default());
    assert!(
        config.sections.data.file.ends_with("keyturn.db") && config.sections.data.file.parent().is_some()
    );
}

#[test]
fn mistakes_are_named_with_line_and_key() {
    for (text, parts) in [
        (
            "[deployment]\nname = \"a\"\n[rotation]\nupdate_frequncy = \"3d\"\n",
            &["line 4", "update_frequncy"][..],
        ),
        (
            "[deployment]\nname = \"a\"\n[rotation]\nupdate_frequency = \"3 days\"\n",
            &["line 4", "update_frequency", "3d"],
        ),
        ("[deployment]\nname = \"a\"\n[password]\nlength = \"x\"\n", &["line 4", "length"]),
        ("[deployment]\nname = \"Contoso!\"\n", &["./keyturn.toml: deployment.name", "a-z"]),
        ("", &["deployment.name"]),
    ] {
        let error = load(text).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?} gave {error:?}");
    }
}

#[test]
fn values_are_checked_together_and_all_are_told() {
    let text = "[deployment]\nname = \"a\"\n[ingress]\nlisten = \"0.0.0.0:443\"\ntrusted_proxies = [\"10.0.0.1/8\"]\n[ingress.admission]\nkey_rate = 0\n[password]\nlength = 8\nalphabet = \"abcdefghij\"\nclasses = 1\n[trust]\njoin_types = [\"Home\"]\n";
    let error = load(text).unwrap_err();
    for part in [
        "ingress.listen",
        "ingress.trusted_proxies: «10.0.0.1/8»",
        "rates and bursts",
        "fewer than 60",
        "«Home» is not a join type",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_template_is_a_configuration_once_it_has_a_name() {
    let template = Config::template();
    assert!(template.contains("UpdateFrequencyDays"), "{template}");
    let uncommented = template.replacen("#name =", "name = \"contoso\"", 1);
    load(&uncommented).unwrap();
}

/// `KEYTURN_BLESS=1` writes the sample anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "the switch is for people, who set it in the environment")]
fn the_sample_is_the_template() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/samples/keyturn.toml");
    let template = Config::template().replacen("#name =", "name = \"example\"", 1);
    if std::env::var("KEYTURN_BLESS").is_ok() {
        fs::write(&sample, &template).unwrap();
    }
    assert_eq!(fs::read_to_string(&sample).unwrap(), template, "run the tests with KEYTURN_BLESS=1");
    Config::load(&sample).unwrap();
}
