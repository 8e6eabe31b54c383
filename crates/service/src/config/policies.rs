//! From the sections `[password]` and `[rotation]` and the entries `[[policy]]` to the policies of the deployment.
//!
//! A setting that would have no effect is a mistake and refused: whoever wrote it meant something by it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_domain::password::{Complexity, PasswordPolicy, PolicyError};
use keyturn_domain::policies::{Group, Members, Pattern, Policies, Policy, Tempting};
use keyturn_schemas::finding::MOST_GROUPS;

use super::sections::{Password, PolicyEntry, Sections};

/// What is wrong, each with its key.
type Problems = Vec<String>;

impl Sections {
    /// All policies, or everything that is wrong with them.
    pub(super) fn policies(&self) -> Result<Policies, Problems> {
        let mut problems = Problems::new();
        let mut default = None;
        match passwords(&self.password, "password", &self.password.without_effect()) {
            Ok(passwords) => default = Some(Policy { passwords, rotation: self.rotation_policy() }),
            Err(wrong) => problems.extend(wrong),
        }
        let mut names = BTreeSet::new();
        let mut groups = Vec::new();
        for entry in &self.policy {
            match self.group(entry) {
                Ok(_) if !names.insert(&entry.name) => {
                    problems.push(format!("policy.{}: there are two of this name; rename one", entry.name));
                }
                Ok(group) => groups.push(group),
                Err(wrong) => problems.extend(wrong),
            }
        }
        let default = default.filter(|_| problems.is_empty()).ok_or(problems)?;
        let tempting = |wrong: Vec<Tempting>| -> Problems {
            wrong.iter().map(|one| format!("policy.{}: {one}", one.group)).collect()
        };
        let policies = Policies::new(default, groups).map_err(tempting)?;
        let count = policies.directory_groups().len();
        if count > MOST_GROUPS {
            let wrong = format!("policy.*.groups: {count} groups of the directory, at most {MOST_GROUPS}");
            return Err(vec![format!("{wrong}; put groups into one group there, and name that")]);
        }
        Ok(policies)
    }

    fn group(&self, entry: &PolicyEntry) -> Result<Group, Problems> {
        let name = &entry.name;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            let wrong = format!("policy.name: «{name}» must be 1 to 64 characters of a-z 0-9 -");
            return Err(vec![wrong]);
        }
        let key = format!("policy.{name}");
        let mut problems = Problems::new();
        let mut rotation = self.rotation_policy();
        if let Some(span) = entry.update_frequency {
            rotation.update_frequency = span.0;
            if span.0.is_zero() {
                problems.push(format!("{key}.update_frequency: must not be zero"));
            }
        }
        let members = entry.members(&key).map_err(|wrong| problems.extend(wrong)).ok();
        let merged = entry.over(&self.password);
        let passwords = passwords(&merged, &key, &entry.without_effect(merged.complexity));
        let passwords = passwords.map_err(|wrong| problems.extend(wrong)).ok();
        match (members, passwords) {
            (Some(members), Some(passwords)) if problems.is_empty() => {
                Ok(Group { name: name.clone(), members, policy: Policy { passwords, rotation } })
            }
            _ => Err(problems),
        }
    }
}

/// What passwords are made of. `idle` are the settings given that have no effect.
fn passwords(password: &Password, key: &str, idle: &[&str]) -> Result<PasswordPolicy, Problems> {
    let complexity = password.complexity;
    let useless = |setting: &&str| {
        let mend =
            if *setting == "alphabet" || *setting == "classes" { " or set complexity = 0" } else { "" };
        format!("{key}.{setting}: has no effect with complexity = {complexity}; remove it{mend}")
    };
    let made = password.policy().map_err(|error| vec![format!("{key}.{}: {error}", error.key())])?;
    if idle.is_empty() { Ok(made) } else { Err(idle.iter().map(useless).collect()) }
}

impl Password {
    fn policy(&self) -> Result<PasswordPolicy, PolicyError> {
        if self.complexity == 0 {
            return PasswordPolicy::new(self.length, &self.alphabet, self.classes);
        }
        let mut marks = self.separator.chars();
        let (separator, None) = (marks.next(), marks.next()) else { return Err(PolicyError::Separator) };
        let complexity = Complexity::from_number(self.complexity)?;
        PasswordPolicy::windows_laps(complexity, self.length, self.words, separator)
    }

    /// Settings that differ from their defaults to no effect.
    fn without_effect(&self) -> Vec<&'static str> {
        let default = Self::default();
        let given = [
            ("length", self.length != default.length),
            ("alphabet", self.alphabet != default.alphabet),
            ("classes", self.classes != default.classes),
            ("words", self.words != default.words),
            ("separator", self.separator != default.separator),
        ];
        idle(self.complexity, given)
    }
}

