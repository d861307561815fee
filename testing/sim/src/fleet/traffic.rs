//! What each process sends, stores and does within a second of virtual time, held to bounds (invariant 16). A core that
//! answers itself without end would fill the memory of a run before any other checker sees it: the run ends there, also
//! when virtual time stands still.
//!
//! The bounds have about four times what 20,000 seeds of all plans showed (fleets of 2 to 7, 503 virtual hours): at most
//! 11 election messages and 55 turns of the loop a second for each other member, and 10 records. Each process is counted
//! anew for each second and from its start.

use crate::clock::{Nanos, ms};
use crate::paths::Host;

/// What is counted starts again at every multiple of this.
const WINDOW: Nanos = ms(1_000);
/// Election messages sent, for each other member.
const MESSAGES: u32 = 40;
/// Records that are to become durable, however many members there are.
const RECORDS: u32 = 40;
/// Turns of the node's loop, for each other member: what arrives wakes it, and its own timers.
const TURNS: u32 = 220;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// An election message was sent.
    Message,
    /// A record is to become durable.
    Record,
    /// The node's loop ran.
    Turn,
}

impl Load {
    const ALL: usize = 3;

    /// The most of a process with so many other members.
    fn bound(self, others: u32) -> u32 {
        match self {
            Self::Message => MESSAGES * others,
            Self::Record => RECORDS,
            Self::Turn => TURNS * others,
        }
    }

    /// In words.
    fn name(self) -> &'static str {
        match self {
            Self::Message => "sends election messages",
            Self::Record => "asks for records to be stored",
            Self::Turn => "turns its loop",
        }
    }
}

/// What one process did in the present window.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    process: u64,
    number: u64,
    counts: [u32; Load::ALL],
}

/// The counters of all hosts' processes.
#[derive(Debug)]
pub(crate) struct Traffic {
    windows: Vec<Window>,
    exceeded: bool,
}

impl Traffic {
    pub(crate) fn of(hosts: usize) -> Self {
        Self { windows: vec![Window::default(); hosts], exceeded: false }
    }

    /// Some process passed a bound: the run is over.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    /// Counts one more. What is said of the first one above a bound; the run ends with it.
    pub(crate) fn count(&mut self, host: Host, process: u64, load: Load, now: Nanos) -> Option<String> {
        let others = u32::try_from(self.windows.len()).unwrap_or(u32::MAX).saturating_sub(1).max(1);
        let number = now / WINDOW;
        let window = &mut self.windows[host];
        if (window.process, window.number) != (process, number) {
            *window = Window { process, number, counts: [0; Load::ALL] };
        }
        let count = &mut window.counts[load as usize];
        *count += 1;
        let bound = load.bound(others);
        if *count <= bound || self.exceeded {
            return None;
        }
        self.exceeded = true;
        let took = (now - number * WINDOW) / ms(1);
        Some(format!("{} more than {bound} times in {took} ms", load.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_at_one_instant_is_told_once() {
        let mut traffic = Traffic::of(2);
        let told: Vec<_> = (0..1_000).filter_map(|_| traffic.count(1, 1, Load::Message, ms(5))).collect();
        assert_eq!(told, ["sends election messages more than 40 times in 5 ms"]);
        assert!(traffic.is_exceeded());
    }

    #[test]
    fn each_second_each_process_and_each_load_count_for_themselves() {
        let mut traffic = Traffic::of(3);
        for second in 0..4 {
            for process in 1..4 {
                for load in [Load::Message, Load::Record, Load::Turn] {
                    for _ in 0..load.bound(2) {
                        assert_eq!(traffic.count(2, process, load, ms(1_000) * second), None);
                    }
                }
            }
        }
        assert!(!traffic.is_exceeded());
        assert_eq!((Load::Message.bound(2), Load::Record.bound(2), Load::Turn.bound(2)), (80, 40, 440));
    }
}
