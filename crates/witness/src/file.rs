//! One fleet's record, in memory and in its file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use flagship_node::{DurableRecord, KnownMember, Restored, Store, StoreError};
use flagship_types::{Callsign, Epoch, MemberName};

use crate::error::StateError;
use crate::format::Memory;
use crate::state_dir::StateDir;

/// What a node starts with.
#[derive(Debug, PartialEq)]
pub(crate) struct Start {
    /// The first start with this file.
    pub(crate) begun: Epoch,
    pub(crate) epoch: Epoch,
    pub(crate) restored: Restored,
    pub(crate) known: Vec<KnownMember>,
}

/// The record of one fleet. Writes follow each other: each has all that was said before.
#[derive(Debug)]
pub(crate) struct FleetFile {
    dir: Arc<StateDir>,
    path: PathBuf,
    callsign: Callsign,
    state: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// `None`: there was no file, and nothing was said yet.
    memory: Option<Memory>,
    /// What the file has for certain; `None`: nothing, or it is not known after a write that failed.
    durable: Option<Memory>,
}

impl FleetFile {
    /// Reads the record. One that is not there is no error: this voter has none yet, and does not vote before the
    /// others have told it theirs. One that cannot be believed is.
    pub(crate) fn open(dir: Arc<StateDir>, callsign: Callsign) -> Result<Self, StateError> {
        let path = dir.file_of(&callsign);
        let memory = match dir.read(&path)? {
            None => None,
            Some(content) => {
                let memory = Memory::from_bytes(&content)
                    .map_err(|problem| StateError::Unreadable { file: path.clone(), problem })?;
                Some(memory)
            }
        };
        if let Some(memory) = &memory
            && memory.callsign != callsign
        {
            return Err(StateError::OtherFleet { file: path, found: memory.callsign.clone(), callsign });
        }
        let state = Mutex::new(Kept { durable: memory.clone(), memory });
        Ok(Self { dir, path, callsign, state })
    }

    /// A new start: its epoch is above every one before, and stored when this returns. Blocks.
    pub(crate) fn begin(&self, member: &MemberName, wall_ms: u64) -> Result<Start, StateError> {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.memory.clone();
        if let Some(before) = before.as_ref().filter(|before| before.member != *member) {
            let (file, found) = (self.path.clone(), before.member.clone());
            return Err(StateError::OtherMember { file, found, member: member.clone() });
        }
        let memory = before.unwrap_or_else(|| Memory {
            callsign: self.callsign.clone(),
            member: member.clone(),
            begun: Epoch(wall_ms),
            epoch: Epoch(0),
            election: None,
            peers: Vec::new(),
        });
        let epoch = Epoch(wall_ms.max(memory.epoch.0.saturating_add(1)));
        let memory = Memory { epoch, ..memory };
        self.write(&mut kept, memory.clone())?;
        let known_peers = memory.peers.iter().map(|peer| peer.name.clone()).collect();
        let restored = Restored { record: memory.election, found_running: None, known_peers, lapse: None };
        Ok(Start { begun: memory.begun, epoch, restored, known: memory.peers })
    }

    /// Whom it met, and where. Blocks.
    pub(crate) fn remember(&self, peers: Vec<KnownMember>) -> Result<(), StateError> {
        self.edit(|memory| memory.peers = peers)
    }

    /// Returns only when the record would survive the loss of the machine. Blocks.
    fn store(&self, record: DurableRecord) -> Result<(), StateError> {
        self.edit(|memory| {
            memory.epoch = record.epoch;
            memory.election = Some(record.election);
        })
    }

    fn edit(&self, edit: impl FnOnce(&mut Memory)) -> Result<(), StateError> {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = kept.memory.clone().expect("a node runs after `begin` only, which leaves a memory");
        edit(&mut memory);
        // The version is not stored: it counts within a process.
        if let Some(election) = &mut memory.election {
            election.version = 0;
        }
        self.write(&mut kept, memory)
    }

    fn write(&self, kept: &mut Kept, memory: Memory) -> Result<(), StateError> {
        if kept.durable.as_ref() == Some(&memory) {
            kept.memory = Some(memory);
            return Ok(());
        }
        let text = memory
            .to_text()
            .map_err(|error| StateError::io("encode the record for", &self.path)(error.into()))?;
        // Later writes have it too, whatever becomes of this one: it may be in the file already.
        kept.memory = Some(memory.clone());
        kept.durable = None;
        self.dir.replace(&self.path, text.as_bytes())?;
        kept.durable = Some(memory);
        Ok(())
    }
}

/// The file as the node's durable memory.
pub(crate) struct FileStore(pub(crate) Arc<FleetFile>);

#[async_trait]
impl Store for FileStore {
    async fn persist(&self, record: &DurableRecord) -> Result<(), StoreError> {
        let (file, record) = (Arc::clone(&self.0), record.clone());
        let stored = tokio::task::spawn_blocking(move || file.store(record)).await;
        let stored = stored.map_err(|error| StoreError(error.to_string()))?;
        stored.map_err(|error| StoreError(error.to_string()))
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
