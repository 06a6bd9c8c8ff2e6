// SPDX-License-Identifier: Apache-2.0
// How far a streaming call is: the step that runs, how long those before it took, and what has come
// of each layer of its image. Thread-safe; does not block.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "cache/image_store.h"
#include "proto/control.pb.h"

namespace imagefs {

class TransferProgress {
 public:
  using LayerEvents = google::protobuf::RepeatedPtrField<control::v1::LayerEvent>;

  // The store outlives it.
  explicit TransferProgress(const ImageStore& store) : store_(store) {}

  // A step begins. `timing` is its name among the timings; where that of the step before is the
  // same, both are timed as one.
  void Begin(std::string_view phase, std::string_view timing) ABSL_LOCKS_EXCLUDED(mu_);
  // From now on the layers of `image` are told of: those that are here already count as reused.
  // Called once at most.
  void Track(ImageRef image) ABSL_LOCKS_EXCLUDED(mu_);

  // Looks at the layers, whose flights are gone when the call ends, and returns what is to be told;
  // nullopt when that is what was returned last, and before the first step.
  std::optional<control::v1::MountEvent> Update() ABSL_LOCKS_EXCLUDED(mu_);

  // Of an image that can be read: layers are done, but for those that are shown before their bytes
  // are here.
  void FillLayers(LayerEvents* out) const { FillLayers(/*readable=*/true, out); }
  // The layers, what was fetched for them, and the timings. Ends the step that runs.
  void FillResult(control::v1::MountResult* out) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Clock = std::chrono::steady_clock;
  struct LayerTrack {
    bool reused = false;  // here before this call
    bool shared = false;  // somebody else was seen waiting for it
    uint64_t downloaded = 0;
    uint64_t unpacked = 0;
    Clock::time_point moved;  // when `downloaded` has grown, or the layer was first seen
    std::string trouble;
  };

  void Sample() ABSL_LOCKS_EXCLUDED(mu_);
  void FillLayers(bool readable, LayerEvents* out) const ABSL_LOCKS_EXCLUDED(mu_);
  void BeginLocked(std::string_view phase, std::string_view timing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndStepLocked(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ImageStore& store_;
  mutable absl::Mutex mu_;
  std::string phase_ ABSL_GUARDED_BY(mu_);
  std::string timing_ ABSL_GUARDED_BY(mu_);  // of the step that runs; "" = none
  Clock::time_point step_begin_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::string, std::chrono::microseconds>> timings_ ABSL_GUARDED_BY(mu_);
  ImageRef image_ ABSL_GUARDED_BY(mu_);  // null before Track
  std::vector<LayerTrack> tracks_ ABSL_GUARDED_BY(mu_);
  std::string last_ ABSL_GUARDED_BY(mu_);  // what Update returned
};

}  // namespace imagefs
