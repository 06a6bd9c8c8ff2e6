// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/status.h"
#include "base/thread_role.h"

namespace imagefs {

absl::StatusOr<std::unique_ptr<MountWatch>> MountWatch::Start(std::function<void()> changed) {
  std::unique_ptr<MountWatch> watch(new MountWatch(std::move(changed)));
  IMAGEFS_ASSIGN_OR_RETURN(watch->mountinfo_, OpenFile("/proc/self/mountinfo", O_RDONLY));
  watch->stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!watch->stop_.valid()) return ErrnoStatus(errno, "cannot make an eventfd");
  watch->thread_ = std::thread([watch = watch.get()] { watch->Watch(); });
  return watch;
}

MountWatch::~MountWatch() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
  thread_.join();
}

// The kernel reports changes of the mount table as an exceptional condition on mountinfo.
void MountWatch::Watch() {
  EnterThread(ThreadRole::kMounts);
  while (true) {
    pollfd polled[2] = {{stop_.get(), POLLIN, 0}, {mountinfo_.get(), POLLPRI, 0}};
    if (poll(polled, 2, -1) < 0 && errno != EINTR) {
      LogError("mountinfo_poll_failed errno=", errno);
      return;
    }
    if (polled[0].revents != 0) return;
    if (polled[1].revents != 0) changed_();
  }
}

}  // namespace imagefs
