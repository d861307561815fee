//go:build unix && !linux

package main

import "errors"

var errLinuxOnly = errors.New("network namespaces exist on Linux only")

type filter struct{}

func (*filter) drop([]string) error      { return errLinuxOnly }
func (*filter) heal() error              { return errLinuxOnly }
func (*filter) dropped() (uint64, error) { return 0, errLinuxOnly }

func runNet([]string) error { return errLinuxOnly }
