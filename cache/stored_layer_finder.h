// SPDX-License-Identifier: Apache-2.0
// Makes the index of a layer whose blob is its tar, uncompressed, from the blob itself: reads the
// headers by range requests and leaves the files' bytes where they are. What is found is unproven
// in every byte: headers and spans are taken as the registry sends them until the layer is whole
// (docs/adr/0026-stored-layers.md).
//
// A layer's headers are read by one flight ("scan"), which holds no thread while it waits.
// Thread-safe; nothing here blocks.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "base/executor.h"
#include "base/flight.h"
#include "cache/chain.h"
#include "cache/index_opener.h"
#include "fetch/source.h"
#include "image/manifest.h"

namespace imagefs {

class StoredLayerFinder {
 public:
  // Both must outlive this. `work` writes the index.
  StoredLayerFinder(const IndexOpener& opener, Executor& work) : opener_(opener), work_(work) {}
  // REQUIRES: every flight was left or has ended. Waits for running work to end.
  ~StoredLayerFinder();

  // Whether a layer is uncompressed and large enough to be worth it. Its media type does not
  // matter: if blob and tar have the same digest, the blob is the tar.
  static bool MayFind(const Descriptor& blob, const Digest& diff_id);

  using Done = absl::AnyInvocable<void(absl::StatusOr<FoundIndexRef>)>;
  // `repository`: host and repository of the image, whose images alone may share what is found
  // (cache/identity.h). `done` runs on a thread that may block. It gets kResourceExhausted if
  // streaming the layer is cheaper, kUnimplemented if the registry sends no parts of blobs, and any
  // other error that a pass over the layer reports better.
  // REQUIRES: MayFind.
  FlightTicket Find(const Descriptor& blob, std::shared_ptr<ImageSource> source,
                    const std::string& repository, Done done);

  FlightReport Flights() const { return {"scan", flights_.counters(), flights_.Running()}; }
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

 private:
  class Job;

  const IndexOpener& opener_;
  Executor& work_;
  FlightTable<FoundIndexRef> flights_{"scan"};
  std::atomic<uint64_t> scanned_{0}, given_up_{0};
  absl::Mutex mu_;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace imagefs
