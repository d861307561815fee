//! Two bridges and the cables from them to the clusters: one whose paths can be cut, and one that is never cut,
//! for the harness's own eyes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The network that members talk over, as in the manifests.
const MEMBERS: Bridge = Bridge { name: "flagship-fault", prefix: [172, 18] };
/// The network that the harness watches through. 198.18.0.0/15 is reserved for benchmarks, so nothing else uses it.
const WATCH: Bridge = Bridge { name: "flagship-watch", prefix: [198, 18] };
/// Interface of the members' network inside a cluster.
const MEMBERS_INSIDE: &str = "eth0";
/// Interface of the watching network inside a cluster.
const WATCH_INSIDE: &str = "eth1";

struct Bridge {
    name: &'static str,
    prefix: [u8; 2],
}

impl Bridge {
    fn own_address(&self) -> String {
        let [a, b] = self.prefix;
        format!("{a}.{b}.0.1/16")
    }

    /// The interface at the bridge, named by the address, so that two clusters cannot take the same one.
    fn outside(&self, address: Ipv4Addr) -> String {
        let [a, _, c, d] = address.octets();
        let letter = if a == MEMBERS.prefix[0] { 'f' } else { 'w' };
        format!("flagship-{letter}{c:02x}{d:02x}")
    }
}

/// Where the clusters of a run live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each in a network namespace with its own addresses, and paths that can be cut. Linux, with the right to make
    /// interfaces: root, or inside [`crate::isolate`].
    Namespaces,
    /// All on 127.0.0.1 with distinct ports. Nothing can be cut.
    Loopback,
}

/// The address through which the harness reaches the cluster with this member address.
pub(crate) fn watch_address(member: Ipv4Addr) -> Ipv4Addr {
    let [_, _, c, d] = member.octets();
    let [a, b] = WATCH.prefix;
    Ipv4Addr::new(a, b, c, d)
}

/// Refuses an address outside of the members' network, or one that is taken by the bridge or the network itself.
pub(crate) fn check_member_address(address: Ipv4Addr) -> Result<()> {
    let [a, b, c, d] = address.octets();
    let special = [(0, 0), (0, 1), (255, 255)];
    if [a, b] != MEMBERS.prefix || special.contains(&(c, d)) {
        bail!(
            "--svc-address {address}: expected an address of 172.18.0.0/16 other than 172.18.0.0, .0.1 and .255.255"
        );
    }
    Ok(())
}

/// Hands over to the supervisor program, which knows netlink.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    supervisor: PathBuf,
}

impl Network {
    /// As it is now, with or without bridges.
    pub(crate) fn existing(supervisor: &Path) -> Self {
        Self { supervisor: supervisor.to_owned() }
    }

    /// Makes the bridges if they are missing.
    pub(crate) fn open(&self) -> Result<()> {
        for bridge in [MEMBERS, WATCH] {
            self.run(&["bridge", "--bridge", bridge.name, "--address", &bridge.own_address()])?;
        }
        Ok(())
    }

    /// Plugs the namespace of a process into both bridges.
    pub(crate) fn plug(&self, member: Ipv4Addr, pid: u32) -> Result<()> {
        let plugs = [(MEMBERS, member, MEMBERS_INSIDE), (WATCH, watch_address(member), WATCH_INSIDE)];
        for (bridge, address, inside) in plugs {
            let (outside, address) = (bridge.outside(address), format!("{address}/16"));
            let pid = pid.to_string();
            self.run(&[
                "plug",
                "--bridge",
                bridge.name,
                "--pid",
                &pid,
                "--inside",
                inside,
                "--outside",
                &outside,
                "--address",
                &address,
            ])?;
        }
        Ok(())
    }

    /// Takes a cluster's cables away.
    pub(crate) fn unplug(&self, member: Ipv4Addr) -> Result<()> {
        for (bridge, address) in [(MEMBERS, member), (WATCH, watch_address(member))] {
            self.run(&["unplug", "--outside", &bridge.outside(address)])?;
        }
        Ok(())
    }

    /// Removes the bridges that nobody is plugged into. Does not need them to exist.
    pub(crate) fn close(&self) -> Result<()> {
        for bridge in [MEMBERS, WATCH] {
            self.run(&["remove", "--bridge", bridge.name])?;
        }
        Ok(())
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(&self.supervisor)
            .arg("net")
            .args(args)
            .output()
            .with_context(|| format!("run {}", self.supervisor.display()))?;
        if !output.status.success() {
            bail!(
                "network ({}): {}",
                args.first().unwrap_or(&""),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_differ_by_address() {
        let one = MEMBERS.outside(Ipv4Addr::new(172, 18, 255, 254));
        let other = WATCH.outside(Ipv4Addr::new(198, 18, 255, 254));
        assert!(one.len() <= 15 && other.len() <= 15 && MEMBERS.name.len() <= 15, "{one} {other}");
        assert_ne!(one, other);
        assert_ne!(one, MEMBERS.outside(Ipv4Addr::new(172, 18, 254, 255)));
    }

    #[test]
    fn member_addresses_are_checked() {
        assert!(check_member_address(Ipv4Addr::new(172, 18, 100, 100)).is_ok());
        for bad in [[10, 0, 0, 1], [172, 18, 0, 1], [172, 18, 255, 255], [172, 17, 1, 1]] {
            assert!(check_member_address(bad.into()).is_err(), "{bad:?}");
        }
    }
}
