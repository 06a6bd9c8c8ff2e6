// One check of a store: its records, layers, trees and files, and with `repair` what repairs them.
// Used by ImageStore::Check. Blocks; to be used by one thread.
//
// Damage of layers, and of trees that are shown, is always seen to, so that nothing wrong is
// served. A repair fetches at once what would come with the next mount, and removes what is of no
// use.
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
    // Whether manifest and configuration that a record names are here.
    std::function<absl::Status(const ImageRow& row)> documents;
  };
  struct Request {
    std::vector<Reference> references;  // none: the whole store
    bool repair = false;
  };
  // `pace` is told of bytes that were read, and now and then of none; kCancelled once it is false.
  StoreCheck(Store store, Request request, Scrubber::Pace pace)
      : store_(std::move(store)), request_(std::move(request)), pace_(pace) {}

  // kNotFound for an image that the store does not know.
  absl::StatusOr<CheckReport> Run();

 private:
  bool all() const { return request_.references.empty(); }
  bool Wanted(std::string_view reference) const;
  // The layers and trees of the images in question.
  absl::Status Choose();
  absl::Status CheckImages();
  // Of one record of an image, by its key.
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
  // Runs `start` and waits for what it ends with. kCancelled when nobody waits for the check.
  using Done = absl::AnyInvocable<void(absl::Status)>;
  absl::Status Await(absl::FunctionRef<FlightTicket(CancelToken cancel, Done done)> start);

  const Store store_;
  const Request request_;
  const Scrubber::Pace pace_;
  absl::flat_hash_set<Digest> layers_, chains_;  // in question, when it is not all
  std::vector<CheckedLayer> absent_;             // layers that images name and that are not here
  CheckReport report_;
};

}  // namespace imagefs
