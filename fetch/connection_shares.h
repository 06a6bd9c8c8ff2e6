// Who may use a connection now. Connections are a budget: each host that is connected to has a
// limit, each registry on whose account requests are sent has a limit, some of the whole is kept
// for what somebody waits for, and where requests wait, the sources (registries, and their
// repositories within each) have equal shares, whatever hosts they redirect to. A source that holds
// more than its share gives way to another's reader at once, to other requests of it soon.
//
// Pure policy, with the time passed in; not thread-safe. The caller starts and cuts as it is told.
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
    int per_registry = 24;  // also while nobody else asks
    // Of the total: the last ones are for what a reader waits for (kOnDemand), these and a few more
    // for that and for kForeground.
    int kept_on_demand = 4;
    int kept_foreground = 8;
    // What runs for less than this is cut for another source's reader only: it may soon be over.
    std::chrono::milliseconds patience{1'000};
    // With more sources than connections, each has its turn of at least this.
    std::chrono::milliseconds turn{5'000};
  };
  explicit ConnectionShares(const Options& options) : options_(options) {}

  // What is lost when a request is cut and asked again later.
  enum class Cut {
    kResumes,   // a little time
    kRestarts,  // what came so far: only where its source holds more than its share, or it is slow
    kNever      // it must not be cut
  };
  struct Claim {
    std::string host;        // that is connected to: scheme, name and port
    std::string registry;    // on whose account
    std::string repository;  // of it
    PriorityRef priority;    // null = kForeground
    Cut cut = Cut::kResumes;
    // It is asked because others of its source are silent: they give way to it.
    bool hedge = false;
  };
  // `id`s are unique and ascend in the order of arrival. It waits from now on.
  void Add(uint64_t id, Claim claim);
  // It waits or runs no longer. Unknown ids are passed over.
  void Remove(uint64_t id);
  // Whether what runs is slower than is acceptable while others wait.
  void SetSlow(uint64_t id, bool slow);
  // Whether nothing has come of what runs for a while.
  void SetSilent(uint64_t id, bool silent);

  struct Step {
    enum class Kind { kStart, kCut, kWait };
    Kind kind = Kind::kWait;
    uint64_t id = 0;               // to start, or to cut
    Clock::time_point look_again;  // of kWait: when time alone may change the answer
  };
  // What to do next. The caller obeys and asks again until it is told to wait: what is to be
  // started runs from now on, what is to be cut is removed by the caller.
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
  // Who uses one resource: the whole, or one host's limit.
  struct Use {
    struct Registry {
      int running = 0;
      std::map<std::string, std::pair<int, int>> repositories;  // running, all
    };
    int running = 0;
    std::map<std::string, Registry> registries;
    void Count(const Claim& claim, int running_change, int all_change);
    const Registry& RegistryOf(const Claim& claim) const { return registries.at(claim.registry); }
    int Running(const Claim& claim) const;  // of the source
    // Of a limit, of a registry and of a source within it.
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
  // For which something was cut, so that what was cut does not come before it again.
  std::optional<uint64_t> promised_;
  Use all_;
  std::map<std::string, Use> hosts_;
};

}  // namespace imagefs
