// SPDX-License-Identifier: Apache-2.0
// Finds sources for the bytes of damaged layers among the images that the store has records of.
// Owned by ImageStore. Thread-safe.
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
  // Calls `visit` with each recorded image until it returns false.
  using Visit = absl::FunctionRef<bool(const ResolvedImage& image)>;
  using ForEachImage = std::function<void(Visit visit)>;
  // Opens the repository of an image with this machine's credentials.
  using Open = std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)>;

  LayerRepairer(LayerStore& layers, ForEachImage images, Open open);
  // REQUIRES: this is no longer the store's observer. Cancels running work.
  ~LayerRepairer();

  // Adds a source to a layer whose damaged parts are fetched again.
  void AddSource(FillingLayer& filling) const;
  // A layer was lost while in use: fetches another layer of that DiffID.
  void Refetch(const Digest& diff_id, const LayerObserver::Heal& heal);
  // Fetches a layer that is missing or incomplete, and syncs it. Returns kNotFound if no recorded
  // image has it. The work continues if the caller leaves.
  FlightTicket Fetch(const Digest& id, const Digest& diff_id,
                     absl::AnyInvocable<void(absl::Status)> done) const;

 private:
  // Calls `use` with the first image that has a layer matching `is_it` and whose repository can be
  // opened.
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
