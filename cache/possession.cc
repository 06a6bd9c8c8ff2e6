// SPDX-License-Identifier: Apache-2.0
#include "cache/possession.h"

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Beyond this, everything is forgotten, which costs one query per layer.
constexpr size_t kMaxKnown = 100'000;

}  // namespace

void Possession::Remember(const std::string& auth_scope, const Digest& blob) {
  absl::MutexLock lock(&mu_);
  if (known_.size() >= kMaxKnown) known_.clear();
  known_.emplace(auth_scope, blob);
}

bool Possession::Known(const std::string& auth_scope, const Digest& blob) const {
  absl::MutexLock lock(&mu_);
  return known_.contains(std::pair(auth_scope, blob));
}

FlightTicket Possession::Ask(const Descriptor& blob, const std::shared_ptr<ImageSource>& source,
                             absl::AnyInvocable<void(absl::Status)> done) {
  FlightTable<bool>::Caller caller;
  caller.auth_scope = source->auth_scope();
  caller.start = [this, blob, source](FlightTable<bool>::Context context) {
    source->HasBlob(blob, context.cancel,
                    [this, blob, source, finish = context.finish](absl::StatusOr<bool> has) {
                      if (has.ok() && *has) Remember(source->auth_scope(), blob.digest);
                      finish(std::move(has));
                    });
  };
  caller.done = [blob, source, done = std::move(done)](absl::StatusOr<bool> has) mutable {
    if (!has.ok()) return done(has.status());
    if (*has) return done(absl::OkStatus());
    done(absl::NotFoundError(
        StrCat(source->registry(), " does not have blob ", blob.digest.ToString())));
  };
  return flights_.Join(StrCat(source->auth_scope(), " ", blob.digest.ToString()), std::move(caller))
      .ticket;
}

}  // namespace imagefs
