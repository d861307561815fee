//! Where the other members are told to dial this one, if a Service says so: part of the settings that the node is told,
//! so that a change is news of the member and no reason to join anew.

use flagship_k8s_api::Settings;
use flagship_node::Command;
use tracing::{info, warn};

use crate::events::Notice;
use crate::happenings::Happening;
use crate::member::{Change, change, node_spec};
use crate::service::{Followed, ServiceWatch, Sight};
use crate::tenure::{Member, Tenure};

impl Tenure {
    /// The settings with the address of the Service that they name, which is followed from now on. Takes a moment if
    /// it is another one than before.
    pub(crate) async fn located(&mut self, settings: Settings) -> Settings {
        let Some(key) = &settings.service else {
            self.service = None;
            return settings;
        };
        let followed = Followed::new(key, &self.identity.namespace, settings.port);
        if self.service.as_ref().is_none_or(|service| *service.followed() != followed) {
            let mut service = ServiceWatch::start(self.context.client.clone(), followed.clone());
            service.first_look().await;
            self.service = Some(service);
        }
        let Some(service) = &mut self.service else { return settings };
        let (before, now) = service.read();
        let advertised = now.address.clone();
        self.tell_of_service(&followed, &before, &now);
        Settings { advertised, ..settings }
    }

    /// Something else is known of the Service: the node is told if that is another address.
    pub(crate) async fn relocate(&mut self, member: &mut Member) {
        let settings = self.located(member.settings.clone()).await;
        if change(&member.settings, &settings) == Change::Tell {
            member.node.tell(Command::Spec(node_spec(&settings))).await;
            member.settings = settings;
        }
    }

    fn tell_of_service(&mut self, followed: &Followed, before: &Sight, now: &Sight) {
        if let Some(address) = now.address.as_ref().filter(|_| now.address != before.address) {
            info!(%address, service = %followed, "other members are told the address of the Service");
            let note = format!("other members are told to dial {address}, the address of {followed}");
            self.tell_once(Notice::normal("ServiceAddress", note));
        }
        if let Some(trouble) = now.trouble.as_ref().filter(|_| now.trouble != before.trouble) {
            warn!(reason = trouble.reason, "{}", trouble.message);
            let notice = if trouble.stalled { Notice::warning } else { Notice::normal };
            self.tell_once(notice(trouble.reason, trouble.message.clone()));
        }
    }

    /// Somebody else decides how often a Service changes.
    fn tell_once(&mut self, notice: Notice) {
        let throttle = Some(format!("service/{}", notice.note));
        self.chronicle.tell(Happening { throttle, ..Happening::new(notice).event_only() });
    }
}

/// Until something else is known of the Service that is followed, if there is one.
pub(crate) async fn service_changed(service: &mut Option<ServiceWatch>) {
    match service {
        Some(service) => service.changed().await,
        None => std::future::pending().await,
    }
}
