// SPDX-License-Identifier: Apache-2.0
#include "cache/window_memory.h"

#include <memory>
#include <utility>

#include "absl/synchronization/notification.h"
#include "base/log.h"
#include "base/thread_role.h"

namespace imagefs {

absl::StatusOr<ByteBudget::Lease> WindowMemory::Wait(const std::string& source, uint64_t bytes,
                                                     const CancelToken& cancel) {
  struct Answer {
    absl::StatusOr<ByteBudget::Lease> lease;
    absl::Notification given;
  };
  const auto answer = std::make_shared<Answer>();
  budget_.Take(source, bytes, cancel, [answer](absl::StatusOr<ByteBudget::Lease> lease) {
    answer->lease = std::move(lease);
    answer->given.Notify();
  });
  if (!answer->given.HasBeenNotified()) {
    LogInfo("layer.window_wait source=", source, " bytes=", bytes, " held=", budget_.held());
    MayBlock("waiting for memory");
    answer->given.WaitForNotification();
  }
  return std::move(answer->lease);
}

}  // namespace imagefs
