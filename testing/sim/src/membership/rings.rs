//! Who observes whom, computed anew and naively.

use super::fault::Host;
use super::names::Names;

/// The observers of a subject among those that qualify.
pub fn observers(names: &Names, subject: Host, qualifies: impl Fn(Host) -> bool) -> Vec<Host> {
    // A full mesh: everybody observes everybody.
    (0..names.len()).filter(|host| *host != subject && qualifies(*host)).collect()
}

/// How many links a member needs while all live.
pub fn wanted_links(names: &Names, _host: Host) -> usize {
    names.len() - 1
}
