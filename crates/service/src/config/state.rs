//! Where the state is, from what the configuration says.

use std::time::Duration;

use keyturn_postgres::{Limits, Settings, Tls};

use super::sections::{Postgres, Sections};

impl Sections {
    /// How to reach PostgreSQL, if the state is there.
    pub(super) fn postgres(&self) -> Result<Option<Settings>, Vec<String>> {
        let postgres = &self.state.postgres;
        match (self.state.engine.as_str(), &postgres.url) {
            ("embedded", None) => Ok(None),
            ("embedded", Some(_)) => Err(vec![
                "state.postgres.url: is given, but state.engine is \"embedded\"; make it \"postgres\", or \
                          take the url out"
                    .to_owned(),
            ]),
            ("postgres", Some(url)) => settings(postgres, url).map(Some),
            ("postgres", None) => Err(vec![
                "state.postgres.url: state.engine is \"postgres\", so this is needed, like \
                          \"postgresql://keyturn@db.example/keyturn\""
                    .to_owned(),
            ]),
            (other, _) => {
                Err(vec![format!("state.engine: «{other}» is no engine; write \"embedded\" or \"postgres\"")])
            }
        }
    }
}

fn settings(postgres: &Postgres, url: &str) -> Result<Settings, Vec<String>> {
    let mut problems: Vec<String> =
        bounds(postgres).into_iter().filter(|(broken, _)| *broken).map(|(_, told)| told.to_owned()).collect();
    let tls = match (postgres.tls.as_str(), postgres.danger_no_tls) {
        ("verify-full", _) => Ok(Tls::VerifyFull { roots: postgres.roots.clone() }),
        ("off", false) => Ok(Tls::Off),
        ("off", true) => Ok(Tls::DangerDisabled),
        (other, _) => {
            Err(format!("state.postgres.tls: «{other}» is not known; write \"verify-full\" or \"off\""))
        }
    };
    let limits = Limits {
        connections: postgres.connections,
        connect: postgres.connect.0,
        statement: postgres.statement.0,
        lock: postgres.lock.0,
        look_every: postgres.look_every.0,
    };
    let settings = tls.and_then(|tls| {
        Settings::new(url, postgres.password_file.clone(), tls, limits)
            .map_err(|error| format!("state.postgres.url: {error}"))
    });
    match settings {
        Ok(settings) if problems.is_empty() => Ok(settings),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn bounds(postgres: &Postgres) -> [(bool, &'static str); 4] {
    let outside = |span: Duration, least: Duration, most: Duration| span < least || span > most;
    let second = Duration::from_secs(1);
    [
        (!(1..=1000).contains(&postgres.connections), "state.postgres.connections: must be 1 to 1000"),
        (
            outside(postgres.connect.0, Duration::from_millis(100), second.saturating_mul(60)),
            "state.postgres.connect: must be 100ms to 60s",
        ),
        (
            postgres.lock.0 > postgres.statement.0
                || outside(postgres.lock.0, Duration::from_millis(100), second.saturating_mul(60))
                || outside(postgres.statement.0, second, second.saturating_mul(600)),
            "state.postgres: lock must be 100ms to 60s, statement 1s to 10m, and lock not longer than statement",
        ),
        (
            outside(postgres.look_every.0, Duration::from_millis(10), second.saturating_mul(60)),
            "state.postgres.look_every: must be 10ms to 60s",
        ),
    ]
}
