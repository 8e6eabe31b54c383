use std::collections::BTreeSet;
use std::fs;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::label::Label;
use keyturn_domain::lane::About;
use keyturn_domain::password::PasswordPolicy;
use keyturn_domain::policies::Who;
use keyturn_ports::queue::QueueName;

use super::*;

pub(super) fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyturn.toml");
    fs::write(&file, text).unwrap();
    Config::load(&file).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "."))
}

#[test]
fn a_name_is_all_it_takes() {
    let config = load("[deployment]\nname = \"contoso\"\n").unwrap();
    assert_eq!(config.policies, Policies::of(PasswordPolicy::default(), RotationPolicy::default()));
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
fn the_state_is_where_the_configuration_says() {
    let config = |text: &str| load(&format!("[deployment]\nname = \"a\"\n[state]\n{text}"));
    assert!(config("engine = \"embedded\"").unwrap().postgres.is_none());
    let remote = "engine = \"postgres\"\n[state.postgres]\nurl = \"postgresql://me@db/keyturn\"\n";
    assert_eq!(config(remote).unwrap().postgres.unwrap().to_string(), "database keyturn at db");
    for (text, part) in [
        ("engine = \"mysql\"", "state.engine: «mysql»"),
        ("engine = \"postgres\"", "state.postgres.url: state.engine is"),
        ("[state.postgres]\nurl = \"postgresql://me@db/keyturn\"", "state.engine is \"embedded\""),
        (&format!("{remote}tls = \"off\""), "only a Unix socket or a loopback address"),
        (&format!("{remote}tls = \"prefer\""), "state.postgres.tls: «prefer»"),
        (&format!("{remote}connections = 0"), "state.postgres.connections: must be"),
        (&format!("{remote}lock = \"30s\""), "lock not longer than statement"),
        (
            "engine = \"postgres\"\n[state.postgres]\nurl = \"postgresql://me:pw9@db/keyturn\"",
            "holds a password",
        ),
    ] {
        let error = config(text).unwrap_err();
        assert!(error.contains(part) && !error.contains("pw9"), "{text:?} gave {error:?}");
    }
    assert!(config(&format!("{remote}tls = \"off\"\ndanger_no_tls = true")).is_ok());
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

/// What would be forgotten too early is refused, with the bound.
#[test]
fn retention_that_forgets_too_early_is_refused() {
    for (text, part) in [
        ("[retention]\naccepted = \"7m\"", "retention.accepted: must be longer than trust.nonce_ttl"),
        ("[trust]\nnonce_ttl = \"10m\"\n[retention]\naccepted = \"12m\"", "retention.accepted"),
        ("[retention]\neffects = \"23h\"", "retention.effects: must be at least 1d"),
        ("[retention]\naccepted = \"40d\"", "retention.effects"),
        ("[retention]\nevery = \"2h\"", "retention.every: must be 1s to 1h"),
        ("[logs]\nlook_every = \"99ms\"", "logs.look_every: must be 100ms to 1h"),
        ("[logs]\nlevel = \"loud\"", "logs.level: «loud» is no level"),
        ("[logs]\nlevel = \"\"", "logs.level: «» is no level"),
        ("[logs]\nlevel = \"info,keyturn_rotatr=debug\"", "there is no part «keyturn_rotatr»"),
        ("[logs]\nformat = \"xml\"", "logs.format: \"xml\" is neither \"json\" nor \"text\""),
        ("[retention]\nbatch = 0", "retention.batch: must be 1 to 10000"),
        ("[backup]\npages = 0", "backup.pages: must be at least 1"),
        ("[health]\nprobe_every = \"50ms\"", "health.probe_every: must be 100ms to 1h"),
        ("[health]\nprobe_timeout = \"6m\"", "health.probe_timeout: must be 100ms to 5m"),
        ("[health]\naway_after = 0", "health.away_after: must be 1 to 100"),
    ] {
        let error = load(&format!("[deployment]\nname = \"x\"\n{text}\n")).unwrap_err();
        assert!(error.contains(part), "{text:?} gave {error:?}");
    }
    load("[deployment]\nname = \"x\"\n[retention]\naccepted = \"8m\"\neffects = \"1d\"\n").unwrap();
}

/// Hops with engines of their own, and what is missing for them.
#[test]
fn engines_of_queues_are_checked() {
    let account = "[queues.azure_storage]\nendpoint = \"https://contoso.queue.core.windows.net\"\naccess = \"key\"\naccount = \"contoso\"\n\
        secret_file = \"keys/storage.key\"\n";
    let whole = |text: &str| format!("[deployment]\nname = \"x\"\n{text}");
    let config = load(&whole(&format!("[queues]\nrequests = \"azure-storage\"\n{account}"))).unwrap();
    assert_eq!(config.queues.azure_storage.into_iter().collect::<Vec<_>>(), [QueueName::Requests]);
    let account = config.queues.account.unwrap();
    assert!(matches!(account.access, AccessBy::Key { file, .. } if file.ends_with("keys/storage.key")));
    assert!(load(&whole("")).unwrap().queues.account.is_none());
    for (text, said) in [
        ("[queues]\nrequests = \"kafka\"\n", "queues.requests: «kafka»"),
        ("[queues]\nrequests = \"azure-storage\"\n", "queues.azure_storage.endpoint: is missing"),
        ("[queues]\nrequest = \"state\"\n", "line 4"),
        (
            "[queues]\nalarms = \"azure-storage\"\n[queues.azure_storage]\nendpoint = \"http://contoso.example\"\n",
            "https://",
        ),
        (
            "[queues]\nalarms = \"azure-storage\"\n[queues.azure_storage]\nendpoint = \"https://c.example/?sig=x\"\n",
            "signature belongs into a file",
        ),
        (
            "[queues]\nalarms = \"azure-storage\"\n[queues.azure_storage]\naccess = \"signature\"\naccount = \"c\"\n",
            "signature needs secret_file",
        ),
    ] {
        let error = load(&whole(text)).unwrap_err();
        assert!(error.contains(said), "{text:?} gave {error:?}");
    }
}

/// Hops on Service Bus, and what is missing for them.
#[test]
fn service_bus_is_checked() {
    let whole = |text: &str| {
        format!(
            "[deployment]\nname = \"x\"\n[queues]\nfindings = \"service-bus\"\n[queues.service_bus]\n{text}"
        )
    };
    let good = "endpoint = \"sb://contoso.servicebus.windows.net\"\n";
    let config = load(&whole(good)).unwrap();
    assert_eq!(config.queues.service_bus.into_iter().collect::<Vec<_>>(), [QueueName::Findings]);
    assert!(config.queues.namespace.unwrap().policy.is_none() && config.azure.is_some());
    let by_key = format!("{good}access = \"key\"\npolicy = \"p\"\nsecret_file = \"keys/bus.key\"\n");
    let (policy, file) = load(&whole(&by_key)).unwrap().queues.namespace.unwrap().policy.unwrap();
    assert!(policy == "p" && file.ends_with("keys/bus.key"));
    for (text, said) in [
        ("", "queues.service_bus.endpoint: is missing"),
        ("endpoint = \"amqp://contoso.example\"\n", "plain amqp"),
        ("endpoint = \"sb://u:canary@contoso.example\"\n", "key belongs into a file"),
        (&format!("{good}access = \"key\"\n"), "key needs policy"),
        (&format!("{good}prefix = \"K\"\n"), "queues.service_bus.prefix"),
        (&format!("{good}lock = \"10s\"\n[workers]\nlease = \"30s\"\n"), "at least workers.lease"),
        (&format!("{good}counted = 0\n"), "queues.service_bus.counted"),
        (
            &format!("{good}sessions = true\nsessions_held = 0\n"),
            "queues.service_bus.sessions_held: must be 1 to 200",
        ),
        (&format!("{good}session_idle = \"11s\"\n"), "queues.service_bus.session_idle: must be 1ms to 10s"),
        (&format!("{good}[azure]\nproxy = \"http://proxy.example\"\n"), "open port 5671"),
    ] {
        let error = load(&whole(text)).unwrap_err();
        assert!(error.contains(said) && !error.contains("canary"), "{text:?} gave {error:?}");
    }
}

/// Settings of passwords that cannot be, each named by its key and with a mend.
#[test]
fn policies_that_cannot_be_are_named_by_their_keys() {
    for (text, parts) in [
        ("[password]\nlength = 7", &["password.length: ", "outside 8 to 128"][..]),
        ("[password]\ncomplexity = 9", &["password.complexity: ", "1 to 8"]),
        ("[password]\ncomplexity = 4\nlength = 65", &["password.length: ", "8 to 64"]),
        ("[password]\ncomplexity = 4\nlength = 9", &["password.length: ", "fewer than 60", "longer"]),
        ("[password]\ncomplexity = 6\nwords = 11", &["password.words: ", "3 to 10"]),
        ("[password]\ncomplexity = 7\nwords = 5", &["password.words: ", "51.7 bits", "more words"]),
        ("[password]\ncomplexity = 6\nseparator = \"ab\"", &["password.separator: ", "punctuation"]),
        ("[password]\ncomplexity = 6\nseparator = \"\\n\"", &["password.separator: ", "punctuation"]),
        ("[password]\ncomplexity = 6\nlength = 20", &["password.length: has no effect", "remove it"]),
        ("[password]\ncomplexity = 4\nclasses = 2", &["password.classes: has no effect", "complexity = 0"]),
        ("[password]\nwords = 7", &["password.words: has no effect with complexity = 0"]),
        ("[password]\nalphabet = \"abc\"", &["password.alphabet: ", "at least 10"]),
        ("[[policy]]\nhost = [\"a\"]", &["line 3", "name"]),
        ("[[policy]]\nname = \"a\"\nhots = [\"a\"]", &["line 5", "hots"]),
        ("[[policy]]\nname = \"a\"\nhost = [\"a\"]\nupdate_frequency = \"1 day\"", &["line 6", "1h or 3d"]),
        ("[[policy]]\nname = \"A b\"\nhost = [\"a\"]", &["policy.name: «A b»", "a-z"]),
        ("[[policy]]\nname = \"a\"", &["policy.a: fits no device", "devices_file"]),
        ("[[policy]]\nname = \"a\"\ndevices = []", &["policy.a.devices: is empty"]),
        ("[[policy]]\nname = \"a\"\ngroups = []", &["policy.a.groups: is empty"]),
        ("[[policy]]\nname = \"a\"\ngroups = [\"Kiosks\"]", &["policy.a.groups: «Kiosks»", "object id"]),
        ("[[policy]]\nname = \"a\"\nhost = []", &["policy.a.host: is empty"]),
        ("[[policy]]\nname = \"a\"\nos = [\"\"]", &["policy.a.os: ", "pattern"]),
        ("[[policy]]\nname = \"a\"\ndevices = [\"LAB-07\"]", &["policy.a.devices: «LAB-07»", "GUID"]),
        ("[[policy]]\nname = \"a\"\ndevices_file = \"no.txt\"", &["policy.a.devices_file: ./no.txt"]),
        (
            "[[policy]]\nname = \"a\"\nos = [\"*\"]\nlength = 15",
            &["policy.a: ", "the default", "devices_file"],
        ),
        ("[[policy]]\nname = \"a\"\nos = [\"*\"]\nupdate_frequency = \"4d\"", &["policy.a: ", "4d", "3d"]),
        ("[[policy]]\nname = \"a\"\nos = [\"*\"]\nupdate_frequency = \"0d\"", &["policy.a.update_frequency"]),
        ("[[policy]]\nname = \"a\"\nos = [\"*\"]\ncomplexity = 6\nlength = 20", &["policy.a.length: has no"]),
    ] {
        let error = load(&format!("[deployment]\nname = \"x\"\n{text}\n")).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?} gave {error:?}");
    }
    let twice = "[deployment]\nname = \"x\"\n[[policy]]\nname = \"a\"\nhost = [\"a\"]\n".to_owned();
    let error = load(&(twice.clone() + "[[policy]]\nname = \"a\"\nos = [\"b\"]\n")).unwrap_err();
    assert!(error.contains("policy.a: there are two"), "{error}");
    load(&twice).unwrap();
}

/// Settings of alarms that cannot be, each named by its key and with a mend.
#[test]
fn webhooks_that_cannot_be_are_named_by_their_keys() {
    let hook = |more: &str| format!("[[alarms.webhook]]\nname = \"a\"\nsecret_file = \"s\"\n{more}");
    let good = "url = \"https://h/x\"\n";
    for (text, parts) in [
        (hook("url = \"http://h/x\""), &["alarms.webhook.a.url: ", "expected an https address"][..]),
        (hook("url = \"https://u:p@h/\""), &["alarms.webhook.a.url: ", "without user"]),
        (
            hook(&format!("{good}kinds = [\"cloned\"]")),
            &["alarms.webhook.a.kinds: ", "«cloned»", "rolled_back"],
        ),
        (hook(&format!("{good}kinds = []")), &["alarms.webhook.a.kinds: ", "leave it out"]),
        (hook(&format!("{good}knds = []")), &["line 7", "knds"]),
        (hook(""), &["line 3", "url"]),
        (hook(good).replace("\"a\"", "\"A b\""), &["alarms.webhook: «A b»: ", "a-z"]),
        (format!("{}{}", hook(good), hook(good)), &["alarms.webhook.a: there are two"]),
        ("[alarms]\ntimeout = \"3m\"".to_owned(), &["alarms.timeout: must be 1s to 2m"]),
        ("[alarms]\nfirst_delay = \"0s\"".to_owned(), &["alarms.first_delay: "]),
        ("[alarms]\nmax_delay = \"2h\"".to_owned(), &["alarms.max_delay: must be first_delay to 1h"]),
        ("[alarms]\ngive_up = \"1m\"".to_owned(), &["alarms.give_up: must be at least max_delay"]),
        ("[alarms]\nproxy = \"socks5://h\"".to_owned(), &["alarms.proxy: ", "http://proxy.example.org:3128"]),
        ("[alarms]\nca = \"no.pem\"".to_owned(), &["alarms.ca: ./no.pem: cannot be read"]),
    ] {
        let error = load(&format!("[deployment]\nname = \"x\"\n{text}\n")).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?} gave {error:?}");
    }
    let config =
        load(&format!("[deployment]\nname = \"x\"\n{}", hook(&format!("{good}kinds = [\"clone\"]"))))
            .unwrap();
    let [webhook] = config.alarms.webhooks.as_slice() else { panic!("{:?}", config.alarms) };
    assert_eq!((webhook.kinds.len(), config.alarm_workers.retry.patience), (1, Duration::from_hours(72)));
    assert!(config.sections.alarms.webhook[0].secret_file.is_absolute());
    let shown = format!("{config:?}");
    assert!(!shown.contains("https://h/x") && shown.contains("https://h/…"), "{shown}");
}

