// SPDX-License-Identifier: Apache-2.0
// What the first run of an image reads, stored by the digest of its manifest and prefetched at its
// next cold start. A profile is a JSON text (docs/formats/published.md): parts of the layers' data
// files in the order of their first use.
//
// FillingLayer does the recording in any case; this class collects it once an image has been quiet
// for a while. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "base/monotonic.h"
#include "base/text.h"
#include "cache/filling_layer.h"
#include "cache/kv.h"
#include "image/manifest.h"

namespace imagefs {

// Key prefix of profiles; the rest of the key is the digest of the manifest in hex.
inline constexpr std::string_view kProfileKeyPrefix = "profile/";

// A value type.
struct Profile {
  struct Part {
    Digest layer;  // DiffID
    ByteRange range;
  };
  std::vector<Part> parts;
  // The data files that the ranges refer to: sizes by DiffID. A layer with another layout is
  // skipped.
  std::vector<std::pair<Digest, uint64_t>> layers;

  std::string ToJson() const;
  // Bounded by kMaxParts.
  static absl::StatusOr<Profile> Parse(std::string_view json);
  static constexpr size_t kMaxParts = 100'000;
};

class ProfileKeeper {
 public:
  struct Options {
    absl::Duration quiet = absl::Seconds(5);  // the start of a run ends when nothing new is read
    absl::Duration longest = absl::Seconds(120);  // ... or after this
    // Called without locks after a run was recorded; may be empty.
    std::function<void(const Digest& manifest)> recorded = nullptr;
  };
  ProfileKeeper(KeyValueStore& kv, Options options) : kv_(kv), options_(std::move(options)) {}

  // Returns the stored profile, or kNotFound if there is none.
  absl::StatusOr<Profile> Get(const Digest& manifest);
  absl::Status Put(const Digest& manifest, const Profile& profile);
  absl::Status Clear(const Digest& manifest);

  using Layers = std::vector<std::pair<Digest, std::shared_ptr<FillingLayer>>>;
  // Records what is read of these layers from now on as that image's first run, unless a profile
  // exists.
  void Record(const Digest& manifest, Layers layers);
  bool recording() const {
    absl::MutexLock lock(&mu_);
    return !runs_.empty();
  }
  // Collects runs whose start is over; with `all`, also the others.
  void Collect(bool all);
  // Ends the runs of the images for which `gone` returns true: their files are about to be removed,
  // and recording keeps them open.
  void Finish(absl::FunctionRef<bool(const Digest& manifest)> gone);

 private:
  struct Run {
    Digest manifest;
    Layers layers;
    Moment begun;
  };
  static Profile Read(const Run& run);
  // Ends those runs and stores what they read.
  void EndIf(absl::FunctionRef<bool(const Run& run)> ends);
  static std::string Key(const Digest& manifest) {
    return StrCat(kProfileKeyPrefix, manifest.hex());
  }

  KeyValueStore& kv_;
  const Options options_;
  mutable absl::Mutex mu_;
  std::vector<Run> runs_ ABSL_GUARDED_BY(mu_);
};

// Requests a profile's parts in order.
void Replay(const Profile& profile, const ProfileKeeper::Layers& layers);

}  // namespace imagefs
