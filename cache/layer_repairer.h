// Finds where the bytes of damaged layers come from, among the images that the store has records
// of. Owned by ImageStore. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "base/flight.h"
#include "cache/image_types.h"
#include "cache/layer_store.h"
#include "fetch/source.h"

namespace imagefs {

class LayerRepairer {
 public:
  // Calls `visit` with each image of the records until it returns false.
  using Visit = absl::FunctionRef<bool(const ResolvedImage& image)>;
  using ForEachImage = std::function<void(Visit visit)>;
  // Opens the repository of an image with the credentials that this machine has.
  using Open = std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)>;

  LayerRepairer(LayerStore& layers, ForEachImage images, Open open);
  // REQUIRES: the store's observer is not this one any more. Gives up what is under way.
  ~LayerRepairer();

  // Of a layer whose damaged parts are fetched again.
  void AddSource(FillingLayer& filling) const;
  // A layer was lost while it is shown: fetches another one of that DiffID.
  void Refetch(const Digest& diff_id, const LayerStore::Observer::Heal& heal);
  // Brings a layer here that is not, or what is missing of one, and syncs it. kNotFound: no image
  // of the records has it. The layer goes on without who leaves.
  FlightTicket Fetch(const Digest& id, const Digest& diff_id,
                     absl::AnyInvocable<void(absl::Status)> done) const;

 private:
  // Calls `use` with the first image that has a layer that `is_it`, and can be opened.
  void WithSource(
      absl::FunctionRef<bool(const ResolvedImage&, size_t layer)> is_it,
      absl::FunctionRef<void(const ResolvedImage&, size_t layer, std::shared_ptr<ImageSource>)> use)
      const;

  LayerStore& layers_;
  const ForEachImage images_;
  const Open open_;
  absl::Mutex mu_;
  std::vector<FlightTicket> tickets_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
