//! `spec.election.fencing: AdmissionPolicy` on a real API server: a process that was stopped between its leadership check
//! and its write, and replaced meanwhile, changes nothing; everybody else goes on as before.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clusters::fleet::{Member, Plan};
use flagship_e2e::{World, e2e};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "kube-vip-multi-cluster-system";
const ACCOUNT: &str = "kube-vip-multi-cluster-controller-manager";
const NAME: &str = "flagship.default.newyork";
/// Objects of its own kind: the daemon's Deployment, in two pods.
const PODS: [&str; 2] = ["replica-one", "replica-two"];

fn one() -> Result<Vec<Plan>> {
    Ok(vec![Plan::from_manifest("newyork")?])
}

/// A daemon's pod, as far as the API server cares: it exists, and tokens are bound to it.
struct Replica {
    uid: String,
    kubeconfig: PathBuf,
}

impl Replica {
    async fn new(member: &Member, name: &str) -> Result<Self> {
        let client = member.cluster.client().await?;
        let container = json!({"name": "manager", "image": "flagship:0.1.0", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM},
            "spec": {"serviceAccountName": ACCOUNT, "containers": [container], "securityContext":
                {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}},
        });
        member.cluster.apply(pod).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
        let uid = pods.get(name).await?.uid().context("a pod without uid")?;
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name.into()),
            uid: Some(uid.clone()),
        };
        let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, SYSTEM);
        let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
        let token = made.status.context("no token was made")?.token;
        let kubeconfig = std::fs::read_to_string(member.cluster.daemon_kubeconfig())?;
        let mut kubeconfig: Value = serde_saphyr::from_str(&kubeconfig)?;
        kubeconfig["users"][0]["user"] = json!({ "token": token });
        let path = member.cluster.dir().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, kubeconfig.to_string())?;
        Ok(Self { uid, kubeconfig: path })
    }

    /// A process of this pod that takes itself for `holder`.
    fn writer(&self, holder: &str, stop: bool) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_late-writer"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--holder", holder]);
        if stop {
            command.arg("--stop");
        }
        command.stdout(Stdio::piped()).spawn().context("start the writer")
    }
}

/// Until the process is stopped, by itself.
async fn stopped(child: &Child) -> Result<Pid> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let wait = tokio::task::spawn_blocking(move || waitpid(pid, Some(WaitPidFlag::WUNTRACED)));
    match tokio::time::timeout(MINUTE, wait).await.context("the writer does not stop")??? {
        WaitStatus::Stopped(pid, Signal::SIGSTOP) => Ok(pid),
        other => bail!("the writer did not get to its writes: {other:?}"),
    }
}

/// What became of its writes: update, create, delete.
async fn said(child: Child) -> Result<Vec<String>> {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(MINUTE, output).await.context("the writer does not end")???;
    ensure!(output.status.success(), "the writer failed: {output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn member_api(client: Client) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kube-vip.io", "v1alpha1", "MultiCluster"));
    Api::namespaced_with(client, "default", &resource)
}

/// What the status says of who writes.
async fn set_status(member: &Member, status: Value) -> Result<()> {
    let api = member_api(member.cluster.client().await?);
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status("newyork", &PatchParams::default(), &patch).await.map(drop).context("patch the status")
}

/// An object of the payload, made by an administrator, whom the fence does not concern. Gone again: the other one.
async fn object(member: &Member) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(member.cluster.client().await?, "default");
    let _ = api.delete("fenced-new", &Default::default()).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fenced", "namespace": "default",
        "labels": {"kube-vip.io/multicluster": "default.newyork"}}, "data": {"written-by": "administrator"}});
    member.cluster.apply(map).await.map(drop)
}

/// Who wrote the two objects last; `None`: not there.
async fn writers(member: &Member) -> Result<[Option<String>; 2]> {
    let api: Api<ConfigMap> = Api::namespaced(member.cluster.client().await?, "default");
    let mut found = [None, None];
    for (at, name) in ["fenced", "fenced-new"].into_iter().enumerate() {
        let map = api.get_opt(name).await?;
        found[at] = map.and_then(|map| map.data?.remove("written-by"));
    }
    Ok(found)
}

/// Asks for the fence; it comes up once the daemon has the rights.
async fn fence(world: &World) -> Result<()> {
    let newyork = world.member("newyork");
    newyork.apply().await?;
    newyork.wait_leading(MINUTE).await?;
    world.patch(newyork, json!({"spec": {"election": {"fencing": "AdmissionPolicy"}}})).await?;
    world.condition("newyork", "Fenced", "False", "kubectl apply -f deploy/extra/fencing.yaml").await?;
    let rights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/extra/fencing.yaml");
    for document in serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(rights)?)? {
        newyork.cluster.apply(document).await?;
    }
    // The harness's daemon is no pod.
    world.condition("newyork", "Fenced", "True", "TermOnly").await
}

