//! What a command leaves behind: tables for people, JSON for programs.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};

/// Lines around the header and below the rows, none between rows.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('═').junction('═'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// Writes `value` to the file `target`, or to standard output where it is `-`.
pub(crate) fn write_json(target: &str, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    if target == "-" {
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    }
    std::fs::write(Path::new(target), text).with_context(|| format!("{target} cannot be written"))
}

/// A line for people; it goes to standard error where JSON goes to standard output, so that both can be read.
pub(crate) fn say(json: Option<&str>, text: impl std::fmt::Display) {
    // A closed pipe leaves nobody to tell.
    let _ = if json == Some("-") {
        writeln!(std::io::stderr().lock(), "{text}")
    } else {
        writeln!(std::io::stdout().lock(), "{text}")
    };
}

/// An empty table in the house style.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table
}

/// A bar of `steps` steps; it is drawn on a terminal only.
pub(crate) fn progress(what: &str, steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps).with_style(style).with_prefix(what.to_owned())
}

/// A sign that something is done of which nobody knows how far it is; it is drawn on a terminal only.
pub(crate) fn waiting(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A share of 0 to 1 in percent, with as many digits as it needs.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.2}", 100.0 * share);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A count, in thousands where it is large.
pub(crate) fn count(count: f64) -> String {
    if count >= 10_000.0 { format!("{:.0}k", count / 1000.0) } else { format!("{count:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_the_digits_that_they_need() {
        assert_eq!([0.0, 0.005, 0.1, 0.12345, 1.0].map(percent), ["0 %", "0.5 %", "10 %", "12.35 %", "100 %"]);
        assert_eq!([0.0, 9000.0, 20_000.0].map(count), ["0", "9000", "20k"]);
    }
}
