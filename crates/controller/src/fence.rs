//! Keeps the API server's own check in place: `spec.election.fencing: AdmissionPolicy`. A process that was stopped
//! between its check and its write cannot know that it was replaced; the API server can.

use std::time::Duration;

use flagship_k8s_api::FIELD_MANAGER;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::fence_policy::{POD_UID, binding, name, policy};
use crate::lease::LeaseWatch;
use crate::request::{CallError, Caller, Verb};
use crate::worker::Identity;

/// How often a fence that stands is put up again, as somebody may have changed it.
const REFRESH: Duration = Duration::from_secs(300);
/// How often one that does not stand is tried again: somebody may have given the rights.
const AGAIN: Duration = Duration::from_secs(15);

/// How the fence is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Fence {
    /// Not asked for.
    #[default]
    Off,
    /// Asked for and not there yet.
    Pending,
    /// There.
    Up {
        /// Whether the API server can tell the processes of this member apart.
        tells_processes: bool,
    },
    /// Not there.
    Missing {
        /// CamelCase.
        reason: &'static str,
        /// Why and what to do.
        message: String,
    },
}

/// The API server's check for one member.
pub(crate) struct Fencing {
    pub client: Client,
    pub caller: Caller,
    pub identity: Identity,
    /// The name of this process.
    pub holder: String,
}

impl Fencing {
    /// Keeps it as `wanted` for as long as it is polled.
    pub(crate) async fn keep(
        &self,
        lease: LeaseWatch,
        mut wanted: watch::Receiver<bool>,
        told: watch::Sender<Fence>,
    ) {
        loop {
            let is_wanted = *wanted.borrow_and_update();
            let (state, again) = match is_wanted {
                // Another replica puts up its own.
                true if lease.held_until().is_none() => (None, Some(AGAIN)),
                true => match self.put_up().await {
                    Ok(state) => (Some(state), Some(REFRESH)),
                    Err(state) => (Some(state), Some(AGAIN)),
                },
                false => match self.take_down().await {
                    Ok(()) => (Some(Fence::Off), None),
                    Err(error) => {
                        warn!(%error, "the admission policy of this member is not removed yet");
                        (None, Some(AGAIN))
                    }
                },
            };
            if let Some(state) = state {
                told.send_if_modified(|known| {
                    let changed = *known != state;
                    if changed {
                        info!(?state, "fence at the API server");
                    }
                    *known = state;
                    changed
                });
            }
            let pause = async {
                match again {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    async fn put_up(&self) -> Result<Fence, Fence> {
        let (daemon, pod) = self.who_am_i().await.map_err(|error| missing(&error))?;
        if let Some(pod) = pod.as_ref().filter(|pod| **pod != self.holder) {
            let message = format!(
                "this daemon calls itself {}, and the API server knows it as pod {pod}, so that the API server would \
                 refuse what it writes: give it the uid of its pod in POD_UID, as deploy/manager.yaml does",
                self.holder
            );
            return Err(Fence::Missing { reason: "HolderUnknown", message });
        }
        let name = name(&self.identity);
        // The policy first: a binding to none is refused by nobody and does nothing.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let policy = Patch::Apply(policy(&self.identity, &daemon));
        let policies = self.policies();
        let apply = async { policies.patch(&name, &params, &policy).await };
        self.caller.call(Verb::Patch, apply).await.map_err(|error| missing(&error))?;
        let binding = Patch::Apply(binding(&self.identity));
        let bindings = self.bindings();
        let apply = async { bindings.patch(&name, &params, &binding).await };
        self.caller.call(Verb::Patch, apply).await.map_err(|error| missing(&error))?;
        Ok(Fence::Up { tells_processes: pod.is_some() })
    }

    /// The user that the API server takes this process for, and its pod.
    async fn who_am_i(&self) -> Result<(String, Option<String>), CallError> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let (params, review) = (PostParams::default(), SelfSubjectReview::default());
        let asked = async { api.create(&params, &review).await };
        let user = self.caller.call(Verb::Create, asked).await?.status.and_then(|status| status.user_info);
        let user = user.unwrap_or_default();
        let pod =
            user.extra.and_then(|mut extra| extra.remove(POD_UID)).and_then(|uids| uids.into_iter().next());
        Ok((user.username.unwrap_or_default(), pod.filter(|pod| !pod.is_empty())))
    }

    /// Takes it down if it is there. Without the rights to know, it is taken for not there: what is left without its
    /// MultiCluster refuses nothing.
    pub(crate) async fn take_down(&self) -> Result<(), CallError> {
        let name = name(&self.identity);
        let bindings = self.bindings();
        let get = async { bindings.get_metadata_opt(&name).await };
        match self.caller.call(Verb::Get, get).await {
            Ok(Some(_)) => {}
            Ok(None) => return self.take_policy_down(&name).await,
            Err(error) if matches!(error.code(), 403 | 404) => return Ok(()),
            Err(error) => return Err(error),
        }
        let params = DeleteParams::background();
        let delete = async { bindings.delete(&name, &params).await };
        forgiving(self.caller.call(Verb::Delete, delete).await)?;
        self.take_policy_down(&name).await
    }

    async fn take_policy_down(&self, name: &str) -> Result<(), CallError> {
        let (policies, params) = (self.policies(), DeleteParams::background());
        let delete = async { policies.delete(name, &params).await };
        forgiving(self.caller.call(Verb::Delete, delete).await)
    }

    fn policies(&self) -> Api<ValidatingAdmissionPolicy> {
        Api::all(self.client.clone())
    }

    fn bindings(&self) -> Api<ValidatingAdmissionPolicyBinding> {
        Api::all(self.client.clone())
    }
}

/// What is gone is gone, and what may not be deleted is somebody else's business.
fn forgiving<T>(deleted: Result<T, CallError>) -> Result<(), CallError> {
    match deleted {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) if error.code() == 403 => {
            debug!(%error, "the admission policy stays; without its MultiCluster it refuses nothing");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn missing(error: &CallError) -> Fence {
    let (reason, message) = match error.code() {
        403 => (
            "Forbidden",
            format!(
                "the daemon may not write admission policies, which install.yaml leaves out because who may can lock the \
                 cluster: kubectl apply -f deploy/extra/fencing.yaml ({error})"
            ),
        ),
        404 => (
            "NotServed",
            format!(
                "this API server has no ValidatingAdmissionPolicies, which came with Kubernetes 1.30: upgrade it, or set spec.election.fencing to None ({error})"
            ),
        ),
        _ => ("NotYet", format!("the admission policy could not be written: {error}; it is tried again")),
    };
    Fence::Missing { reason, message }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
