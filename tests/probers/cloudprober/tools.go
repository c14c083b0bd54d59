//go:build tools

// Package tools pins the version of a peer of the probes' benchmark.
package tools

import _ "github.com/cloudprober/cloudprober/cmd/cloudprober"
