// SPDX-License-Identifier: Apache-2.0
#include "cache/cold_starts.h"

namespace imagefs {

LogContext ColdStarts::Continue() {
  LogContext current = LogContext::Current();
  return current.timeline() != nullptr ? current : Begin();
}

void ColdStarts::Keep(const Digest& manifest, const LogContext& context) {
  absl::MutexLock lock(&mu_);
  std::erase_if(kept_, [&](const Entry& entry) { return entry.first == manifest; });
  if (kept_.size() >= kMost) kept_.pop_front();
  kept_.emplace_back(manifest, context.timeline());
}

Timeline::Reading ColdStarts::Read(const Digest& manifest) const {
  absl::MutexLock lock(&mu_);
  for (const Entry& entry : kept_) {
    if (entry.first == manifest) return entry.second->Read();
  }
  return {};
}

}  // namespace imagefs
