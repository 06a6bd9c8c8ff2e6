// SPDX-License-Identifier: Apache-2.0
// The file tree of a container, in a mount namespace that only it has: the image, an overlay over
// it, /proc, /sys and /dev as programs expect them, and what the caller binds. Everything is
// mounted by descriptors below the root of the overlay, so that no link of the image leads a mount
// elsewhere, and ends with the namespace.
//
// For a process with one thread and CAP_SYS_ADMIN over its mount, PID and IPC namespaces.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/run_args.h"

namespace imagefs {

class ContainerTree {
 public:
  struct Options {
    std::vector<BindArg> binds;   // sources are absolute
    std::string keep;             // absolute: what is written stays there; "" = in memory
    bool read_only = false;       // the overlay; what is bound, /dev and /dev/shm are not
    bool user_namespace = false;  // this process is root of one only
    bool all_ids = true;          // that namespace has more ids than the caller's
    bool terminal = false;        // standard input is one, which is /dev/console then
  };
  explicit ContainerTree(Options options) : options_(std::move(options)) {}

  // Opens what comes from this machine. Errors are the caller's: a source that does not exist, a
  // directory to keep that is in use.
  absl::Status Open();
  // Has the daemon mount the image, over a channel (cmd/mount_channel.h); `run` is any directory
  // that exists, for as long as this namespace needs one to mount on. The daemon is told of errors
  // in its part.
  absl::Status MountImage(const Fd& channel, const std::string& run);
  // Mounts the rest, makes `directory` if it is missing, and makes the tree the root of this
  // process and its namespace. Nothing else of the machine's tree is left in it.
  absl::Status Enter(const std::string& directory);

 private:
  struct FromMachine {
    std::string destination;
    Fd mount;  // detached
    bool directory = false;
  };
  absl::Status OpenBind(const BindArg& bind);
  absl::Status MakeOverlayHere();
  absl::Status MountProc();
  absl::Status MountDev();
  absl::Status Bind(const FromMachine& from);
  absl::Status Pivot();

  const Options options_;
  Fd old_root_, keep_lock_;
  std::vector<FromMachine> files_, devices_, binds_;
  Fd sys_;
  std::string place_;  // the directory with the parts of the overlay
  Fd image_, root_;    // roots of the image and of the overlay
};

}  // namespace imagefs
