// Tells when something was mounted or unmounted in this process's namespace, by whomever.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

class MountWatch {
 public:
  // `changed` runs on a thread of the watch's own, one call after the other.
  static absl::StatusOr<std::unique_ptr<MountWatch>> Start(std::function<void()> changed);
  // Waits for a call under way.
  ~MountWatch();

 private:
  explicit MountWatch(std::function<void()> changed) : changed_(std::move(changed)) {}
  void Watch();

  const std::function<void()> changed_;
  Fd mountinfo_;
  Fd stop_;
  std::thread thread_;
};

}  // namespace imagefs
