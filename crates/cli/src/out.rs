//! Standard output: a reader that went away (`| head`) is no error.

use std::io::{ErrorKind, Write as _};

use crate::exit::Stop;

pub(crate) fn print(text: &str) -> Result<(), Stop> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Stop::failure(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
