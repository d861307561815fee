//! Which of sheffield's two nodes the active replica of the daemon and the payload are on.

use anyhow::Result;

use crate::site::Site;

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// The one that the API server is on, and with it what the Service's address leads to.
    ControlPlane,
    Worker,
}

/// Where what has to be before a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The replica that serves the member; the other one is on the other node.
    pub(crate) active: Where,
    /// All pods of the payload; `None`: wherever they are.
    pub(crate) payload: Option<Where>,
}

impl Where {
    fn other(self) -> Self {
        match self {
            Self::ControlPlane => Self::Worker,
            Self::Worker => Self::ControlPlane,
        }
    }

    fn node(self, site: &Site) -> &str {
        match self {
            Self::ControlPlane => site.control_plane(),
            Self::Worker => site.worker(),
        }
    }
}

impl Placement {
    /// Lets the next pod of the daemon, the only one there will be, come where the active replica has to be.
    pub(crate) async fn prepare(self, site: &Site) -> Result<()> {
        site.schedule_only_on(self.active.node(site)).await
    }

    /// With the active replica in its place: adds the other one, moves the payload, and lets pods go anywhere again.
    pub(crate) async fn complete(self, site: &Site) -> Result<()> {
        site.schedule_only_on(self.active.other().node(site)).await?;
        site.scale(2).await?;
        if let Some(payload) = self.payload {
            site.move_payload_to(payload.node(site)).await?;
        }
        site.schedule_anywhere().await
    }
}