#[test]
fn the_first_policy_that_fits_is_taken_and_says_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let ids = ["3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11", "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e12"];
    fs::write(
        folder.path().join("kiosks.txt"),
        format!("# the hall\n\n  {}  # desk\r\n", ids[0].to_uppercase()),
    )
    .unwrap();
    let text = "[deployment]\nname = \"x\"\n[password]\nlength = 20\n[rotation]\nhold = \"2d\"\n\
        [[policy]]\nname = \"kiosks\"\ndevices_file = \"kiosks.txt\"\ncomplexity = 7\nseparator = \"-\"\n\
        [[policy]]\nname = \"linux\"\nos = [\"*linux*\"]\nupdate_frequency = \"1d\"\n";
    let file = folder.path().join("keyturn.toml");
    fs::write(&file, text).unwrap();
    let policies = Config::load(&file).unwrap().policies;
    let chosen = |id: &str, os: &str| {
        let about = About { os: Label::parse(os).unwrap(), ..About::default() };
        let (device, groups) = (id.parse::<DeviceId>().unwrap(), BTreeSet::new());
        let policy = policies.choose(Who { device, groups: &groups, about: &about });
        let days = |time: Duration| time.as_secs() / 86_400;
        (
            policy.passwords.to_string(),
            days(policy.rotation.update_frequency),
            days(policy.rotation.hold_window),
        )
    };
    let default = "20 characters out of 77, at least 4 classes".to_owned();
    assert_eq!(chosen(ids[0], "Debian Linux"), ("6 words out of 1296".to_owned(), 3, 2));
    assert_eq!(chosen(ids[1], "Debian Linux"), (default.clone(), 1, 2));
    assert_eq!(chosen(ids[1], "Windows 11"), (default, 3, 2));
}

