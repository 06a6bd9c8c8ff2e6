// SPDX-License-Identifier: Apache-2.0
#include "fetch/endpoint_health.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "fetch/backoff.h"
#include "fetch/bounded_table.h"

namespace imagefs {
namespace {

// Of one blob; the oldest are forgotten first.
constexpr size_t kMaxServed = 64;
constexpr size_t kMaxServedBlobs = 512;

}  // namespace

bool EndpointHealth::MayTry(const std::string& endpoint, Clock::time_point now) {
  absl::MutexLock lock(&mu_);
  const auto it = troubles_.find(endpoint);
  if (it == troubles_.end()) return true;
  Trouble& trouble = it->second;
  if (now < trouble.until) return false;
  if (trouble.tried && now - *trouble.tried < limits_.longest_try) return false;
  trouble.tried = now;
  return true;
}

void EndpointHealth::Worked(const std::string& endpoint, Clock::time_point now) {
  absl::MutexLock lock(&mu_);
  const auto it = troubles_.find(endpoint);
  if (it == troubles_.end()) return;
  Trouble& trouble = it->second;
  trouble.tried.reset();
  trouble.failures = 0;
  // Who delivers wrong bytes answers well. That is forgotten when its pause is over.
  if (trouble.lies > 0 && now < trouble.until) return;
  // Told once: what it lied is remembered for longer.
  if (std::exchange(trouble.until, {}) != Clock::time_point()) {
    LogInfo("endpoint_recovered endpoint=", endpoint);
  }
  if (trouble.lies == 0) troubles_.erase(it);
}

void EndpointHealth::Failed(const std::string& endpoint, const absl::Status& why,
                            std::optional<std::chrono::seconds> asked, Clock::time_point began,
                            Clock::time_point now) {
  absl::MutexLock lock(&mu_);
  BoundTable(troubles_);
  Trouble& trouble = troubles_[endpoint];
  trouble.tried.reset();
  trouble.cause = std::string(why.message());
  if (trouble.failures > 0 && began < trouble.last) return;
  ++trouble.failures;
  trouble.last = now;
  std::chrono::milliseconds pause = BackoffDelay(limits_.first, trouble.failures, limits_.most);
  if (asked)
    pause = std::max<std::chrono::milliseconds>(
        pause, std::min<std::chrono::milliseconds>(*asked, limits_.most_lie));
  trouble.until = std::max(trouble.until, now + pause);
  // A line a state, not one a failure.
  if (trouble.failures == 1) {
    LogWarning("endpoint_left_out endpoint=", endpoint, " for_ms=", pause.count(),
               " cause=", trouble.cause);
  }
}

void EndpointHealth::Abandoned(const std::string& endpoint) {
  absl::MutexLock lock(&mu_);
  const auto it = troubles_.find(endpoint);
  if (it != troubles_.end()) it->second.tried.reset();
}

void EndpointHealth::Serves(const std::string& endpoint, const Digest& blob, ByteRange range) {
  if (served_.size() >= kMaxServedBlobs && !served_.contains(blob)) served_.clear();
  std::vector<Served>& served = served_[blob];
  if (!served.empty() && served.back().endpoint == endpoint &&
      served.back().range.end == range.begin) {
    served.back().range.end = range.end;
    return;
  }
  if (served.size() >= kMaxServed) served.erase(served.begin());
  served.push_back({range, endpoint});
}

std::vector<std::string> EndpointHealth::Blame(const Digest& blob,
                                               const std::vector<ByteRange>& wrong,
                                               Clock::time_point now) {
  std::vector<std::string> liars;
  const auto it = served_.find(blob);
  if (it == served_.end()) return liars;
  std::erase_if(it->second, [&](const Served& served) {
    const bool hit = std::any_of(wrong.begin(), wrong.end(), [&](const ByteRange& range) {
      return range.begin < served.range.end && served.range.begin < range.end;
    });
    if (hit && std::find(liars.begin(), liars.end(), served.endpoint) == liars.end()) {
      liars.push_back(served.endpoint);
    }
    return hit;
  });
  if (it->second.empty()) served_.erase(it);
  for (const std::string& liar : liars) Lied(liar, now);
  return liars;
}

void EndpointHealth::Lied(const std::string& endpoint, Clock::time_point now) {
  absl::MutexLock lock(&mu_);
  BoundTable(troubles_);
  Trouble& trouble = troubles_[endpoint];
  trouble.tried.reset();
  ++trouble.lies;
  trouble.cause = "it delivered bytes that do not have their digest";
  const std::chrono::milliseconds pause =
      BackoffDelay(limits_.first_lie, trouble.lies, limits_.most_lie);
  trouble.until = std::max(trouble.until, now + pause);
  LogWarning("endpoint_left_out endpoint=", endpoint, " for_ms=", pause.count(),
             " cause=", trouble.cause, " times=", trouble.lies);
}

std::vector<EndpointHealth::Row> EndpointHealth::Rows(Clock::time_point now) const {
  std::vector<Row> rows;
  absl::MutexLock lock(&mu_);
  for (const auto& [endpoint, trouble] : troubles_) {
    Row row{endpoint, trouble.cause, trouble.failures, trouble.lies, {}};
    if (trouble.until > now) {
      row.left_out_for = std::chrono::ceil<std::chrono::milliseconds>(trouble.until - now);
    }
    rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.endpoint < b.endpoint; });
  return rows;
}

}  // namespace imagefs
