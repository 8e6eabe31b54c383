//! `keyturn explain`: the page of a code. The pages are in the program, so that it works where nothing else does.

use keyturn_service::failure::pages;
use serde_json::json;

use crate::cli::Output;
use crate::failure::{Code, OrFail as _, Result};
use crate::output::{self, quoted, say};

pub(super) fn run(output: Output, code: Option<&str>) -> Result<()> {
    let Some(code) = code else { return list(output) };
    let unknown = format!("{}: there is no such code; `keyturn explain` lists them", quoted(code));
    let (code, page) = pages::find(code).or_fail(Code::NothingByThatName, unknown)?;
    match output {
        Output::Json => output::json(&json!({"code": code, "title": pages::title(page), "page": page})),
        Output::Text => {
            say!("{}", page.trim_end());
            Ok(())
        }
    }
}

fn list(output: Output) -> Result<()> {
    let all: Vec<_> = pages::all().map(|(code, page)| (code, pages::title(page))).collect();
    let cells = all.iter().map(|(code, title)| [(*code).to_owned(), (*title).to_owned()]);
    let value: Vec<_> = all.iter().map(|(code, title)| json!({"code": code, "title": title})).collect();
    output::table(output, ["CODE", "TITLE"], cells, &value)
}
