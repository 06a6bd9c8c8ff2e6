// SPDX-License-Identifier: Apache-2.0
// Which blobs a caller may access: a local layer is given to a caller only if that caller has
// fetched its blob, or its registry confirms now that the blob is available to it.
//
// Thread-safe. Nothing here blocks. Kept in memory: after a restart the registry is asked again.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "base/flight.h"
#include "fetch/source.h"

namespace imagefs {

class Possession {
 public:
  // Records that the auth scope (ImageSource::auth_scope()) was given the whole blob, or was told
  // that it may have it.
  void Remember(const std::string& auth_scope, const Digest& blob);
  bool Known(const std::string& auth_scope, const Digest& blob) const;

  // Asks the source's registry, once for all concurrent callers with the same question
  // (single-flight). `done` gets OK, and the answer is remembered; kNotFound if the blob is not
  // there; or why the registry could not be asked.
  FlightTicket Ask(const Descriptor& blob, const std::shared_ptr<ImageSource>& source,
                   absl::AnyInvocable<void(absl::Status)> done);

  FlightCounters counters() const { return flights_.counters(); }
  std::vector<std::pair<std::string, size_t>> Running() const { return flights_.Running(); }

 private:
  FlightTable<bool> flights_{"possession"};
  mutable absl::Mutex mu_;
  absl::flat_hash_set<std::pair<std::string, Digest>> known_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
