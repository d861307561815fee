//! What Docker knows and does: the node of a cluster, its addresses, the network, our images.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::tool::{SHORT, docker, only, output};
use crate::progress::say;

/// The Docker network of all kind clusters.
const NETWORK: &str = "kind";
/// The interface of a node on that network.
const INTERFACE: &str = "eth0";
/// Marks images and networks as made by this harness, so that it removes no others.
pub(super) const LABEL: &str = "flagship.kube-vip.io/made-by=clusters";

/// The container that is a node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: String,
    /// Docker's word: `running`, `paused`, `exited`.
    pub(super) state: String,
    pub(super) container: String,
}

impl Node {
    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }

    #[cfg(test)]
    pub(super) fn new(cluster: &str, id: &str, state: &str) -> Self {
        let container = format!("{cluster}-control-plane");
        Self { id: id.to_owned(), state: state.to_owned(), container }
    }
}

/// Whether `docker` and `kind` are there and the engine answers.
pub(super) async fn check_tools() -> Result<()> {
    docker(&["--version"]).await?;
    docker(&["version", "--format", "{{.Server.Version}}"])
        .await
        .context("the Docker engine does not answer: start it, or set DOCKER_HOST to the one to use")?;
    output("kind", &["version"], SHORT).await.map(drop)
}

/// Whether containers run under control groups of version 1, which the kubelet refuses unless it is told otherwise.
pub(super) async fn has_cgroup_v1() -> Result<bool> {
    Ok(docker(&["info", "--format", "{{.CgroupVersion}}"]).await?.trim() == "1")
}

/// The control-plane node of a cluster; `None` if there is no such cluster.
pub(super) async fn node(cluster: &str) -> Result<Option<Node>> {
    Ok(nodes_of_role(cluster, "control-plane").await?.into_iter().next())
}

/// The other nodes of a cluster.
pub(super) async fn workers(cluster: &str) -> Result<Vec<Node>> {
    nodes_of_role(cluster, "worker").await
}

async fn nodes_of_role(cluster: &str, role: &str) -> Result<Vec<Node>> {
    let cluster = format!("label=io.x-k8s.kind.cluster={cluster}");
    let role = format!("label=io.x-k8s.kind.role={role}");
    let format = "{{.ID}} {{.State}} {{.Names}}";
    let args = [
        "container",
        "ls",
        "--all",
        "--no-trunc",
        "--filter",
        &cluster,
        "--filter",
        &role,
        "--format",
        format,
    ];
    Ok(docker(&args).await?.lines().filter_map(parse_node).collect())
}

fn parse_node(line: &str) -> Option<Node> {
    let mut words = line.split_whitespace().map(str::to_owned);
    Some(Node { id: words.next()?, state: words.next()?, container: words.next()? })
}

/// Starts a node that was stopped or paused, and says so.
pub(super) async fn wake(node: &Node) -> Result<Option<String>> {
    let verb = match node.state.as_str() {
        "running" => return Ok(None),
        "paused" => "unpause",
        _ => "start",
    };
    say(&format!("{} is {}: docker {verb}", node.container, node.state));
    docker(&[verb, &node.container]).await?;
    Ok(Some(format!("the node, which was {}", node.state)))
}

/// Makes the network if no kind cluster has made it yet, and refuses an address outside of it.
pub(super) async fn ensure_network(address: Ipv4Addr) -> Result<()> {
    let Some(network) = network().await? else {
        let [a, b, ..] = address.octets();
        let subnet = format!("{a}.{b}.0.0/16");
        say(&format!("making the Docker network {NETWORK}, {subnet}"));
        let args =
            ["network", "create", "--driver", "bridge", "--subnet", &subnet, "--label", LABEL, NETWORK];
        return docker(&args).await.map(drop);
    };
    let subnets = list(&network["IPAM"]["Config"], "Subnet");
    if subnets.iter().any(|subnet| contains(subnet, address)) {
        return Ok(());
    }
    bail!(
        "--svc-address {address} is outside of the Docker network {NETWORK} ({}): choose an address in it, and put the same one into spec.serviceAddress; or, with no kind cluster left, `docker network rm {NETWORK}`, and this harness makes it anew",
        subnets.join(", ")
    )
}