/// Of the settings given, those that this complexity does not go by.
fn idle(complexity: u8, given: [(&'static str, bool); 5]) -> Vec<&'static str> {
    let of_no_use: &[&str] = match complexity {
        0 => &["words", "separator"],
        1..=5 => &["alphabet", "classes", "words", "separator"],
        _ => &["length", "alphabet", "classes"],
    };
    let given = given.into_iter().filter(|(setting, given)| *given && of_no_use.contains(setting));
    given.map(|(setting, _)| setting).collect()
}

impl PolicyEntry {
    /// The settings of `[password]`, with those of this entry in their place.
    fn over(&self, default: &Password) -> Password {
        Password {
            complexity: self.complexity.unwrap_or(default.complexity),
            length: self.length.unwrap_or(default.length),
            alphabet: self.alphabet.as_ref().unwrap_or(&default.alphabet).clone(),
            classes: self.classes.unwrap_or(default.classes),
            words: self.words.unwrap_or(default.words),
            separator: self.separator.as_ref().unwrap_or(&default.separator).clone(),
        }
    }

    fn without_effect(&self, complexity: u8) -> Vec<&'static str> {
        let given = [
            ("length", self.length.is_some()),
            ("alphabet", self.alphabet.is_some()),
            ("classes", self.classes.is_some()),
            ("words", self.words.is_some()),
            ("separator", self.separator.is_some()),
        ];
        idle(complexity, given)
    }

    fn members(&self, key: &str) -> Result<Members, Problems> {
        let mut problems = Problems::new();
        let devices = self.device_ids(key, &mut problems);
        let groups = self.group_ids(key, &mut problems);
        let hosts = patterns(self.host.as_ref(), &format!("{key}.host"), &mut problems);
        let systems = patterns(self.os.as_ref(), &format!("{key}.os"), &mut problems);
        let nothing = devices.is_none() && groups.is_none() && hosts.is_none() && systems.is_none();
        if problems.is_empty() && nothing {
            problems
                .push(format!("{key}: fits no device; give it devices, devices_file, groups, host or os"));
        }
        if problems.is_empty() { Ok(Members { devices, groups, hosts, systems }) } else { Err(problems) }
    }

    fn group_ids(&self, key: &str, problems: &mut Problems) -> Option<BTreeSet<GroupId>> {
        let texts = self.groups.as_ref()?;
        if texts.is_empty() {
            problems.push(format!("{key}.groups: is empty; list some, or remove the setting"));
        }
        let mut ids = BTreeSet::new();
        for text in texts {
            match GroupId::parse_any_case(text) {
                Ok(id) => drop(ids.insert(id)),
                Err(error) => problems.push(format!(
                    "{key}.groups: «{text}» is {error}; take the group's object id, not its name"
                )),
            }
        }
        Some(ids)
    }

    fn device_ids(&self, key: &str, problems: &mut Problems) -> Option<BTreeSet<DeviceId>> {
        let mut ids = BTreeSet::new();
        let mut take = |place: &str, text: &str| match DeviceId::parse_any_case(text) {
            Ok(id) => drop(ids.insert(id)),
            Err(error) => problems.push(format!("{place}: «{text}» is {error}")),
        };
        for text in self.devices.iter().flatten() {
            take(&format!("{key}.devices"), text);
        }
        if let Some(path) = &self.devices_file {
            let place = format!("{key}.devices_file: {}", path.display());
            match read_ids(path) {
                Ok(lines) if lines.is_empty() => {
                    problems.push(format!("{place}: has no device in it; list some, or remove the setting"));
                }
                Ok(lines) => lines.iter().for_each(|(line, text)| take(&format!("{place}:{line}"), text)),
                Err(error) => problems.push(format!("{place}: {error}")),
            }
        }
        if self.devices.as_ref().is_some_and(Vec::is_empty) {
            problems.push(format!("{key}.devices: is empty; list some, or remove the setting"));
        }
        (self.devices.is_some() || self.devices_file.is_some()).then_some(ids)
    }
}

/// The ids in a file with their lines. What follows a `#` is a comment.
fn read_ids(path: &Path) -> std::io::Result<Vec<(usize, String)>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    Ok((1..).zip(lines).filter(|(_, text)| !text.is_empty()).collect())
}

fn patterns(texts: Option<&Vec<String>>, key: &str, problems: &mut Problems) -> Option<Vec<Pattern>> {
    let texts = texts?;
    if texts.is_empty() {
        problems.push(format!("{key}: is empty; list some patterns, or remove the setting"));
    }
    let mut patterns = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => problems.push(format!("{key}: {error}")),
        }
    }
    Some(patterns)
}
