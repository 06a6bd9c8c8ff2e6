// SPDX-License-Identifier: Apache-2.0
#include "fetch/endpoint_traffic.h"

namespace imagefs {

std::string_view RequestKindName(RequestKind kind) {
  constexpr std::array<std::string_view, 5> kNames = {"manifest", "blob", "referrers", "token",
                                                      "other"};
  return kNames.at(static_cast<size_t>(kind));
}

std::string_view EndpointTraffic::ResultName(size_t result) {
  constexpr std::array<std::string_view, kResults> kNames = {"ok", "refused", "server_error",
                                                             "failed", "cancelled"};
  return kNames.at(result);
}

EndpointTraffic::Result EndpointTraffic::Request::Of(int status) {
  if (status >= 500) return Result::kServerError;
  return status >= 400 ? Result::kRefused : Result::kOk;
}

void EndpointTraffic::Request::Headers(Clock::time_point now) {
  entry_->answered.Observe(std::chrono::duration<double>(now - sent_).count());
}

void EndpointTraffic::Request::End(Result result) {
  Entry* const entry = std::exchange(entry_, nullptr);
  entry->results[static_cast<size_t>(result)].fetch_add(1, std::memory_order_relaxed);
}

EndpointTraffic::Request EndpointTraffic::Send(const std::string& endpoint, RequestKind kind,
                                               Request::Clock::time_point now) {
  absl::MutexLock lock(&mu_);
  const bool room = entries_.contains(endpoint) || entries_.size() < kMaxEndpoints;
  std::unique_ptr<Entry>& entry = entries_[room ? endpoint : std::string(kOthers)][kind];
  if (entry == nullptr) entry = std::make_unique<Entry>();
  return {*entry, now};
}

std::vector<EndpointTraffic::Row> EndpointTraffic::Rows() const {
  std::vector<Row> rows;
  absl::MutexLock lock(&mu_);
  for (const auto& [endpoint, kinds] : entries_) {
    for (const auto& [kind, entry] : kinds) {
      Row& row = rows.emplace_back();
      row.endpoint = endpoint;
      row.kind = kind;
      row.bytes = entry->bytes.load(std::memory_order_relaxed);
      for (size_t i = 0; i < kResults; ++i) {
        row.results[i] = entry->results[i].load(std::memory_order_relaxed);
      }
      row.answered = entry->answered.Read();
    }
  }
  return rows;
}

}  // namespace imagefs
