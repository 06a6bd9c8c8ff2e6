// Which piece of work may have a worker next, so that no source of images keeps the workers from
// others. A source is one registry reached with one authorisation (ImageSource::registry() and
// auth scope(), which names the repository).
//
// Work that begins before all its input is here is a stream: it may have to wait for bytes, for as
// long as its registry likes. So streams have places of their own, of which a registry has three
// quarters and a source half; work whose input is whole needs none. A stream that waits for bytes
// is not busy. At most `workers` are busy where a start can help it, and up to as many more when a
// source that somebody waits for has none that is.
//
// Pure policy; not thread-safe. The caller starts what it is told to.
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
    int streams = 0;  // places; 0 = whatever is submitted starts when it is whole
  };
  explicit SourceTurns(const Options& options) : options_(options) {}

  struct Claim {
    std::string registry;
    std::string auth_scope;
    PriorityRef priority;  // null = kForeground
    bool whole = false;    // it never waits for bytes
  };
  // `id`s are unique and ascend in the order of arrival. It waits for its turn from now on.
  void Add(uint64_t id, Claim claim);
  // It has ended, or is given up before its turn. Unknown ids are passed over, here and below.
  void Remove(uint64_t id);
  // All its input is here, or will never come: from now on it does not wait for bytes.
  void SetWhole(uint64_t id);
  // Whether a stream that runs waits for bytes.
  void SetStarved(uint64_t id, bool starved);
  // What runs from now on; nullopt: nothing more may.
  std::optional<uint64_t> Next();

  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }
  // What may run at once: so many threads are needed.
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
  // Less comes first.
  auto Rank(uint64_t id, const Entry& entry) const;

  const Options options_;
  std::map<uint64_t, Entry> waiting_;
  std::map<uint64_t, Entry> running_;
  // Of what runs.
  Use all_;
  std::map<std::string, Use> registries_;
  std::map<SourceKey, Use> sources_;
};

}  // namespace imagefs
