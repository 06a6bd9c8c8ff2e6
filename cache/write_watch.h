// SPDX-License-Identifier: Apache-2.0
// Notifies when somebody writes to a file that must not be written to, by inotify. It does not see
// writes through a mapping, by another machine, or to the disk below the file system.
//
// Thread-safe.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"

namespace imagefs {

class WriteWatch {
 public:
  // If inotify limits are exhausted, nothing is watched; this is logged once.
  WriteWatch();
  ~WriteWatch();
  WriteWatch(const WriteWatch&) = delete;
  WriteWatch& operator=(const WriteWatch&) = delete;

  // Calls `changed` (on the watch's thread; it must not block) whenever the file is written to or
  // truncated, until Remove.
  void Add(const std::string& path, std::function<void()> changed);

  // Stops watching a file added under that path. `changed` may still run.
  void Remove(const std::string& path);

 private:
  struct Watched {
    std::string path;
    std::function<void()> changed;
  };
  void Loop();

  Fd inotify_, stop_;
  absl::Mutex mu_;
  // By inode, which may have several names.
  absl::flat_hash_map<int, std::vector<Watched>> watched_ ABSL_GUARDED_BY(mu_);
  bool told_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last
};

}  // namespace imagefs
