// SPDX-License-Identifier: Apache-2.0
// Reports every mount and unmount in this process's namespace, whoever makes it.
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
  // `changed` runs on the watch's own thread, one call at a time.
  static absl::StatusOr<std::unique_ptr<MountWatch>> Start(std::function<void()> changed);
  // Waits for a running call.
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
