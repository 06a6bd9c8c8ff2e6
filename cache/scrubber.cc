// SPDX-License-Identifier: Apache-2.0
#include "cache/scrubber.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "base/thread_role.h"

namespace imagefs {
namespace {

constexpr absl::Duration kAfterStart = absl::Seconds(30);
constexpr absl::Duration kLookAgain = absl::Minutes(10);

void RunWhenIdle() {
  const sched_param none = {};
  (void)sched_setscheduler(0, SCHED_IDLE, &none);
  constexpr int kThisThread = 1, kIdleClass = 3 << 13;  // linux/ioprio.h
  (void)syscall(SYS_ioprio_set, kThisThread, 0, kIdleClass);
}

}  // namespace

Scrubber::Scrubber(const Options& options, Next next, Check check)
    : options_(options), next_(std::move(next)), check_(std::move(check)) {
  if (options_.interval > absl::ZeroDuration() && options_.bytes_per_second > 0) {
    thread_ = std::thread([this] { Loop(); });
  }
}

Scrubber::~Scrubber() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  stop_.SignalAll();
  if (thread_.joinable()) thread_.join();
}

bool Scrubber::Sleep(absl::Duration pause) {
  const Moment end = Moment::Now() + pause;
  absl::MutexLock lock(&mu_);
  while (!stopping_ && stop_.WaitUntil(&mu_, end)) {
  }
  return !stopping_;
}

void Scrubber::Loop() {
  EnterThread(ThreadRole::kScrub);
  RunWhenIdle();
  const auto pace = [this](size_t bytes) {
    return Sleep(
        absl::Seconds(static_cast<double>(bytes) / static_cast<double>(options_.bytes_per_second)));
  };
  for (bool go_on = Sleep(kAfterStart); go_on;) {
    if (const std::optional<Digest> id = next_(); id.has_value()) {
      check_(*id, pace);
      go_on = Sleep(absl::ZeroDuration());
    } else {
      go_on = Sleep(kLookAgain);
    }
  }
}

}  // namespace imagefs
