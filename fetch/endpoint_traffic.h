// SPDX-License-Identifier: Apache-2.0
// What was requested from each host, for metrics: requests by result, the time until they were
// answered, bytes. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/histogram.h"

namespace imagefs {

// What a request is for.
enum class RequestKind : uint8_t { kManifest, kBlob, kReferrers, kToken, kOther };
std::string_view RequestKindName(RequestKind kind);

class EndpointTraffic {
 public:
  // kFailed: no complete answer came. kCancelled: nobody wanted the answer any more, or the
  // connection was needed for another request.
  enum class Result : uint8_t { kOk, kRefused, kServerError, kFailed, kCancelled };
  static constexpr size_t kResults = 5;

  // Hosts come from outside and never expire: once there are this many, all further ones are
  // counted together, as kOthers.
  static constexpr size_t kMaxEndpoints = 32;
  static constexpr char kOthers[] = "others";

 private:
  struct Entry {
    std::atomic<uint64_t> bytes{0};
    std::array<std::atomic<uint64_t>, kResults> results{};
    Histogram answered{kShortTimes};
  };

 public:
  // One request, from when it is sent. Destroying it without an End counts it as cancelled.
  class Request {
   public:
    using Clock = std::chrono::steady_clock;
    Request(Request&& other) noexcept
        : entry_(std::exchange(other.entry_, nullptr)), sent_(other.sent_) {}
    Request& operator=(Request&&) = delete;
    ~Request() {
      if (entry_ != nullptr) End(Result::kCancelled);
    }
    void Headers(Clock::time_point now);
    void Bytes(size_t bytes) { entry_->bytes.fetch_add(bytes, std::memory_order_relaxed); }
    void End(Result result);
    // The result of an answer with that status.
    static Result Of(int status);

   private:
    friend class EndpointTraffic;
    Request(Entry& entry, Clock::time_point sent) : entry_(&entry), sent_(sent) {}
    Entry* entry_;  // null: it has ended
    const Clock::time_point sent_;
  };
  // `endpoint`: "host:port". This object must outlive the result.
  Request Send(const std::string& endpoint, RequestKind kind, Request::Clock::time_point now)
      ABSL_LOCKS_EXCLUDED(mu_);

  struct Row {
    std::string endpoint;
    RequestKind kind;
    uint64_t bytes = 0;                           // of bodies, received
    std::array<uint64_t, kResults> results = {};  // by Result
    Histogram::Reading answered;  // seconds from when it was sent until the answer's headers came
  };
  std::vector<Row> Rows() const ABSL_LOCKS_EXCLUDED(mu_);
  static std::string_view ResultName(size_t result);

 private:
  mutable absl::Mutex mu_;
  // The entries are never removed.
  std::map<std::string, std::map<RequestKind, std::unique_ptr<Entry>>> entries_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
