package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runNet changes the network namespace it is called in. Every command may be repeated.
func runNet(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: supervisor net bridge|plug|unplug|remove [flags]")
	}
	flags := flag.NewFlagSet("net "+args[0], flag.ExitOnError)
	bridge := flags.String("bridge", "", "name of the bridge")
	address := flags.String("address", "", "address with prefix length, for example 172.18.0.1/16")
	pid := flags.Int("pid", 0, "process whose network namespace is plugged in")
	inside := flags.String("inside", "", "interface name in that namespace")
	outside := flags.String("outside", "", "interface name at the bridge")
	_ = flags.Parse(args[1:])
	switch args[0] {
	case "bridge":
		return makeBridge(*bridge, *address)
	case "plug":
		return plug(*bridge, *pid, *inside, *outside, *address)
	case "unplug":
		return unplug(*outside)
	case "remove":
		return removeBridge(*bridge)
	default:
		return fmt.Errorf("unknown command net %s: use bridge, plug, unplug or remove", args[0])
	}
}

// makeBridge makes the bridge with our own address on it, and brings the loopback up. It refuses a network that
// another interface already has, because packets would then go to the wrong one.
func makeBridge(name, address string) error {
	own, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	if err := refuseClash(name, own); err != nil {
		return err
	}
	if loopback, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(loopback); err != nil {
			return fmt.Errorf("bring up lo: %w", err)
		}
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", name, err)
	}
	if err := setAddress(netlink.AddrReplace, link, own); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func refuseClash(name string, own netip.Prefix) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, other := range addresses {
			prefix, err := netip.ParsePrefix(other.IPNet.String())
			if err != nil || link.Attrs().Name == name || !prefix.Overlaps(own) {
				continue
			}
			return fmt.Errorf("%s is in use: interface %s has %s. If that is the Docker network of kind, remove it first (docker network rm kind)",
				own.Masked(), link.Attrs().Name, other.IPNet)
		}
	}
	return nil
}

// plug makes a veth pair between the bridge and the namespace of a process, and gives the inner end its address.
func plug(bridge string, pid int, inside, outside, address string) error {
	own, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if err := unplug(outside); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MasterIndex = outside, master.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: inside, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the veth pair %s-%s: %w", outside, inside, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("bring up %s: %w", outside, err)
	}
	namespace, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	defer namespace.Close()
	handle, err := netlink.NewHandleAt(namespace)
	if err != nil {
		return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
	}
	defer handle.Close()
	for _, name := range []string{"lo", inside} {
		link, err := handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s in the namespace: %w", name, err)
		}
		if name == inside {
			if err := setAddress(handle.AddrReplace, link, own); err != nil {
				return err
			}
		}
		if err := handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s in the namespace: %w", name, err)
		}
	}
	return nil
}

// unplug removes a veth pair at its outer end. A pair whose namespace has just died may linger for a moment.
func unplug(outside string) error {
	link, err := netlink.LinkByName(outside)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", outside, err)
	}
	return nil
}

func setAddress(replace func(netlink.Link, *netlink.Addr) error, link netlink.Link, own netip.Prefix) error {
	address := &netlink.Addr{IPNet: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), own.Addr().BitLen())}}
	if err := replace(link, address); err != nil {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, own, err)
	}
	return nil
}

// removeBridge removes the bridge unless a cluster is still plugged into it.
func removeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.Attrs().MasterIndex == link.Attrs().Index {
			return nil
		}
	}
	return netlink.LinkDel(link)
}
