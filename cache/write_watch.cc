// SPDX-License-Identifier: Apache-2.0
#include "cache/write_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/thread_role.h"

namespace imagefs {

WriteWatch::WriteWatch()
    : inotify_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)), stop_(eventfd(0, EFD_CLOEXEC)) {
  if (inotify_.valid() && stop_.valid()) thread_ = std::thread([this] { Loop(); });
}

WriteWatch::~WriteWatch() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  while (write(stop_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  thread_.join();
}

void WriteWatch::Add(const std::string& path, std::function<void()> changed) {
  absl::MutexLock lock(&mu_);
  const int watch =
      inotify_.valid() ? inotify_add_watch(inotify_.get(), path.c_str(), IN_MODIFY) : -1;
  if (watch >= 0) {
    std::vector<Watched>& names = watched_[watch];
    std::erase_if(names, [&](const Watched& one) { return one.path == path; });
    names.push_back({path, std::move(changed)});
  } else if (!std::exchange(told_, true)) {
    LogWarning("store.not_watched path=", path, " errno=", errno,
               " remedy=raise fs.inotify.max_user_watches or fs.inotify.max_user_instances");
  }
}

void WriteWatch::Remove(const std::string& path) {
  absl::MutexLock lock(&mu_);
  for (auto it = watched_.begin(); it != watched_.end(); ++it) {
    if (std::erase_if(it->second, [&](const Watched& one) { return one.path == path; }) == 0) {
      continue;
    }
    if (!it->second.empty()) return;
    (void)inotify_rm_watch(inotify_.get(), it->first);
    watched_.erase(it);
    return;
  }
}

void WriteWatch::Loop() {
  EnterThread(ThreadRole::kWatch);
  std::array<pollfd, 2> waits = {pollfd{inotify_.get(), POLLIN, 0}, pollfd{stop_.get(), POLLIN, 0}};
  alignas(inotify_event) std::array<char, 16384> buffer;
  while (true) {
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return;
    if ((waits[1].revents & POLLIN) != 0) return;
    const ssize_t got = read(inotify_.get(), buffer.data(), buffer.size());
    if (got <= 0) continue;
    std::vector<std::function<void()>> calls;
    {
      absl::MutexLock lock(&mu_);
      for (ssize_t at = 0; at < got;) {
        inotify_event event;
        std::memcpy(&event, buffer.data() + at, sizeof(event));
        at += static_cast<ssize_t>(sizeof(event) + event.len);
        const auto add = [&](const std::vector<Watched>& names) {
          for (const Watched& one : names) calls.push_back(one.changed);
        };
        if ((event.mask & IN_Q_OVERFLOW) != 0) {
          // A change was lost: it may concern any of the files.
          for (const auto& [watch, names] : watched_) add(names);
        } else if (const auto it = watched_.find(event.wd); it == watched_.end()) {
          continue;
        } else if ((event.mask & IN_IGNORED) != 0) {
          watched_.erase(it);  // the file is gone
        } else {
          add(it->second);
        }
      }
    }
    for (const auto& call : calls) call();
  }
}

}  // namespace imagefs