/// Refuses an address that Docker has given away.
pub(super) async fn check_address_is_free(address: Ipv4Addr) -> Result<()> {
    let Some(network) = network().await? else { return Ok(()) };
    match holder(&network, address) {
        Some(holder) => {
            bail!("--svc-address {address}: {holder} has it on the Docker network {NETWORK}, choose another")
        }
        None => Ok(()),
    }
}

/// Removes the network, if this harness made it and nobody is on it.
pub(super) async fn remove_network() -> Result<()> {
    let Some(network) = network().await? else { return Ok(()) };
    let (key, value) = LABEL.split_once('=').unwrap_or((LABEL, ""));
    let used = network["Containers"].as_object().is_some_and(|containers| !containers.is_empty());
    if network["Labels"][key] == value && !used {
        docker(&["network", "rm", NETWORK]).await?;
    }
    Ok(())
}

async fn network() -> Result<Option<Value>> {
    let filter = format!("name=^{NETWORK}$");
    let found = docker(&["network", "ls", "--quiet", "--filter", &filter]).await?;
    match found.split_whitespace().next() {
        Some(id) => only(&docker(&["network", "inspect", id]).await?).map(Some),
        None => Ok(None),
    }
}

fn list(entries: &Value, field: &str) -> Vec<String> {
    let entries = entries.as_array().into_iter().flatten();
    entries.filter_map(|entry| entry[field].as_str()).map(str::to_owned).collect()
}

/// Who has an address on a network: its gateway, or a container.
fn holder(network: &Value, address: Ipv4Addr) -> Option<String> {
    let address = address.to_string();
    if list(&network["IPAM"]["Config"], "Gateway").contains(&address) {
        return Some("the gateway".to_owned());
    }
    let mut containers = network["Containers"].as_object().into_iter().flatten();
    containers.find_map(|(_, container)| {
        let (has, _) = container["IPv4Address"].as_str()?.split_once('/')?;
        (has == address).then(|| format!("container {}", container["Name"].as_str().unwrap_or("?")))
    })
}

fn contains(subnet: &str, address: Ipv4Addr) -> bool {
    let parse = || {
        let (base, bits) = subnet.split_once('/')?;
        Some((base.parse::<Ipv4Addr>().ok()?, bits.parse::<u32>().ok()?))
    };
    parse().is_some_and(|(base, bits)| {
        let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits)).unwrap_or(0);
        u32::from(base) & mask == u32::from(address) & mask
    })
}

/// Puts an address on the node's interface, so that it answers for it on the network. It goes when the node restarts.
pub(super) async fn ensure_address(node: &Node, address: Ipv4Addr) -> Result<Option<String>> {
    let shown =
        docker(&["exec", &node.container, "ip", "-4", "-oneline", "address", "show", "dev", INTERFACE])
            .await?;
    if has_address(&shown, address) {
        return Ok(None);
    }
    let address = format!("{address}/32");
    docker(&["exec", &node.container, "ip", "address", "replace", &address, "dev", INTERFACE]).await?;
    Ok(Some(format!("the address {address} on {}", node.container)))
}

/// Whether `ip -oneline address` shows it.
fn has_address(shown: &str, address: Ipv4Addr) -> bool {
    let address = format!("{address}/32");
    shown.lines().any(|line| line.split_whitespace().any(|word| word == address))
}

/// Sends what is for the pods of another node to that node, as kind's own node image has its daemon do. It goes when the
/// node restarts.
pub(super) async fn ensure_route(container: &str, pods: &str, via: &str) -> Result<Option<String>> {
    let shown = docker(&["exec", container, "ip", "-4", "-oneline", "route", "show", pods]).await?;
    if has_route(&shown, via) {
        return Ok(None);
    }
    docker(&["exec", container, "ip", "route", "replace", pods, "via", via]).await?;
    Ok(Some(format!("the route to the pods {pods} on {container}")))
}

/// Whether `ip route show` has one over this node.
fn has_route(shown: &str, via: &str) -> bool {
    let words: Vec<&str> = shown.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["via", via])
}

