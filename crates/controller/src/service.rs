//! `spec.serviceRef`: where a Service of type LoadBalancer says that others reach this member. A watch follows it; what
//! was once known is kept for as long as the Service says nothing better.

use std::time::Duration;

use flagship_k8s_api::ServiceKey;
use flagship_types::PeerAddress;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{Instrument, debug};

use crate::tenure::AbortOnDrop;

/// How long a member waits for the first look at its Service before it joins or changes without it. An API server that
/// is there answers in milliseconds; one that is not must not keep a member from its fleet, whose restart grace is 3 s.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The name of the right port, or of its target, where its number does not say so.
const PORT_NAME: &str = "fleet";
/// Ports listed in one sentence.
const MAX_PORTS_NAMED: usize = 5;

/// Which Service to follow, for a daemon that listens at which port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Followed {
    namespace: String,
    name: String,
    port: u16,
}

impl Followed {
    /// Of a MultiCluster in this namespace.
    pub(crate) fn new(key: &ServiceKey, namespace: &str, port: u16) -> Self {
        let namespace = key.namespace.clone().unwrap_or_else(|| namespace.to_owned());
        Self { namespace, name: key.name.clone(), port }
    }
}

impl std::fmt::Display for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service {}/{}", self.namespace, self.name)
    }
}

/// Why the Service does not say where others reach this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Nothing comes of it by itself: somebody has to change something.
    pub stalled: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// What is missing, what to do, and what is so meanwhile.
    pub message: String,
}

/// What is known from the Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sight {
    /// Where others reach this member: as the Service says or, in trouble, as it last said.
    pub address: Option<PeerAddress>,
    pub trouble: Option<Trouble>,
    /// It was looked at, or that was tried.
    looked: bool,
}

/// A Service that is followed. Ends with this value.
pub(crate) struct ServiceWatch {
    followed: Followed,
    sight: watch::Receiver<Sight>,
    /// What was read of it last.
    last: Sight,
    _task: AbortOnDrop,
}

impl ServiceWatch {
    pub(crate) fn start(client: Client, followed: Followed) -> Self {
        let (sender, sight) = watch::channel(Sight::default());
        let task = tokio::spawn(follow(client, followed.clone(), sender).in_current_span());
        Self { followed, sight, last: Sight::default(), _task: AbortOnDrop(task) }
    }

    pub(crate) fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Reads what is known now. Returns what was read before, and this.
    pub(crate) fn read(&mut self) -> (Sight, Sight) {
        let now = self.sight.borrow_and_update().clone();
        (std::mem::replace(&mut self.last, now.clone()), now)
    }

    /// Why the address is not known or not sure, as it was read last.
    pub(crate) fn trouble(&self) -> Option<&Trouble> {
        self.last.trouble.as_ref()
    }

    /// Waits a short time for the first look.
    pub(crate) async fn first_look(&mut self) {
        // In vain: it is known later, and then told.
        let _ = tokio::time::timeout(FIRST_LOOK, self.sight.wait_for(|sight| sight.looked)).await;
    }

    /// Until something else is known than was read last.
    pub(crate) async fn changed(&mut self) {
        if self.sight.changed().await.is_err() {
            // The task ends with us only.
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps `sight` up to date for ever.
async fn follow(client: Client, followed: Followed, sight: watch::Sender<Sight>) {
    let api: Api<Service> = Api::namespaced(client, &followed.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", followed.name));
    let mut events = watch_objects(api, config).default_backoff().boxed();
    let mut listed = None;
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(service)) => {
                listed = Some(service);
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(service)) => Some(service),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                debug!(%error, service = %followed, "cannot watch the Service; it is tried again");
                sight.send_if_modified(|sight| replace(sight, refused(&followed, sight, &error)));
                continue;
            }
        };
        sight.send_if_modified(|sight| replace(sight, read(&followed, seen.as_ref(), sight)));
    }
}

fn replace(old: &mut Sight, new: Sight) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}

/// What a Service says; `None`: there is none.
fn read(followed: &Followed, service: Option<&Service>, before: &Sight) -> Sight {
    let known = before.address.clone();
    match address(followed, service, known.as_ref()) {
        Ok(address) => Sight { address: Some(address), trouble: None, looked: true },
        Err(trouble) => Sight { address: known, trouble: Some(trouble), looked: true },
    }
}

/// The API server does not show the Service. If it says why, so do we; if it is not there, that is shown elsewhere.
fn refused(followed: &Followed, before: &Sight, error: &watcher::Error) -> Sight {
    let forbidden = |code: u16| code == 401 || code == 403;
    let refusal = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => forbidden(status.code).then_some(status),
        watcher::Error::WatchError(status) => forbidden(status.code).then_some(status),
        _ => None,
    };
    let trouble = match refusal {
        Some(status) => Some(stalled(
            "ServiceForbidden",
            format!(
                "spec.serviceRef: the daemon may not watch {followed}: {}. Give its ServiceAccount get, list and \
                 watch on services, or write the address into spec.serviceAddress; {}",
                status.message,
                meanwhile(before.address.as_ref())
            ),
        )),
        None => before.trouble.clone(),
    };
    // Without an answer nothing was looked at, but what was known before still counts.
    Sight { trouble, looked: before.looked || refusal.is_some(), ..before.clone() }
}

