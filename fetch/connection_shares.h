// SPDX-License-Identifier: Apache-2.0
// Decides which request may use a connection. Connections are a limited resource: each host has a
// limit, each registry on whose behalf requests are sent has a limit, some of the total is reserved
// for foreground work, and when requests queue up, the sources (registries, and repositories within
// each) get equal shares, whatever hosts they redirect to. A source above its share yields to
// another source's on-demand read at once, and to other requests of that source soon.
//
// Pure policy, with the time passed in; not thread-safe. The caller starts and cuts requests as
// told.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/executor.h"

namespace imagefs {

class ConnectionShares {
 public:
  using Clock = std::chrono::steady_clock;

  struct Options {
    int total = 32;
    int per_host = 8;
    int per_registry = 24;  // even if no other registry is active
    // Reserved parts of the total: the last `kept_on_demand` connections for kOnDemand, the last
    // `kept_foreground` for kOnDemand and kForeground.
    int kept_on_demand = 4;
    int kept_foreground = 8;
    // A request that has run for less than this is cut only for another source's on-demand read: it
    // may finish soon.
    std::chrono::milliseconds patience{1'000};
    // If there are more sources than connections, each runs for at least this long in turn.
    std::chrono::milliseconds turn{5'000};
  };
  explicit ConnectionShares(const Options& options) : options_(options) {}

  // What is lost if a request is cut and sent again later.
  enum class Cut {
    kResumes,   // only a little time
    kRestarts,  // all it has received: cut only if its source exceeds its share, or it is slow
    kNever      // must not be cut
  };
  struct Claim {
    std::string host;        // host to connect to: scheme, name and port
    std::string registry;    // on whose behalf
    std::string repository;  // within the registry
    PriorityRef priority;    // null = kForeground
    Cut cut = Cut::kResumes;
    // A hedge for silent requests of the same source: they yield to it.
    bool hedge = false;
  };
  // Adds a waiting request. `id`s are unique and ascend in order of arrival.
  void Add(uint64_t id, Claim claim);
  // Removes a waiting or running request. Ignores unknown ids.
  void Remove(uint64_t id);
  // Whether a running request is slower than acceptable while others wait.
  void SetSlow(uint64_t id, bool slow);
  // Whether a running request has received nothing for a while.
  void SetSilent(uint64_t id, bool silent);

  struct Step {
    enum class Kind { kStart, kCut, kWait };
    Kind kind = Kind::kWait;
    uint64_t id = 0;               // to start, or to cut
    Clock::time_point look_again;  // for kWait: when the answer may change with time alone
  };
  // Returns what to do next. The caller must comply and call again until told to wait. A request to
  // be started counts as running from now on; the caller removes a request that it cuts.
  Step Next(Clock::time_point now);

  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }

 private:
  struct Entry {
    Claim claim;
    Clock::time_point started;
    bool slow = false;
    bool silent = false;
    Priority priority() const {
      return claim.priority ? claim.priority->get() : Priority::kForeground;
    }
  };
  // Usage of one resource: the total, or one host's limit.
  struct Use {
    struct Registry {
      int running = 0;
      std::map<std::string, std::pair<int, int>> repositories;  // running, all
    };
    int running = 0;
    std::map<std::string, Registry> registries;
    void Count(const Claim& claim, int running_change, int all_change);
    const Registry& RegistryOf(const Claim& claim) const { return registries.at(claim.registry); }
    int Running(const Claim& claim) const;  // of the claim's source
    // Shares of a limit: of one registry, and of one source within it.
    int RegistryShare(int limit) const;
    int Share(const Claim& claim, int limit) const;
  };
  struct Rank;

  bool MayStart(const Entry& entry) const;
  bool TotalIsFull(Priority priority) const;
  static bool IsDueMore(const Use& use, const Entry& entry, const Entry& preempted, int limit);
  Rank RankOf(uint64_t id, const Entry& entry) const;
  const Use& UseOfHost(const Claim& claim) const { return hosts_.at(claim.host); }
  std::optional<uint64_t> FindPreempted(const Entry& entry, Clock::time_point now,
                                        Clock::time_point& look_again) const;
  bool MayCut(const Entry& preempted, const Entry& entry, const Use& use, int limit,
              Clock::time_point now, Clock::time_point& look_again) const;
  bool KeepPromise(Step& step, Clock::time_point now);
  void Start(uint64_t id, Clock::time_point now);

  const Options options_;
  std::map<uint64_t, Entry> waiting_;
  std::map<uint64_t, Entry> running_;
  // The request for which others were cut, so that those do not get back in ahead of it.
  std::optional<uint64_t> promised_;
  Use all_;
  std::map<std::string, Use> hosts_;
};

}  // namespace imagefs
