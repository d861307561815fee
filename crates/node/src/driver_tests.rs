use flagship_membership::LinkId;
use flagship_types::PeerAddress;

use super::*;
use crate::machine::tests::{founder_config, unsigned};
use crate::ports::{LinkWarning, LocalHello, StoreError};

struct Nobody;

impl Links for Nobody {
    fn connect(&self, _: &PeerAddress) {}
    fn send(&self, _: LinkId, _: flagship_wire::PeerMessage) {}
    fn close(&self, _: LinkId, _: CloseCode) {}
    fn set_hello(&self, _: LocalHello) {}
}

#[async_trait::async_trait]
impl Store for Nobody {
    async fn persist(&self, _: &DurableRecord) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The transport repeats a warning after an hour at the earliest, so that the first one must not be lost.
#[tokio::test]
async fn what_is_told_before_anybody_subscribes_is_heard() {
    let (links, link_events) = mpsc::channel(1);
    let warning = LinkWarning { peer: None, sentence: "tls.crt expires in 2 d".into() };
    links.send(LinkEvent::Warning(warning.clone())).await.unwrap();
    let (_node, mut events, ended) =
        spawn(founder_config(), Arc::new(Nobody), Arc::new(unsigned), link_events, Arc::new(Nobody));
    // The node ends with its links, before anybody looks.
    drop(links);
    ended.await.unwrap();
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event);
    }
    let is_it = |event: &NodeEvent| matches!(event, NodeEvent::LinkWarning(told) if *told == warning);
    assert!(told.iter().any(is_it), "{told:?}");
}
