package main

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// filter drops packets at their arrival in the supervisor's own network namespace, without an answer. The sender
// cannot tell that from a dead network: its own interface is up and its sends succeed.
type filter struct {
	mu    sync.Mutex
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	set   *nftables.Set
}

// install makes the table at first use: set cut, and one rule that drops what comes from an address in it.
func (f *filter) install() error {
	if f.conn != nil {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "flagship"})
	set := &nftables.Set{Table: table, Name: "cut", KeyType: nftables.TypeIPAddr}
	if err := conn.AddSet(set, nil); err != nil {
		return err
	}
	chain := conn.AddChain(&nftables.Chain{
		Name: "arrive", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	const sourceOffset, addressLength = 12, 4 // in the IPv4 header
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: addressLength},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables in this network namespace: %w", err)
	}
	f.conn, f.table, f.chain, f.set = conn, table, chain, set
	return nil
}

// drop replaces the addresses from which nothing arrives any more.
func (f *filter) drop(from []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	elements := make([]nftables.SetElement, 0, len(from))
	for _, text := range from {
		address, err := netip.ParseAddr(text)
		if err != nil || !address.Is4() {
			return fmt.Errorf("from: %q is not an IPv4 address", text)
		}
		elements = append(elements, nftables.SetElement{Key: address.AsSlice()})
	}
	if err := f.install(); err != nil {
		return err
	}
	f.conn.FlushSet(f.set)
	if len(elements) > 0 {
		if err := f.conn.SetAddElements(f.set, elements); err != nil {
			return err
		}
	}
	return f.conn.Flush()
}

func (f *filter) heal() error { return f.drop(nil) }

// dropped tells how many packets were dropped since the start, so that a test can tell that its fault did fire.
func (f *filter) dropped() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		return 0, nil
	}
	rules, err := f.conn.GetRules(f.table, f.chain)
	if err != nil {
		return 0, err
	}
	var packets uint64
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				packets += counter.Packets
			}
		}
	}
	return packets, nil
}
