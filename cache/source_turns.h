// SPDX-License-Identifier: Apache-2.0
// Decides which task gets a worker next, so that no image source keeps the workers from others. A
// source is one registry accessed with one authorization (ImageSource::registry() and auth_scope(),
// which names the repository).
//
// A task that begins before all its input is present is a stream: it may have to wait for bytes as
// long as its registry likes. Streams therefore have slots of their own, of which one registry may
// use three quarters and one source half; a task whose input is whole needs none. A stream that
// waits for bytes is not busy. Starts keep the number of busy tasks to at most `workers`, plus up
// to as many more if a source that somebody waits for has no busy task.
//
// Pure policy; not thread-safe. The caller starts the tasks it is told to.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/executor.h"

namespace imagefs {

class SourceTurns {
 public:
  struct Options {
    int workers = 2;  // > 0
    int streams = 0;  // slots; 0 = tasks start only once they are whole
  };
  explicit SourceTurns(const Options& options) : options_(options) {}

  struct Claim {
    std::string registry;
    std::string auth_scope;
    PriorityRef priority;  // null = kForeground
    bool whole = false;    // it never waits for bytes
  };
  // Adds a task that waits for its turn. `id`s are unique and ascend in the order of arrival.
  void Add(uint64_t id, Claim claim);
  // The task has ended, or was cancelled before its turn. Unknown ids are ignored, here and below.
  void Remove(uint64_t id);
  // All its input is present or will never arrive: from now on it does not wait for bytes.
  void SetWhole(uint64_t id);
  // Sets whether a running stream is waiting for bytes.
  void SetStarved(uint64_t id, bool starved);
  // Returns a task to start now, or nullopt if no more may start.
  std::optional<uint64_t> Next();

  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }
  // The maximum number of running tasks, and so of threads needed.
  int most_running() const { return 2 * options_.workers + options_.streams; }

 private:
  struct Entry {
    Claim claim;
    bool starved = false;
    Priority priority() const {
      return claim.priority ? claim.priority->get() : Priority::kForeground;
    }
    bool wanted() const { return priority() <= Priority::kForeground; }
  };
  struct Use {
    int busy = 0;
    int streams = 0;
    bool operator==(const Use&) const = default;
  };
  using SourceKey = std::pair<std::string, std::string>;
  void Count(const Entry& entry, int change);
  template <typename Key>
  static Use UseOf(const std::map<Key, Use>& uses, const Key& key);
  Use SourceUse(const Claim& claim) const;
  bool MayStart(const Entry& entry) const;
  // Lower comes first.
  auto Rank(uint64_t id, const Entry& entry) const;

  const Options options_;
  std::map<uint64_t, Entry> waiting_;
  std::map<uint64_t, Entry> running_;
  // Of running tasks.
  Use all_;
  std::map<std::string, Use> registries_;
  std::map<SourceKey, Use> sources_;
};

}  // namespace imagefs
