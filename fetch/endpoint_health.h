// SPDX-License-Identifier: Apache-2.0
// How the endpoints of registries have answered recently: which to leave out for a while, and which
// delivered wrong bytes. Shared by all requests, so that a dead mirror is waited for once and not
// for each blob.
//
// A failing endpoint is left out for a pause that doubles with each failure in a row, with jitter,
// and is at least what the server asked for (Retry-After). After the pause one request tries it
// again; the others keep leaving it out until that one has been answered. An endpoint that is left
// out is still asked if no other has an answer.
//
// The time is passed in. Only the HTTP client's thread may use it, except for Rows(), which is
// thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/digest.h"

namespace imagefs {

class EndpointHealth {
 public:
  using Clock = std::chrono::steady_clock;

  struct Limits {
    std::chrono::milliseconds first{2'000}, most{5 * 60'000};
    // For wrong bytes.
    std::chrono::milliseconds first_lie{60'000}, most_lie{60 * 60'000};
    // A retry that has not been answered for this long no longer keeps others from trying.
    std::chrono::milliseconds longest_try{60'000};
  };
  explicit EndpointHealth(const Limits& limits) : limits_(limits) {}

  // `endpoint` is its name (HostEndpoint::Name), here and below.

  // Whether to ask it before those that are left out. If its pause is over, the caller's request is
  // the one that tries it, and must be ended by Worked, Failed or Abandoned.
  bool MayTry(const std::string& endpoint, Clock::time_point now);
  // It answered, if only that it does not have what was asked for.
  void Worked(const std::string& endpoint, Clock::time_point now);
  // It did not answer, or not as a server in order does. `asked`: Retry-After. Requests that were
  // in flight together and fail together count as one failure: `began` is when this one started.
  void Failed(const std::string& endpoint, const absl::Status& why,
              std::optional<std::chrono::seconds> asked, Clock::time_point began,
              Clock::time_point now);
  // The request ended without an answer, for reasons of its own.
  void Abandoned(const std::string& endpoint);

  // It delivers that range of a blob, unchecked.
  void Serves(const std::string& endpoint, const Digest& blob, ByteRange range);
  // Bytes in these ranges were wrong: returns who delivered them, and leaves those out for long.
  std::vector<std::string> Blame(const Digest& blob, const std::vector<ByteRange>& wrong,
                                 Clock::time_point now);
  // A document of it had the wrong digest.
  void Lied(const std::string& endpoint, Clock::time_point now);

  struct Row {
    std::string endpoint;
    std::string cause;  // of the last failure
    int failures = 0;   // in a row
    int lies = 0;       // in all
    std::chrono::milliseconds left_out_for{0};
  };
  // Those in trouble, by name.
  std::vector<Row> Rows(Clock::time_point now) const;

 private:
  struct Trouble {
    std::string cause;
    int failures = 0;
    int lies = 0;
    Clock::time_point last;                  // failure
    Clock::time_point until;                 // of the pause
    std::optional<Clock::time_point> tried;  // since when a request has been trying it
  };
  struct Served {
    ByteRange range;
    std::string endpoint;
  };

  const Limits limits_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Trouble> troubles_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Digest, std::vector<Served>> served_;
};

}  // namespace imagefs
