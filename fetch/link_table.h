// SPDX-License-Identifier: Apache-2.0
// Remembers where a registry redirected for a blob, so that further ranges go directly to its
// storage. A link is dropped once it does not deliver the blob, and after kMaxAge. Not thread-safe.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace imagefs {

class LinkTable {
 public:
  using Clock = std::chrono::steady_clock;
  // Signed links are valid for at least 5 minutes; older ones are requested again.
  static constexpr std::chrono::minutes kMaxAge{5};
  // If kSingleUses consecutive links of a registry worked for one request each, its links are not
  // reused for kSingleUseHold.
  static constexpr int kSingleUses = 3;
  static constexpr std::chrono::minutes kSingleUseHold{10};

  // A location of a blob.
  struct Link {
    std::string url;
    std::string referer;    // to send with the request, "" = none
    bool of_image = false;  // one of the image's own URLs, or a redirect from it
  };

  // `registry` gave the link; `key` names the blob and the auth scope.
  std::optional<Link> Find(const std::string& key, Clock::time_point now);
  // The link delivered the blob. It may already be known.
  void Worked(const std::string& registry, const std::string& key, const Link& link,
              Clock::time_point now);
  // The link failed. Keeps a different one that another request has found meanwhile.
  void Failed(const std::string& registry, const std::string& key, const std::string& url,
              Clock::time_point now);

 private:
  struct Entry {
    Link link;
    Clock::time_point since;
    bool used_again = false;
  };
  struct Habit {
    int single_uses = 0;  // consecutive
    Clock::time_point hold_until;
  };

  absl::flat_hash_map<std::string, Entry> links_;
  absl::flat_hash_map<std::string, Habit> habits_;  // by registry
};

}  // namespace imagefs
