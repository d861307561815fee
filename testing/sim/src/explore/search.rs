//! Depth-first through all states up to a depth; a state that was reached with more steps left is not gone through again.

use std::collections::BTreeMap;

use super::actions::Action;
use super::state::State;

/// How far to look.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Steps from the start.
    pub depth: u32,
    /// States to look at, at most.
    pub states: usize,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps made.
    pub steps: u64,
    /// All states within the depth were looked at.
    pub complete: bool,
    /// A violation, and the way to it.
    pub violation: Option<(String, Vec<Action>)>,
}

/// Looks at every state within the depth, or until something does not hold.
pub fn explore(start: &State, search: Search) -> Found {
    let mut found = Found { states: 0, steps: 0, complete: true, violation: None };
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let mut path: Vec<Action> = Vec::new();
    // A frame for each step of the present path: its state and what is left to try in it.
    let mut stack: Vec<(State, Vec<Action>)> = Vec::new();
    seen.insert(start.fingerprint(), search.depth);
    stack.push((start.clone(), reversed(start)));
    while let Some((state, left)) = stack.last_mut() {
        let Some(action) = left.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut next = state.clone();
        next.apply(action);
        found.steps += 1;
        path.push(action);
        if let Some(violation) = next.violation() {
            found.violation = Some((violation.to_owned(), path));
            break;
        }
        let remaining = search.depth - u32::try_from(path.len()).unwrap_or(u32::MAX);
        let known = seen.entry(next.fingerprint()).or_insert(u32::MAX);
        let is_new = *known == u32::MAX || *known < remaining;
        if is_new {
            *known = remaining;
        }
        if !is_new || remaining == 0 {
            path.pop();
            continue;
        }
        if seen.len() >= search.states {
            found.complete = false;
            break;
        }
        let actions = reversed(&next);
        stack.push((next, actions));
    }
    found.states = seen.len();
    found
}

fn reversed(state: &State) -> Vec<Action> {
    let mut actions = state.actions();
    actions.reverse();
    actions
}
