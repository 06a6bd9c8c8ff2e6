// SPDX-License-Identifier: Apache-2.0
// A container for one program: new mount, PID, IPC and UTS namespaces, without root also a user
// namespace; network and control groups are the caller's. Nothing of it outlives the process that
// created it: no mount, no file, no process, even if that is killed.
//
// Two processes of the command use it: one that supervises, and one that has the daemon mount the
// image. REQUIRES: one thread in the process that creates it. Not thread-safe.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"
#include "cmd/run_args.h"
#include "cmd/run_spec.h"

namespace imagefs {

class Container {
 public:
  struct Options {
    std::vector<BindArg> binds;  // sources are absolute
    std::string keep;            // absolute; "" = what is written is discarded
    bool read_only = false;
  };
  // Creates the namespaces and their first process, which gets no descriptors but 0 to 2.
  static absl::StatusOr<std::unique_ptr<Container>> Create(Options options);
  // Kills it, in the process that created it.
  ~Container();

  // Of the process that has the image mounted. Prepare waits until the namespace can take it;
  // kAborted means that the container has failed, and has said why.
  struct Place {
    uint64_t mount_namespace = 0;
    FileId covered;
  };
  absl::StatusOr<Place> Prepare();
  // `channel` is that of the mount (cmd/mount_channel.h), `run` a directory that exists.
  absl::Status TakeImage(const Fd& channel, const std::string& run);
  absl::Status Start(const RunSpec& spec);
  // The signals of this process as they were before Create.
  void RestoreSignals();

  // Of the supervising process: maps the ids of the user namespace, passes signals on to the
  // program, and stops and continues with it. `caller` is the child that has the image mounted,
  // whose failure is the container's. Returns the exit status of the program, or kCannotRun, or
  // that of `caller` if it was interrupted.
  absl::StatusOr<int> Supervise(pid_t caller);

 private:
  Container() = default;
  absl::Status Clone(Options options);
  absl::Status MapIdsOfInit();
  void HandleSignal(int signal, bool sent);
  void PassOn(int signal);
  bool HandleChildren();
  void SuspendWithProgram();
  void Continue();
  bool HasTerminal() const;

  sigset_t signals_before_;
  bool terminal_ = false;  // the program gets the caller's, with a process group of its own
  pid_t creator_ = 0, init_ = 0, caller_ = 0;
  Fd control_, mapped_;
  std::vector<int> early_signals_;  // came while caller_ was there
  int status_ = 0;                  // once init_ has ended, or caller_ has failed
};

}  // namespace imagefs
