// Keeps descriptors where the end of this process does not take them along: in systemd's store
// (cmd/service_manager.h) or in a process that does nothing else (fs/session_holder.h).
// Implementations are thread-safe; calls block on a local round trip.
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
  // Of letters, digits and "-".
  static constexpr size_t kMaxName = 47;

  virtual ~DescriptorKeeper() = default;
  // OK: it is kept until Drop, whatever becomes of this process.
  virtual absl::Status Keep(const std::string& name, const Fd& fd) = 0;
  // What is not there is no error. A failure is logged.
  virtual void Drop(const std::string& name) = 0;
  // What processes before this one had kept, and which stays kept. To be called once, before Keep.
  virtual std::vector<KeptDescriptor> Inherit() = 0;
  // This process ends because it was told to: where the keeper starts another one for what it
  // keeps, it is not to.
  virtual void Leave() {}
};

}  // namespace imagefs