#[test]
fn policies_go_by_so_many_groups_of_the_directory() {
    let policy = |name: &str, ids: std::ops::Range<u32>| {
        let ids: Vec<_> = ids.map(|n| format!("\"fee2c45b-915a-4a64-b130-f4eb{n:08x}\"")).collect();
        format!("[[policy]]\nname = \"{name}\"\ngroups = [{}]\n", ids.join(", "))
    };
    let text = |last| format!("[deployment]\nname = \"x\"\n{}{}", policy("a", 0..60), policy("b", 40..last));
    assert_eq!(load(&text(100)).unwrap().policies.directory_groups().len(), 100);
    let refused = load(&text(101)).unwrap_err();
    assert!(refused.contains("policy.*.groups: 101 groups") && refused.contains("at most 100"), "{refused}");
}

/// The settings' defaults stand in the template as text, and in code where they have to be compared.
#[test]
fn the_default_password_settings_are_those_of_the_template() {
    let config = load("[deployment]\nname = \"a\"\n").unwrap();
    assert_eq!(format!("{:?}", config.sections.password), format!("{:?}", Password::default()));
}

#[test]
fn the_template_is_a_configuration_once_it_has_a_name() {
    let template = Config::template();
    assert!(template.contains("UpdateFrequencyDays"), "{template}");
    let uncommented = template.replacen("#name =", "name = \"contoso\"", 1);
    load(&uncommented).unwrap();
}

/// The example in the template's comment.
#[test]
fn the_policy_in_the_template_is_one() {
    let template = Config::template();
    let examples: Vec<&str> =
        template.lines().filter_map(|line| line.trim().strip_prefix("#     ")).collect();
    let webhook = examples.iter().position(|line| *line == "[[alarms.webhook]]").unwrap();
    let (example, webhook) = examples.split_at(webhook);
    assert_eq!(example.first(), Some(&"[[policy]]"));
    let hooked = load(&format!("[deployment]\nname = \"x\"\n{}\n", webhook.join("\n"))).unwrap();
    assert_eq!(hooked.alarms.webhooks[0].kinds.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyturn.toml");
    fs::write(folder.path().join("kiosks.txt"), "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e12\n").unwrap();
    fs::write(&file, format!("[deployment]\nname = \"x\"\n{}\n", example.join("\n"))).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.policies.groups().len(), 1);
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
