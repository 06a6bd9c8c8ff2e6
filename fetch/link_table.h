// Where blobs are that a registry has redirected to: the links, so that further ranges of a blob go
// to its storage without asking the registry each time. A link is given up as soon as it does not
// answer with the blob, and after kMaxAge. Not thread-safe.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace imagefs {

class LinkTable {
 public:
  using Clock = std::chrono::steady_clock;
  // Signed links are good for 5 minutes and more; what is older is asked for again.
  static constexpr std::chrono::minutes kMaxAge{5};
  // A registry whose links were good for one request each, kSingleUses times in a row, is asked
  // for each request for so long.
  static constexpr int kSingleUses = 3;
  static constexpr std::chrono::minutes kSingleUseHold{10};

  // What leads to a blob.
  struct Link {
    std::string url;
    std::string referer;    // to be sent along, "" = none
    bool of_image = false;  // one of the image's own URLs, or where that leads
  };

  // `registry` is who gave the link, `key` names the blob and the auth scope.
  std::optional<Link> Find(const std::string& key, Clock::time_point now);
  // The link has answered with the blob; it may be there already.
  void Worked(const std::string& registry, const std::string& key, const Link& link,
              Clock::time_point now);
  // It has not. What another request has found meanwhile stays.
  void Failed(const std::string& registry, const std::string& key, const std::string& url,
              Clock::time_point now);

 private:
  struct Entry {
    Link link;
    Clock::time_point since;
    bool used_again = false;
  };
  struct Habit {
    int single_uses = 0;  // in a row
    Clock::time_point hold_until;
  };

  absl::flat_hash_map<std::string, Entry> links_;
  absl::flat_hash_map<std::string, Habit> habits_;  // by registry
};

}  // namespace imagefs
