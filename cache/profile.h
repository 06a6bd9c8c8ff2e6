// What the first run of an image reads, kept by the digest of its manifest and brought in advance
// at its next cold start. A profile is a JSON text (docs/formats/published.md): parts of the
// layers' data files in the order in which they were first asked for.
//
// Recording is what FillingLayer keeps anyway; this only collects it once an image has been quiet
// for a while. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "base/monotonic.h"
#include "cache/filling_layer.h"
#include "cache/kv.h"
#include "image/manifest.h"

namespace imagefs {

// A value.
struct Profile {
  struct Part {
    Digest layer;  // DiffID
    ByteRange range;
  };
  std::vector<Part> parts;
  // The data files that the ranges are of: by DiffID, their sizes. A layer that is laid out
  // otherwise here is left alone.
  std::vector<std::pair<Digest, uint64_t>> layers;

  std::string ToJson() const;
  // Bounded: kMaxParts.
  static absl::StatusOr<Profile> Parse(std::string_view json);
  static constexpr size_t kMaxParts = 100'000;
};

class ProfileKeeper {
 public:
  struct Options {
    absl::Duration quiet = absl::Seconds(5);      // a run's start is over when nothing new is read
    absl::Duration longest = absl::Seconds(120);  // ... or after that
  };
  ProfileKeeper(KeyValueStore& kv, Options options) : kv_(kv), options_(options) {}

  // The stored profile; kNotFound when there is none.
  absl::StatusOr<Profile> Get(const Digest& manifest);
  absl::Status Put(const Digest& manifest, const Profile& profile);
  absl::Status Clear(const Digest& manifest);

  using Layers = std::vector<std::pair<Digest, std::shared_ptr<FillingLayer>>>;
  // Records what is read of these layers from now on as that image's first run, unless a profile is
  // there already.
  void Record(const Digest& manifest, Layers layers);
  bool recording() const {
    absl::MutexLock lock(&mu_);
    return !runs_.empty();
  }
  // Collects runs whose start is over; with `all`, those that go on too.
  void Collect(bool all);
  // Those of the images of which `gone` says so: their files are to be removed, and what records a
  // run keeps them open.
  void Finish(absl::FunctionRef<bool(const Digest& manifest)> gone);

 private:
  struct Run {
    Digest manifest;
    Layers layers;
    Moment begun;
  };
  static Profile Read(const Run& run);
  // Ends those runs and keeps what they read.
  void EndIf(absl::FunctionRef<bool(const Run& run)> ends);
  static std::string Key(const Digest& manifest) { return "profile/" + manifest.hex(); }

  KeyValueStore& kv_;
  const Options options_;
  mutable absl::Mutex mu_;
  std::vector<Run> runs_ ABSL_GUARDED_BY(mu_);
};

// Asks for a profile's parts, in their order.
void Replay(const Profile& profile, const ProfileKeeper::Layers& layers);

}  // namespace imagefs
