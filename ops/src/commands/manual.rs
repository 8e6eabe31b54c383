//! What the command says of itself, for shells and for `man`.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Arguments;
use crate::failure::{OfFile as _, OrFail as _, Result};
use crate::output::say;

pub(super) fn completions(shell: Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keyturn", &mut text);
    say!("{}", String::from_utf8_lossy(&text).trim_end());
}

/// A page for the command and one for each below it, named as git names its own: `keyturn-device-hold.1`.
pub(super) fn pages(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).written_to(folder)?;
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    page(folder, &command, "keyturn")
}

fn page(folder: &Path, command: &clap::Command, name: &str) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    Man::new(command.clone()).title(name.to_uppercase()).render(&mut text).or_defect()?;
    fs::write(&path, text).written_to(&path)?;
    let mut below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.try_for_each(|below| page(folder, below, &format!("{name}-{}", below.get_name())))
}
