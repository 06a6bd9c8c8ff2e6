// SPDX-License-Identifier: Apache-2.0
#include "cmd/call_metrics.h"

namespace imagefs {
namespace {

template <typename Duration>
double Seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string ResultOf(const absl::Status& status) {
  if (status.ok()) return "ok";
  return absl::IsCancelled(status) ? "cancelled" : "failed";
}

}  // namespace

Histogram& CallMetrics::At(Table& table, Key key) {
  std::unique_ptr<Histogram>& slot = table[std::move(key)];
  if (slot == nullptr) slot = std::make_unique<Histogram>(kLongTimes);
  return *slot;
}

void CallMetrics::Ended(const Call& call) {
  const std::string command(call.command);
  absl::MutexLock lock(&mu_);
  At(calls_, {command, call.mode, ResultOf(call.status)}).Observe(Seconds(call.took));
  for (const auto& [step, took] : call.steps) {
    At(steps_, {command, step, ""}).Observe(Seconds(took));
  }
}

void CallMetrics::AppendHistograms(std::vector<HistogramReport>& out) const {
  absl::MutexLock lock(&mu_);
  for (const auto& [key, histogram] : calls_) {
    out.push_back({"command",
                   {{"command", key[0]}, {"mode", key[1]}, {"result", key[2]}},
                   histogram->Read()});
  }
  for (const auto& [key, histogram] : steps_) {
    out.push_back({"step", {{"command", key[0]}, {"step", key[1]}}, histogram->Read()});
  }
}

}  // namespace imagefs
