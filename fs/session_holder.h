// Descriptors in a process of their own, imagefs-holder (cmd/holder_main.cc), for daemons without a
// service manager that could keep them. It listens as <run>/holder.sock, is started when there is
// something to hold, and ends when there is nothing. Where nobody else starts a daemon again that
// was killed, it does, so that readers of its mounts do not wait for ever. Thread-safe.
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
    // Runs a daemon in the place of one that was killed; the first is the program's path, the
    // second its name. Empty: somebody else does.
    std::vector<std::string> restart;
    // How long the holder leaves it to others to start one.
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
