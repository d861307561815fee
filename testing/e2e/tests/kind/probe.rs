//! What a client of the payload and a peer of the daemon meet at a LoadBalancer's address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flagship_e2e::http_get;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each payload is asked. Also the precision of what is measured.
const EVERY: Duration = Duration::from_millis(50);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks the payload at several addresses for its page until it is dropped.
#[derive(Debug)]
pub(crate) struct Clients {
    answers: Arc<Mutex<Vec<(Instant, Ipv4Addr)>>>,
    _tasks: JoinSet<()>,
}

impl Clients {
    /// Begins to ask on port 80 of each address.
    pub(crate) fn start(addresses: &[Ipv4Addr]) -> Self {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for &address in addresses {
            tasks.spawn(ask(address, Arc::clone(&answers)));
        }
        Self { answers, _tasks: tasks }
    }

    /// All answers since a time.
    fn since(&self, since: Instant) -> Vec<(Instant, Ipv4Addr)> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter(|(at, _)| *at >= since).copied().collect()
    }

    /// Whether this address has answered within the last few attempts.
    pub(crate) fn answers_now(&self, address: Ipv4Addr) -> bool {
        let recent = Instant::now().checked_sub(PATIENCE).unwrap_or_else(Instant::now);
        self.since(recent).iter().any(|(_, from)| *from == address)
    }

    /// When this address answered first, from a time on.
    pub(crate) fn first(&self, address: Ipv4Addr, since: Instant) -> Option<Instant> {
        self.since(since).into_iter().find(|(_, from)| *from == address).map(|(at, _)| at)
    }

    /// The longest time without an answer of anybody, between two times.
    pub(crate) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for (at, _) in self.since(from).into_iter().filter(|(at, _)| *at <= to) {
            longest = longest.max(at - last);
            last = at;
        }
        longest.max(to - last)
    }

    /// For how long between two times both addresses answered: counted in slots of a quarter of a second, as answers
    /// never come at the same instant.
    pub(crate) fn both(&self, from: Instant, to: Instant) -> Duration {
        const SLOT: Duration = Duration::from_millis(250);
        let mut slots: BTreeMap<u128, Vec<Ipv4Addr>> = BTreeMap::new();
        for (at, address) in self.since(from).into_iter().filter(|(at, _)| *at <= to) {
            let slot = slots.entry((at - from).as_millis() / SLOT.as_millis()).or_default();
            if !slot.contains(&address) {
                slot.push(address);
            }
        }
        let twice = slots.values().filter(|addresses| addresses.len() > 1).count();
        SLOT * u32::try_from(twice).unwrap_or(u32::MAX)
    }
}

async fn ask(address: Ipv4Addr, answers: Arc<Mutex<Vec<(Instant, Ipv4Addr)>>>) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Ok(Ok((200, _))) = timeout(PATIENCE, http_get((address, 80), "/")).await {
            answers.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), address));
        }
    }
}

/// How dials to a daemon's address ended, and how often.
#[derive(Debug, Default, Clone)]
pub(crate) struct Dialled(BTreeMap<&'static str, usize>);

impl Dialled {
    /// Counts one more.
    pub(crate) fn add(&mut self, outcome: &'static str) {
        *self.0.entry(outcome).or_default() += 1;
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        let parts: Vec<_> = self.0.iter().map(|(outcome, count)| format!("{outcome} {count}x")).collect();
        f.write_str(&parts.join(", "))
    }
}
