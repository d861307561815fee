//! What is counted for the whole process: API requests, frames and connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metric::{API_REQUESTS, FRAME_BYTES, FRAMES, REFUSED_CONNECTIONS, STATEMENTS};
use crate::page::Page;

/// What the links of the process have carried so far, all peers together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkFigures {
    /// Frames by direction and kind.
    pub frames: Vec<FrameFigures>,
    /// Connections refused before their fleet was known, by a bounded reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Records and accusations whose signature was found good.
    pub statements_verified: u64,
    /// Records and accusations that were dropped because nothing good vouched for them.
    pub statements_refused: u64,
}

/// Frames of one direction and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFigures {
    /// Sent by us; else received.
    pub sent: bool,
    /// A bounded word for what they carried.
    pub kind: &'static str,
    /// How many.
    pub frames: u64,
    /// Their bytes before TLS.
    pub bytes: u64,
}

type LinkSource = Box<dyn Fn() -> LinkFigures + Send + Sync>;

/// Counts for the whole process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Recorder {
    /// By verb and status code; code 0: no answer. Bounded by the verbs in the source and 500 codes.
    requests: Arc<Mutex<BTreeMap<(&'static str, u16), u64>>>,
    links: Arc<Mutex<Option<LinkSource>>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// A request to the API server ended: its verb, and its HTTP status code, or 0 without an answer.
    pub fn api_request(&self, verb: &'static str, code: u16) {
        let code = if (100..600).contains(&code) { code } else { 0 };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((verb, code)).or_insert(0) += 1;
    }

    /// Where the figures of the links are read at every scrape.
    pub fn links_from(&self, source: impl Fn() -> LinkFigures + Send + Sync + 'static) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(source));
    }

    pub(crate) fn put(&self, page: &mut Page) {
        for ((verb, code), count) in &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            let code = if *code == 0 { "none".into() } else { code.to_string() };
            page.put(API_REQUESTS, &[verb, &code], *count);
        }
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(figures) = links.as_ref().map(|source| source()) else { return };
        for figure in figures.frames {
            let labels = [if figure.sent { "sent" } else { "received" }, figure.kind];
            page.put(FRAMES, &labels, figure.frames);
            page.put(FRAME_BYTES, &labels, figure.bytes);
        }
        for (reason, count) in figures.refused {
            page.put(REFUSED_CONNECTIONS, &[reason], count);
        }
        page.put(STATEMENTS, &["verified"], figures.statements_verified);
        page.put(STATEMENTS, &["refused"], figures.statements_refused);
    }
}