/// Waits until the API server judges: a process of another pod than the one that serves newyork is refused.
async fn in_effect(member: &Member, [serving, other]: [&Replica; 2]) -> Result<()> {
    let deadline = Instant::now() + MINUTE;
    loop {
        object(member).await?;
        let lines = said(other.writer(&serving.uid, false)?).await?;
        if lines.iter().all(|line| line.contains("flagship fencing")) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing is refused: {lines:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the API server, which looks at a copy of the object, judges that pod by its newest status: what the pod
/// wants to try is refused. Until then, for some milliseconds, a write of that pod would pass.
async fn judged_anew(member: &Member, pod: &Replica, because: &str) -> Result<()> {
    let config = Kubeconfig::read_from(&pod.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let maps = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let api: Api<DynamicObject> = Api::namespaced_with(Client::try_from(config)?, "default", &maps);
    let term = member.state().status("newyork", "term").as_i64().context("a term")?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "fenced-probe", "namespace": "default",
            "labels": {"kube-vip.io/multicluster": "default.newyork"},
            "annotations": {"kube-vip.io/term": term.to_string()}},
    });
    // Not a dry run: those are not judged.
    let params = PatchParams::apply("flagship").force();
    let deadline = Instant::now() + MINUTE;
    loop {
        match api.patch("fenced-probe", &params, &Patch::Apply(&map)).await {
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(because) => {
                return Ok(());
            }
            _ => ensure!(Instant::now() < deadline, "the change of the status is not seen"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_process_that_was_replaced_while_it_was_stopped_writes_nothing() {
    e2e("a_process_that_was_replaced_while_it_was_stopped_writes_nothing", one(), async |world| {
        fence(world).await?;
        let newyork = world.member("newyork");
        // From here on the two pods below are newyork's daemons.
        newyork.kill().await?;
        let (first, second) = (Replica::new(newyork, PODS[0]).await?, Replica::new(newyork, PODS[1]).await?);
        set_status(newyork, json!({"holder": first.uid})).await?;
        in_effect(newyork, [&first, &second]).await?;

        // Who serves the member writes as ever, also after a stop.
        for stop in [false, true] {
            object(newyork).await?;
            let writer = first.writer(&first.uid, stop)?;
            if stop {
                kill(stopped(&writer).await?, Signal::SIGCONT)?;
            }
            ensure!(said(writer).await? == ["update ok", "create ok", "delete ok"], "the leader was refused");
        }

        // Replaced: the other pod serves it under the same term.
        object(newyork).await?;
        let writer = first.writer(&first.uid, true)?;
        let pid = stopped(&writer).await?;
        set_status(newyork, json!({"holder": second.uid})).await?;
        judged_anew(newyork, &first, "").await?;
        kill(pid, Signal::SIGCONT)?;
        let lines = said(writer).await?;
        let refused = |line: &&String| line.contains("refused: 403") && line.contains("does not serve");
        ensure!(lines.len() == 3 && lines.iter().filter(refused).count() == 3, "not all refused: {lines:#?}");
        ensure!(writers(newyork).await? == [Some("administrator".into()), None], "it changed something");
        let lines = said(second.writer(&second.uid, false)?).await?;
        ensure!(lines == ["update ok", "create ok", "delete ok"], "its successor was refused: {lines:#?}");
        Ok(())
    });
}

#[test]
fn a_process_that_missed_a_term_creates_and_changes_nothing() {
    e2e("a_process_that_missed_a_term_creates_and_changes_nothing", one(), async |world| {
        fence(world).await?;
        let newyork = world.member("newyork");
        newyork.kill().await?;
        let (first, second) = (Replica::new(newyork, PODS[0]).await?, Replica::new(newyork, PODS[1]).await?);
        set_status(newyork, json!({"holder": first.uid})).await?;
        in_effect(newyork, [&first, &second]).await?;
        let term = newyork.state().status("newyork", "heldTerm").as_i64().context("newyork leads")?;
        for (changed, word) in [
            (json!({"heldTerm": term + 1}), "leads under term"),
            (json!({"heldTerm": null}), "does not lead"),
            (json!({"stopping": term}), "is giving up the lead"),
        ] {
            object(newyork).await?;
            set_status(newyork, json!({"heldTerm": term, "stopping": null})).await?;
            let writer = first.writer(&first.uid, true)?;
            let pid = stopped(&writer).await?;
            set_status(newyork, changed).await?;
            judged_anew(newyork, &first, word).await?;
            kill(pid, Signal::SIGCONT)?;
            let lines = said(writer).await?;
            let refused =
                lines[..2].iter().filter(|line| line.contains("refused: 403") && line.contains(word));
            ensure!(refused.count() == 2, "not refused with {word:?}: {lines:#?}");
            ensure!(
                lines[2] == "delete ok",
                "without the lead there is nothing to do but to delete: {lines:#?}"
            );
            ensure!(writers(newyork).await? == [None, None], "it changed something");
        }
        Ok(())
    });
}

#[test]
fn nobody_else_is_locked_out_and_the_fence_goes_with_its_member() {
    e2e("nobody_else_is_locked_out_and_the_fence_goes_with_its_member", one(), async |world| {
        fence(world).await?;
        let newyork = world.member("newyork");
        // The daemon itself still corrects what somebody changes: an administrator, whom nobody refuses.
        let before = world.facts("newyork")?;
        let deployments = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"));
        let api: Api<DynamicObject> =
            Api::namespaced_with(newyork.cluster.client().await?, "default", &deployments);
        let name = api.list(&Default::default()).await?.items.first().context("no payload")?.name_any();
        api.delete(&name, &Default::default()).await.context("an administrator deletes")?;
        let again = newyork.watch.wait("the daemon applies it again", MINUTE, |state| {
            state.deployment().is_some_and(|(uid, _)| uid != before.uid)
        });
        again.await?;
        // The garbage collector took the old one's pods, and the controllers made new ones.
        let ready = newyork.watch.wait("its pods are up", MINUTE, clusters::fleet::payload_ready);
        ready.await?;

        newyork.delete().await?;
        let client = newyork.cluster.client().await?;
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client);
        ensure!(bindings.get_opt(NAME).await?.is_none(), "the binding outlived its member");
        ensure!(policies.get_opt(NAME).await?.is_none(), "the policy outlived its member");
        newyork.wait_gone(MINUTE).await.map(drop)
    });
}
