//! Counters.

/// What the core counted since its start. All only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Beats sent.
    pub beats_sent: u64,
    /// Beats received.
    pub beats_received: u64,
    /// Times that a member's beat was late.
    pub beats_late: u64,
    /// Beats and echoes that proved nothing: without an echo, or with one that is too old or unknown.
    pub beats_unproven: u64,
    /// Beats and pings whose sequence number was not new.
    pub frames_replayed: u64,
    /// Frames on streams that were given up or are contested.
    pub frames_ignored: u64,
    /// Members that were held Suspect.
    pub suspicions: u64,
    /// Refutations by this member.
    pub refutations: u64,
    /// Suspicions of this member's that the subject refuted.
    pub false_suspicions: u64,
    /// Members that went Down.
    pub downs: u64,
    /// Queries begun.
    pub queries: u64,
    /// Queries of others that were answered.
    pub answers: u64,
    /// Outputs dropped because nobody took them.
    pub queue_full: u64,
    /// Records, epochs and incarnations that were refused: not the sender's own, or too far ahead.
    pub refused_records: u64,
    /// Links refused because the fleet is full.
    pub refused_full: u64,
    /// Links closed because nothing fresh was heard.
    pub links_stale: u64,
    /// Second streams closed.
    pub links_duplicate: u64,
    /// Links closed because the fleet is large and neither end needed them.
    pub links_unneeded: u64,
    /// Suspicions without anybody else who could tell.
    pub suspicions_alone: u64,
    /// Digests sent because views differed.
    pub digests_sent: u64,
    /// Dials asked for.
    pub dials: u64,
    /// Times that this member's own timers were late.
    pub own_timers_late: u64,
    /// Times that this process did not run for longer than a beat interval.
    pub pauses: u64,
    /// Times that this member's epoch was raised because a peer knew a newer one.
    pub epochs_raised: u64,
}