/// Whether the node has an image.
pub(super) async fn has_image(node: &Node, image: &str) -> Result<bool> {
    let listed =
        docker(&["exec", &node.container, "ctr", "--namespace=k8s.io", "images", "ls", "--quiet"]).await?;
    let full = full_name(image);
    Ok(listed.lines().any(|line| line.trim() == full))
}

/// An image's name as containerd keeps it: `flagship:0.1.0` is `docker.io/library/flagship:0.1.0`.
fn full_name(image: &str) -> String {
    match image.split_once('/') {
        None => format!("docker.io/library/{image}"),
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
    }
}

/// Removes images of this harness that have lost their name to a newer one.
pub(super) async fn prune_images() -> Result<()> {
    docker(&["image", "prune", "--force", "--filter", &format!("label={LABEL}")]).await.map(drop)
}

/// Removes all images that this harness built.
pub(super) async fn remove_images() -> Result<()> {
    let listed = docker(&["image", "ls", "--quiet", "--filter", &format!("label={LABEL}")]).await?;
    let mut args = vec!["image", "rm", "--force"];
    args.extend(listed.split_whitespace());
    if args.len() > 3 {
        docker(&args).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 100, 100);

    #[test]
    fn a_node_is_read_from_dockers_list() {
        let node = parse_node("4f1e exited newyork-control-plane").unwrap();
        assert_eq!(node, Node::new("newyork", "4f1e", "exited"));
        assert!(!node.is_running());
        assert_eq!(parse_node(""), None);
    }

    #[test]
    fn subnets_hold_their_addresses() {
        for subnet in ["172.18.0.0/16", "172.18.100.100/32", "0.0.0.0/0"] {
            assert!(contains(subnet, ADDRESS), "{subnet}");
        }
        for subnet in
            ["172.19.0.0/16", "172.18.100.0/32", "fc00:f853:ccd:e793::/64", "nonsense", "172.18.0.0/x"]
        {
            assert!(!contains(subnet, ADDRESS), "{subnet}");
        }
    }

    #[test]
    fn who_has_an_address_is_named() {
        let network = json!({
            "IPAM": {"Config": [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}, {"Subnet": "fc00::/64"}]},
            "Containers": {"4f1e": {"Name": "web", "IPv4Address": "172.18.0.2/16"}},
        });
        assert_eq!(list(&network["IPAM"]["Config"], "Subnet"), ["172.18.0.0/16", "fc00::/64"]);
        assert_eq!(holder(&network, Ipv4Addr::new(172, 18, 0, 1)).unwrap(), "the gateway");
        assert_eq!(holder(&network, Ipv4Addr::new(172, 18, 0, 2)).unwrap(), "container web");
        assert_eq!(holder(&network, ADDRESS), None);
    }

    #[test]
    fn an_address_on_the_node_is_seen() {
        let shown = "17: eth0    inet 172.18.0.2/16 brd 172.18.255.255 scope global eth0\\       valid_lft forever\n\
                     17: eth0    inet 172.18.100.100/32 scope global eth0\\       valid_lft forever";
        assert!(has_address(shown, ADDRESS));
        assert!(!has_address(shown, Ipv4Addr::new(172, 18, 100, 10)));
    }

    #[test]
    fn a_route_over_another_node_is_seen() {
        let shown = "10.244.1.0/24 via 172.18.0.3 dev eth0";
        assert!(has_route(shown, "172.18.0.3"));
        assert!(!has_route("10.244.1.0/24 via 172.18.0.30 dev eth0", "172.18.0.3"));
        assert!(!has_route("10.244.1.0/24 dev eth0 scope link", "172.18.0.3"));
    }

    #[test]
    fn images_have_full_names() {
        assert_eq!(full_name("flagship:0.1.0"), "docker.io/library/flagship:0.1.0");
        assert_eq!(full_name("me/flagship:0.1.0"), "docker.io/me/flagship:0.1.0");
        assert_eq!(full_name("ghcr.io/me/flagship:0.1.0"), "ghcr.io/me/flagship:0.1.0");
        assert_eq!(full_name("localhost:5000/flagship"), "localhost:5000/flagship");
    }
}
