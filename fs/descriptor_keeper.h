// SPDX-License-Identifier: Apache-2.0
// Keeps descriptors open beyond the end of this process: in systemd's file descriptor store
// (cmd/service_manager.h) or in a dedicated process (fs/session_holder.h). Implementations are
// thread-safe; calls block on a local round trip.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/fd.h"

namespace imagefs {

struct KeptDescriptor {
  std::string name;
  Fd fd;
};

class DescriptorKeeper {
 public:
  // Names consist of letters, digits and "-".
  static constexpr size_t kMaxName = 47;

  virtual ~DescriptorKeeper() = default;
  // If it returns OK, the descriptor is kept until Drop, whatever happens to this process.
  virtual absl::Status Keep(const std::string& name, const Fd& fd) = 0;
  // An unknown name is not an error. Failures are logged.
  virtual void Drop(const std::string& name) = 0;
  // Returns the descriptors kept by earlier processes; they remain kept. Call once, before Keep.
  virtual std::vector<KeptDescriptor> Inherit() = 0;
  // This process is shutting down on request. A keeper that would otherwise start a new process for
  // the descriptors must not do so.
  virtual void Leave() {}
};

}  // namespace imagefs
