// SPDX-License-Identifier: Apache-2.0
// containerd's own snapshotter suite against our socket: each of its tests gets a daemon, a store
// and a connection of its own. Built by tests/lib/conformance.sh from Debian's packages, in GOPATH
// mode.
package conformance

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func accepts(socket string) bool {
	connection, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	connection.Close()
	return true
}

func start(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	run, err := os.MkdirTemp(os.Getenv("IMAGEFS_RUN_DIRS"), "run")
	if err != nil {
		return nil, nil, err
	}
	output, err := os.Create(filepath.Join(run, "output"))
	if err != nil {
		return nil, nil, err
	}
	daemon := exec.Command(os.Getenv("IMAGEFSD"), "--root", filepath.Join(root, "store"), "--run", run, "daemon")
	daemon.Stdout, daemon.Stderr = output, output
	if err := daemon.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	socket := filepath.Join(run, "snapshotter.sock")
	for !accepts(socket) {
		select {
		case err := <-ended:
			return nil, nil, fmt.Errorf("the daemon ended: %v; see %s", err, output.Name())
		case <-time.After(10 * time.Millisecond):
		}
	}
	connection, err := grpc.Dial("unix:"+socket, grpc.WithInsecure())
	if err != nil {
		return nil, nil, err
	}
	stop := func() error {
		connection.Close()
		daemon.Process.Signal(os.Interrupt)
		return <-ended
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "imagefs"), stop, nil
}

func TestSnapshotter(t *testing.T) {
	// By this name the suite knows what an overlay cannot do: rename a directory of a lower layer.
	testsuite.SnapshotterSuite(t, "overlayfs", start)
}
