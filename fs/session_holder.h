// SPDX-License-Identifier: Apache-2.0
// Keeps descriptors in a process of their own, imagefs-holder (cmd/holder_main.cc), for daemons
// without a service manager that could keep them. The holder listens at <run>/holder.sock, is
// started when there is something to hold, and exits when there is nothing left. If nothing else
// restarts a killed daemon, the holder does, so that readers of its mounts do not block forever.
// Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "fs/descriptor_keeper.h"
#include "fs/holder_protocol.h"

namespace imagefs {

class SessionHolder : public DescriptorKeeper {
 public:
  struct Options {
    std::string run_dir;
    std::string program;  // imagefs-holder
    // The command that replaces a killed daemon: the program's path, followed by its argv. Empty:
    // something else restarts it.
    std::vector<std::string> restart;
    // How long the holder waits for something else to start one.
    absl::Duration restart_after = absl::Seconds(10);
  };
  explicit SessionHolder(Options options) : options_(std::move(options)) {}

  absl::Status Keep(const std::string& name, const Fd& fd) override ABSL_LOCKS_EXCLUDED(mu_);
  void Drop(const std::string& name) override ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<KeptDescriptor> Inherit() override ABSL_LOCKS_EXCLUDED(mu_);
  void Leave() override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Status ConnectLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status StartLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status SpawnHolder(const Fd& listener) const;
  absl::StatusOr<Fd> RestartPipe() const;
  absl::StatusOr<HolderMessage> CallLocked(HolderMessage::Kind kind, const std::string& name,
                                           const Fd* fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<HolderMessage> ReceiveLocked(Fd* fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ListLocked(std::vector<KeptDescriptor>& out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  absl::Mutex mu_;
  Fd connection_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