fn address(
    followed: &Followed,
    service: Option<&Service>,
    known: Option<&PeerAddress>,
) -> Result<PeerAddress, Trouble> {
    let meanwhile = meanwhile(known);
    let Some(service) = service else {
        return Err(stalled(
            "ServiceMissing",
            format!(
                "spec.serviceRef: there is no {followed}: make it (kubectl expose deployment … \
                 --type=LoadBalancer --name={}), or write the address into spec.serviceAddress; {meanwhile}",
                followed.name
            ),
        ));
    };
    let spec = service.spec.as_ref();
    let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
    if kind != "LoadBalancer" {
        return Err(stalled(
            "ServiceType",
            format!(
                "spec.serviceRef: {followed} is of type {kind}, and only one of type LoadBalancer is looked at \
                 (not externalIPs or node ports): change its type, or write the address into \
                 spec.serviceAddress; {meanwhile}"
            ),
        ));
    }
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let port = port(ports, followed.port).ok_or_else(|| {
        let names = match ports.is_empty() {
            true => "no ports".to_owned(),
            false => format!("the ports {}", names(ports)),
        };
        stalled(
            "ServicePorts",
            format!(
                "spec.serviceRef: {followed} has {names}, and none of them is known to lead to TCP port {wanted} \
                 of the daemon (spec.port): give one of them targetPort {wanted}, or the name {PORT_NAME}; \
                 {meanwhile}",
                wanted = followed.port
            ),
        )
    })?;
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let hosts = ingress.iter().filter_map(host);
    let addresses: Vec<_> = hosts.filter_map(|host| PeerAddress::parse(host, port).ok()).collect();
    // Of several, the one in use stays for as long as it is among them, whatever their order.
    let chosen = addresses.iter().find(|address| known == Some(*address)).or(addresses.first());
    chosen.cloned().ok_or_else(|| Trouble {
        stalled: false,
        reason: "NoServiceAddress",
        message: match known {
            None => format!("{followed} has no LoadBalancer address yet; {meanwhile}"),
            Some(_) => format!("{followed} has lost its LoadBalancer address; {meanwhile}"),
        },
    })
}

fn stalled(reason: &'static str, message: String) -> Trouble {
    Trouble { stalled: true, reason, message }
}

/// What holds until the trouble is over.
fn meanwhile(known: Option<&PeerAddress>) -> String {
    match known {
        None => "other members cannot dial this one, it dials them".into(),
        Some(address) => format!("other members are still told its last address, {address}"),
    }
}

/// An entry holds an IP address or a DNS name.
fn host(ingress: &LoadBalancerIngress) -> Option<&str> {
    let given = |text: &'_ Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let of = if given(&ingress.ip) { &ingress.ip } else { &ingress.hostname };
    of.as_deref().filter(|text| !text.is_empty())
}

/// The port of the Service that leads to our own; `None`: that cannot be told.
fn port(ports: &[ServicePort], own: u16) -> Option<u16> {
    let own = i32::from(own);
    let tcp: Vec<_> =
        ports.iter().filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP"))).collect();
    let leads_to_own = |port: &ServicePort| match &port.target_port {
        Some(IntOrString::Int(target)) => *target == own,
        Some(IntOrString::String(_)) => false,
        None => port.port == own,
    };
    let is_named = |port: &ServicePort| {
        port.name.as_deref() == Some(PORT_NAME)
            || port.target_port == Some(IntOrString::String(PORT_NAME.into()))
    };
    let may_lead_to_own =
        |port: &ServicePort| port.port == own && !matches!(port.target_port, Some(IntOrString::Int(_)));
    // The only one, unless it says in numbers that it leads elsewhere: another fleet may listen there.
    let is_only_one =
        |port: &ServicePort| tcp.len() == 1 && matches!(port.target_port, Some(IntOrString::String(_)));
    let rules: [&dyn Fn(&ServicePort) -> bool; 4] =
        [&leads_to_own, &is_named, &may_lead_to_own, &is_only_one];
    let found = rules.into_iter().find_map(|rule| tcp.iter().find(|port| rule(port)))?;
    u16::try_from(found.port).ok().filter(|port| *port > 0)
}

fn names(ports: &[ServicePort]) -> String {
    let one = |port: &ServicePort| {
        let name = port.name.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let target = match &port.target_port {
            None => port.port.to_string(),
            Some(IntOrString::Int(target)) => target.to_string(),
            Some(IntOrString::String(target)) => target.clone(),
        };
        format!("{name}{}/{protocol} to {target}", port.port)
    };
    let mut text = ports.iter().take(MAX_PORTS_NAMED).map(one).collect::<Vec<_>>().join(", ");
    if ports.len() > MAX_PORTS_NAMED {
        text.push_str(&format!(" and {} more", ports.len() - MAX_PORTS_NAMED));
    }
    text
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
