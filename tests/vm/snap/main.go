// SPDX-License-Identifier: Apache-2.0
// A client of the snapshotter's own socket, for machines without containerd.
//
//	snap prepare|view KEY [PARENT]   prints a line "TYPE SOURCE OPTIONS" a mount
//	snap commit NAME KEY
//	snap stat KEY                    prints the kind; "none" when there is none
//	snap rm KEY
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func show(mounts []*types.Mount) {
	for _, mount := range mounts {
		fmt.Println(mount.Type, mount.Source, strings.Join(mount.Options, ","))
	}
}

func run(verb, key, other string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	connection, err := grpc.DialContext(ctx, "unix:///run/imagefs/snapshotter.sock",
		grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		return err
	}
	client := snapshots.NewSnapshotsClient(connection)
	switch verb {
	case "prepare":
		answer, err := client.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Snapshotter: "imagefs", Key: key, Parent: other})
		if err == nil {
			show(answer.Mounts)
		}
		return err
	case "view":
		answer, err := client.View(ctx, &snapshots.ViewSnapshotRequest{Snapshotter: "imagefs", Key: key, Parent: other})
		if err == nil {
			show(answer.Mounts)
		}
		return err
	case "commit":
		_, err = client.Commit(ctx, &snapshots.CommitSnapshotRequest{Snapshotter: "imagefs", Name: key, Key: other})
	case "rm":
		_, err = client.Remove(ctx, &snapshots.RemoveSnapshotRequest{Snapshotter: "imagefs", Key: key})
	case "stat":
		answer, err := client.Stat(ctx, &snapshots.StatSnapshotRequest{Snapshotter: "imagefs", Key: key})
		if status.Code(err) == codes.NotFound {
			fmt.Println("none")
			return nil
		}
		if err == nil {
			fmt.Println(strings.ToLower(answer.Info.Kind.String()))
		}
		return err
	default:
		return fmt.Errorf("no such verb: %s", verb)
	}
	return err
}

func main() {
	if err := run(os.Args[1], os.Args[2], strings.Join(os.Args[3:], "")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
