//! The reference page of the command line is the generated one.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[test]
fn the_reference_page_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let page = flagship_cli::cli_reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == page, "{path} differs; if that is meant: UPDATE_DOCS=1 cargo test -p flagship-cli");
}
