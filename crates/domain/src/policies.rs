//! Which policy a device is under: the deployment's own, or the first of its groups that the device is in.
//!
//! A device is in a group by its id or by its groups in the directory, which the directory vouches for, or by what it
//! says about itself, which nobody does. A claim may choose among policies, so [`Policies::new`] sees to it that no claim is rewarded: a group that
//! labels lead to is at least as strong as what the device would get without it.

mod pattern;

use std::collections::BTreeSet;

pub use self::pattern::{NotAPattern, Pattern};

use crate::ids::{DeviceId, GroupId};
use crate::lane::{About, Lane, RotationPolicy};
use crate::password::PasswordPolicy;
use crate::span::Span;

/// What governs a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What passwords are made of.
    pub passwords: PasswordPolicy,
    /// When to rotate.
    pub rotation: RotationPolicy,
}

/// Devices with a policy of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What people call it.
    pub name: String,
    /// Who is in it.
    pub members: Members,
    /// What governs them.
    pub policy: Policy,
}

/// Who is in a group. Each criterion that is given has to be met, a list by one of its items; none given means nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// These devices.
    pub devices: Option<BTreeSet<DeviceId>>,
    /// Devices that are, directly or not, in one of these groups of the directory.
    pub groups: Option<BTreeSet<GroupId>>,
    /// Devices that say they have such a host name.
    pub hosts: Option<Vec<Pattern>>,
    /// Devices that say they have such an operating system.
    pub systems: Option<Vec<Pattern>>,
}

/// A device, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its id.
    pub device: DeviceId,
    /// Groups of the directory it is in, as the directory said.
    pub groups: &'a BTreeSet<GroupId>,
    /// What it says about itself.
    pub about: &'a About,
}

impl<'a> From<&'a Lane> for Who<'a> {
    fn from(lane: &'a Lane) -> Self {
        Self { device: lane.key.device, groups: &lane.groups, about: &lane.about }
    }
}

/// All policies of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    default: Policy,
    groups: Vec<Group>,
}

/// A group that a device could claim to be in, to its advantage.
#[derive(Debug, thiserror::Error, PartialEq, Clone)]
#[error(
    "devices come under it by what they say of themselves (host, os), so it must not be weaker than {than}: it has \
     {has}, and {than} has {needed}; make it as strong, or choose its devices by devices, devices_file or \
     groups alone{order}"
)]
pub struct Tempting {
    /// The group.
    pub group: String,
    than: String,
    has: String,
    needed: String,
    order: &'static str,
}

impl Policies {
    /// One policy for all.
    pub fn of(passwords: PasswordPolicy, rotation: RotationPolicy) -> Self {
        Self { default: Policy { passwords, rotation }, groups: Vec::new() }
    }

    /// A policy for all, and groups with others, the first of which wins.
    ///
    /// A group that is chosen by labels must have at least the entropy, and rotate at least as often, as the default
    /// and as each group after it that the directory alone decides on: those are what its devices would come under if they
    /// said something else. What a device says can then lead to a stronger policy only. The groups before it do not
    /// matter, for a device that is in one of them by its id never comes this far.
    pub fn new(default: Policy, groups: Vec<Group>) -> Result<Self, Vec<Tempting>> {
        let mut wrong = Vec::new();
        let mut rest = groups.as_slice();
        while let Some((group, after)) = rest.split_first() {
            rest = after;
            if group.members.is_claimed() {
                let proven = after.iter().filter(|other| !other.members.is_claimed());
                let named = proven.map(|other| (format!("policy.{}", other.name), &other.policy));
                let others = std::iter::once(("the default".to_owned(), &default)).chain(named);
                wrong.extend(others.filter_map(|(than, other)| tempting(group, than, other)));
            }
        }
        if wrong.is_empty() { Ok(Self { default, groups }) } else { Err(wrong) }
    }

    /// The policy of a device.
    pub fn choose<'a>(&self, who: impl Into<Who<'a>>) -> &Policy {
        self.group_of(who).map_or(&self.default, |group| &group.policy)
    }

    /// The group that a device comes under, if it is in one.
    pub fn group_of<'a>(&self, who: impl Into<Who<'a>>) -> Option<&Group> {
        let who = who.into();
        self.groups.iter().find(|group| group.members.have(who))
    }

    /// The groups of the directory that matter here: of no others does anybody have to ask.
    pub fn directory_groups(&self) -> BTreeSet<GroupId> {
        self.groups.iter().filter_map(|group| group.members.groups.as_ref()).flatten().copied().collect()
    }

    /// The policy of devices in no group.
    pub fn default_policy(&self) -> &Policy {
        &self.default
    }

    /// The groups, first come, first served.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
}

impl Members {
    fn have(&self, Who { device, groups, about }: Who<'_>) -> bool {
        let one_fits = |patterns: &Vec<Pattern>, text| patterns.iter().any(|pattern| pattern.fits(text));
        let criteria = [
            self.devices.as_ref().map(|devices| devices.contains(&device)),
            self.groups.as_ref().map(|wanted| !wanted.is_disjoint(groups)),
            self.hosts.as_ref().map(|hosts| one_fits(hosts, about.host.as_str())),
            self.systems.as_ref().map(|systems| one_fits(systems, about.os.as_str())),
        ];
        criteria.contains(&Some(true)) && !criteria.contains(&Some(false))
    }

    /// Whether what a device says of itself has a say in it.
    pub fn is_claimed(&self) -> bool {
        self.hosts.is_some() || self.systems.is_some()
    }
}

fn tempting(group: &Group, than: String, other: &Policy) -> Option<Tempting> {
    let bits = |policy: &Policy| policy.passwords.entropy_bits();
    let often = |policy: &Policy| policy.rotation.update_frequency;
    let order = if than.starts_with("policy.") { ", or move it below that one" } else { "" };
    let (own, name) = (&group.policy, &group.name);
    let wrong = |has, needed| Some(Tempting { group: name.clone(), than, has, needed, order });
    if bits(own) < bits(other) {
        wrong(format!("{:.1} bits", bits(own)), format!("{:.1}", bits(other)))
    } else if often(own) > often(other) {
        let every = |policy| format!("an update_frequency of {}", Span(often(policy)));
        wrong(every(own), Span(often(other)).to_string())
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
