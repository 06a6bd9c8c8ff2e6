// SPDX-License-Identifier: Apache-2.0
// The part of LayerStore that uses the layers of shared stores in place (cache/shared_store.h), and
// copies them. Included only by LayerStore's own .cc files.
//
// The data file of a layer that is used in place is a symbolic link into the shared store;
// everything else of it belongs to this store: the index is made from the tar that was hashed, so
// that nothing of the shared store is believed. Wherever a data file is opened for writing, links
// are refused. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "cache/layer_store.h"
#include "cache/shared_store.h"

namespace imagefs {

// Returns the origin that proves, or names, the request's blob as the layer's; null if there is
// none.
const BlobOrigin* OriginOf(const std::vector<BlobOrigin>& origins, const LayerRequest& request);

// A request in progress: judged, possibly after asking the registry or fetching, then judged again.
struct LayerStore::Call {
  Request request;
  Priority priority;
  Done done;
  std::shared_ptr<TicketGroup> group = std::make_shared<TicketGroup>();
  bool leads = false;           // this call does the work of the flight
  bool waited = false;          // for the proof of a layer in use
  bool asked_shared = false;    // the shared stores, which is done once
  absl::Status shared_trouble;  // why the layer of a shared store could not be used

  void Finish(absl::StatusOr<LayerRef> layer) {
    if (layer.ok()) {
      if (const auto filling = FillingOf(*layer)) filling->AddSource(request.source);
    }
    done(std::move(layer));
  }
};

class LayerStore::Sharing {
 public:
  explicit Sharing(LayerStore& store) : store_(store) {}

  bool empty() const {
    return store_.options_.shared == nullptr || store_.options_.shared->empty();
  }
  // Returns the shared layer that the request may turn out to be given. Whether it is given is
  // judged once it is local. Blocks on the shared stores.
  std::optional<SharedLayer> Find(const Request& request) const;
  // Makes the layer local if a shared store has it, once for all its callers, and goes on with the
  // call in any case.
  void Use(const std::shared_ptr<Call>& call);
  // Makes the shared layer a local one: with its own data file if `copy`, else with a link to it.
  absl::StatusOr<LayerRef> Adopt(const SharedLayer& shared, bool copy, const CancelToken& cancel);

  std::optional<LayerProgress> Progress(const Digest& diff_id) const;
  FlightReport Flights() const { return {"shared", flights_.counters(), flights_.Running()}; }

 private:
  void Join(const std::shared_ptr<Call>& call, SharedLayer shared);
  void Run(const SharedLayer& shared, const FlightTable<LayerRef>::Context& context);

  LayerStore& store_;
  FlightTable<LayerRef> flights_{"shared"};
  mutable absl::Mutex mu_;
  absl::flat_hash_set<Digest> hashing_ ABSL_GUARDED_BY(mu_);  // layers of running flights
};

}  // namespace imagefs
