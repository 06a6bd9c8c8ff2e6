// SPDX-License-Identifier: Apache-2.0
// One check of a store: its records, layers, trees and files; with `repair`, also their repair.
// Used by ImageStore::Check. Blocks; for use by one thread.
//
// Damage of layers, and of trees that are in use, is always handled, so that nothing wrong is
// served. A repair also fetches at once what the next mount would fetch, and removes what is
// useless.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "cache/chain_store.h"
#include "cache/check_report.h"
#include "cache/image_row.h"
#include "cache/kv.h"
#include "cache/layer_repairer.h"
#include "cache/layer_store.h"
#include "cache/scrubber.h"

namespace imagefs {

class StoreCheck {
 public:
  struct Store {
    std::string root;
    LayerStore& layers;
    ChainStore& chains;
    KeyValueStore& kv;
    LayerRepairer& repairer;
    LayerRepairer::ForEachImage images;
    LayerRepairer::Open open;
    // Returns OK if the manifest and configuration that a record names are present.
    std::function<absl::Status(const ImageRow& row)> documents;
  };
  struct Request {
    std::vector<Reference> references;  // none: the whole store
    bool repair = false;
  };
  // `pace` is called with the bytes read, and now and then with 0; once it returns false, the check
  // ends with kCancelled.
  StoreCheck(Store store, Request request, Scrubber::Pace pace)
      : store_(std::move(store)), request_(std::move(request)), pace_(pace) {}

  // Returns kNotFound for an image that the store does not know.
  absl::StatusOr<CheckReport> Run();

 private:
  bool all() const { return request_.references.empty(); }
  bool Wanted(std::string_view reference) const;
  // Selects the layers and trees of the requested images.
  absl::Status Choose();
  absl::Status CheckImages();
  // Checks one record of an image, by its key.
  absl::Status CheckImage(const std::string& key, const std::string& reference,
                          const std::string& value);
  absl::Status FetchDocuments(const std::string& reference, const ImageRow& row);
  absl::Status CheckRecords();
  absl::Status CheckLayers();
  bool IsNamed(const Digest& id) const;
  absl::Status CheckLayer(CheckedLayer& layer);
  void CheckSpanTable(const CheckedLayer& layer);
  absl::Status FetchLayers();
  void CheckStrays();
  CheckFinding& Found(std::string_view kind, std::string_view name, std::string_view problem);
  // Runs `start` and waits for its result. Returns kCancelled if the check is cancelled.
  using Done = absl::AnyInvocable<void(absl::Status)>;
  absl::Status Await(absl::FunctionRef<FlightTicket(CancelToken cancel, Done done)> start);

  const Store store_;
  const Request request_;
  const Scrubber::Pace pace_;
  absl::flat_hash_set<Digest> layers_, chains_;  // selected, unless all are
  std::vector<CheckedLayer> absent_;             // layers that images name and that are not present
  CheckReport report_;
};

}  // namespace imagefs
