// SPDX-License-Identifier: Apache-2.0
// Builds the span tables of fully present layers, so that a layer can be read in ranges again once
// its data was evicted, and its index can be published. Builds run one at a time on an
// idle-priority thread, which a busy machine may starve; those with waiters run on another thread.
// Owned by LayerStore. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/flight.h"
#include "cache/chain.h"
#include "cache/fair_workers.h"
#include "cache/image_types.h"
#include "cache/layer_maker.h"
#include "cache/window_memory.h"
#include "fetch/source.h"

namespace imagefs {

class SpanTableBuilder {
 public:
  SpanTableBuilder(std::string root, WindowMemory& windows);
  // REQUIRES: every caller of Ensure has left. Cancels unfinished work.
  ~SpanTableBuilder();

  // The blob on the local disk, whole and verified.
  struct BlobFile {
    Fd fd;
    uint64_t offset = 0;
  };
  // Builds the table of a layer whose pass has just ended and produced `made`. Does not hold the
  // layer: one that is removed concurrently needs no table. `source` is whose turn it takes.
  // REQUIRES: source.whole.
  void Start(const LayerRef& layer, const Descriptor& blob, BlobFile file, LayerOutput made,
             SourceTurns::Claim source);

  // Runs `done` when the layer's table is on disk. Builds it if missing, which fetches the blob
  // once more. Returns kUnimplemented if the blob does not support random access.
  FlightTicket Ensure(const LayerRef& layer, const Descriptor& blob,
                      std::shared_ptr<ImageSource> source,
                      absl::AnyInvocable<void(absl::Status)> done);

  FlightReport Flights() const;
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

  static std::string PathOf(const Layer& layer) { return layer.directory + "/access"; }

 private:
  using Table = FlightTable<bool>;
  class Job;
  // What a table is built from, besides the blob.
  struct Subject {
    Digest diff_id;
    std::string path;  // of the table
    uint64_t data_bytes = 0;
    Fd data;
  };
  using SubjectRef = std::shared_ptr<const Subject>;
  void MoveToUrgent(const std::string& key) ABSL_LOCKS_EXCLUDED(mu_);
  static absl::StatusOr<SubjectRef> SubjectOf(const Layer& layer);
  // Blocks. Finds the restart points if `made` has none.
  absl::Status Build(const Subject& layer, const Descriptor& blob, const BlobFile& file,
                     LayerOutput made, const CancelToken& cancel);

  const std::string root_;
  WindowMemory& windows_;
  CancelSource stop_;
  Table flights_{"access"};
  std::atomic<uint64_t> built_{0}, failed_{0};
  absl::Mutex mu_;
  int jobs_alive_ ABSL_GUARDED_BY(mu_) = 0;
  // Builds that nobody waited for when they began, by the key of their flight.
  absl::flat_hash_map<std::string, std::weak_ptr<Job>> background_jobs_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<FairWorkers> idle_, urgent_;  // last: their threads end before anything above
};

}  // namespace imagefs
