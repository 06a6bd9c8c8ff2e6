// SPDX-License-Identifier: Apache-2.0
// Finds the artifacts attached to an image's manifest in one repository, of those kinds that
// describe its layers: an imagefs index, by its tag sha256-<hex>.imagefs, else by the registry's
// list of referrers; and a SOCI index, by that list.
//
// Callers that ask for the same manifest with the same authorization share the queries, also for a
// few seconds after the answer. Thread-safe; nothing here blocks, except the destructor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "fetch/source.h"
#include "image/manifest.h"

namespace imagefs {

struct Sidecar {
  std::shared_ptr<ImageSource> source;
  std::optional<Manifest> index;  // an imagefs index; it names that manifest as its subject
  Digest artifact;                // of its manifest
  std::optional<Digest> soci;     // manifest of a SOCI index
};

class SidecarFinder {
 public:
  SidecarFinder() = default;
  // Waits for the queries, whose callers are answered.
  ~SidecarFinder();
  SidecarFinder(const SidecarFinder&) = delete;
  SidecarFinder& operator=(const SidecarFinder&) = delete;

  // Empty: starts the queries for somebody who will ask soon. Runs inline, or on a network thread.
  using Done = absl::AnyInvocable<void(std::shared_ptr<const Sidecar>)>;
  // Never fails: what cannot be found is not in the answer.
  void Find(const Digest& manifest, const std::shared_ptr<ImageSource>& source, Done done);

  // Cancels the queries, also future ones.
  void Stop();

  uint64_t lookups() const { return lookups_.load(std::memory_order_relaxed); }  // not shared ones

 private:
  struct Lookup;
  std::shared_ptr<Lookup> LookupOf(const Digest& manifest,
                                   const std::shared_ptr<ImageSource>& source, bool& leads);
  void Begin(const std::shared_ptr<Lookup>& lookup);
  void OnReferrers(const std::shared_ptr<Lookup>& lookup,
                   absl::StatusOr<std::vector<Descriptor>> referrers);
  void QueryReferrers(const std::shared_ptr<Lookup>& lookup);
  static void Finish(const std::shared_ptr<Lookup>& lookup, std::shared_ptr<const Sidecar> sidecar);

  CancelSource stop_;
  std::atomic<uint64_t> lookups_{0};
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<Lookup>> lookups_by_key_ ABSL_GUARDED_BY(mu_);
  int alive_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace imagefs
