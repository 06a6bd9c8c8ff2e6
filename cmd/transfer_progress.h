// SPDX-License-Identifier: Apache-2.0
// The progress of a streaming call: the running step, the time each earlier step took, and the
// state of each layer of its image. Thread-safe; does not block.
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

  // `store` and `sources` must outlive this.
  TransferProgress(const ImageStore& store, const SourceFactory& sources)
      : store_(store), sources_(sources) {}

  // Begins a step. `timing` is its name among the timings; consecutive steps with the same name are
  // timed as one.
  void Begin(std::string_view phase, std::string_view timing) ABSL_LOCKS_EXCLUDED(mu_);
  // Reports why requests to this registry are repeated.
  void SetRegistry(const std::string& host) ABSL_LOCKS_EXCLUDED(mu_);
  // Starts reporting the layers of `image`; those that are already local count as reused. Call at
  // most once.
  void Track(ImageRef image) ABSL_LOCKS_EXCLUDED(mu_);

  // The running step.
  std::string phase() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return phase_;
  }

  // Samples the layers (their fetch state is gone when the call ends) and returns the progress
  // event, or nullopt if it has not changed since the last call or no step has begun.
  std::optional<control::v1::MountEvent> Update() ABSL_LOCKS_EXCLUDED(mu_);

  // Reports the layers of a readable image: they are done, except lazy layers that are not yet
  // complete.
  void FillLayers(LayerEvents* out) const { FillLayers(/*readable=*/true, out); }
  // Reports the layers, the bytes fetched for them, and the timings. Ends the running step.
  void FillResult(control::v1::MountResult* out) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Clock = std::chrono::steady_clock;
  struct LayerTrack {
    bool reused = false;  // local before this call
    bool shared = false;  // another caller was seen waiting for it
    uint64_t before = 0;  // of the compressed bytes: present before this call
    uint64_t downloaded = 0;
    uint64_t unpacked = 0;
    Clock::time_point moved;  // when `downloaded` last grew, or the layer was first seen
    std::string trouble;
  };

  void Sample() ABSL_LOCKS_EXCLUDED(mu_);
  void FillLayers(bool readable, LayerEvents* out) const ABSL_LOCKS_EXCLUDED(mu_);
  void BeginLocked(std::string_view phase, std::string_view timing)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndStepLocked(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ImageStore& store_;
  const SourceFactory& sources_;
  mutable absl::Mutex mu_;
  std::string registry_ ABSL_GUARDED_BY(mu_);  // "" = none
  std::string phase_ ABSL_GUARDED_BY(mu_);
  std::string timing_ ABSL_GUARDED_BY(mu_);  // of the running step; "" = none
  Clock::time_point step_begin_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::string, std::chrono::microseconds>> timings_ ABSL_GUARDED_BY(mu_);
  ImageRef image_ ABSL_GUARDED_BY(mu_);  // null before Track
  std::vector<LayerTrack> tracks_ ABSL_GUARDED_BY(mu_);
  std::string last_ ABSL_GUARDED_BY(mu_);  // what Update last returned
};

}  // namespace imagefs
