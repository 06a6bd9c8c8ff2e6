// SPDX-License-Identifier: Apache-2.0
// Makes the index of a layer whose bytes are those of its blob, uncompressed, from the blob itself:
// reads the headers of a tar by range requests and leaves the files' bytes where they are. The file
// of an artifact needs only a request that shows that the registry sends parts of it. What is found
// is unproven in every byte: headers and spans are taken as the registry sends them until the layer
// is whole (docs/adr/0026-stored-layers.md).
//
// A layer's headers are read by one flight ("scan"), which holds no thread while it waits.
// Thread-safe; nothing here blocks.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
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
#include "image/layer_form.h"
#include "image/manifest.h"

namespace imagefs {

class StoredLayerFinder {
 public:
  // Both must outlive this. `work` writes the index.
  StoredLayerFinder(const IndexOpener& opener, Executor& work) : opener_(opener), work_(work) {}
  // REQUIRES: every flight was left or has ended. Waits for running work to end.
  ~StoredLayerFinder();

  struct Layer {
    Descriptor blob;
    Digest diff_id;  // or the name that stands for it (image/layer_form.h)
    LayerForm form;
  };
  // Whether a layer may be uncompressed and is large enough to be worth it. The media type of an
  // image's layer does not matter: if blob and tar have the same digest, the blob is the tar.
  static bool MayFind(const Layer& layer);

  using Done = absl::AnyInvocable<void(absl::StatusOr<FoundIndexRef>)>;
  // `repository`: host and repository of the image, whose images alone may share what is found
  // (cache/identity.h). `done` runs on a thread that may block. It gets kResourceExhausted if
  // streaming the layer is cheaper, kUnimplemented if the registry sends no parts of blobs, and any
  // other error that a pass over the layer reports better.
  // REQUIRES: MayFind.
  FlightTicket Find(const Layer& layer, std::shared_ptr<ImageSource> source,
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
  std::deque<std::shared_ptr<Job>> waiting_ ABSL_GUARDED_BY(mu_);  // until fewer are running
};

}  // namespace imagefs
