// SPDX-License-Identifier: Apache-2.0
// Publishes indexes without being asked (index.publish): that of an image that had to be fetched
// whole because nobody had published one, and its profile and hot pack after its first run was
// recorded. It learns of both from the store, so it does not matter who asked for the image.
//
// One publication at a time; the others wait in a bounded queue, which ends with the daemon. What a
// registry refuses is not tried again for kLeftOut, what it fails to answer a few times after
// growing pauses. Each such repository or registry is logged once.
//
// Thread-safe. The daemon owns it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/monotonic.h"
#include "base/timer_queue.h"
#include "cache/image_store.h"
#include "cmd/publish.h"
#include "fetch/source.h"

namespace imagefs {

class AutoPublisher {
 public:
  struct Options {
    // Patterns as in LazyPolicy: only these images are published.
    std::vector<std::string> images = {"**"};
    std::optional<Reference> to;                   // nullopt = the image's own repository
    absl::Duration spread = absl::ZeroDuration();  // PublishRequest::spread
    // Before the first attempt to repeat a failed one; later ones take kSlower times as long each.
    absl::Duration pause = absl::Minutes(1);
    // Between two looks whether all bytes of an image came; doubles up to kLongestLook.
    absl::Duration look = absl::Seconds(1);
  };
  static constexpr int kAttempts = 4, kSlower = 10;
  static constexpr absl::Duration kLeftOut = absl::Hours(1);
  static constexpr absl::Duration kLongestLook = absl::Minutes(5);
  static constexpr absl::Duration kPatience = absl::Hours(24);  // for these bytes
  static constexpr size_t kMaxWaiting = 256;

  // The parts must outlive Stop.
  struct Deps {
    ImageStore& store;
    SourceFactory& sources;
    Publications& publications;
    // This machine's own credentials for a repository. May block.
    std::function<SourceFactory::Access(const Reference&)> access_of;
  };

  explicit AutoPublisher(Options options) : options_(std::move(options)) {}
  ~AutoPublisher() { Stop(); }
  AutoPublisher(const AutoPublisher&) = delete;
  AutoPublisher& operator=(const AutoPublisher&) = delete;

  // Events before this are ignored. Call at most once.
  void Start(Deps deps) ABSL_LOCKS_EXCLUDED(mu_);
  // Cancels what runs, waits for it, and drops the rest. Idempotent.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  // Do not block (ImageStore::Events).
  void OnReadable(const ImageRef& image, const Chain& chain) ABSL_LOCKS_EXCLUDED(mu_);
  void OnProfiled(const Digest& manifest) ABSL_LOCKS_EXCLUDED(mu_);

  // Whether a publication runs or could begin now.
  bool busy() const ABSL_LOCKS_EXCLUDED(mu_);
  // Indexes that were pushed, that were already there, that could not be pushed, and that wait.
  std::vector<std::pair<std::string, uint64_t>> Counters() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // An image that is to be published.
  struct Job {
    ImageRef image;         // null: look it up
    bool profiled = false;  // not before all of its bytes are local
    int looks = 0;
    Moment since, due;
  };
  // A registry or repository that failed or refused.
  struct Trouble {
    int failures = 0;
    bool left_out = false;
    Moment until;
  };

  void Add(const Digest& manifest, Job job) ABSL_LOCKS_EXCLUDED(mu_);
  bool IsSettledLocked(const Digest& manifest, const Job& job) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SettleLocked(const Digest& manifest, bool with_profile) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Runs on executor_. Ends in EndJob, at once or later.
  void Begin(const Digest& manifest, Job job) ABSL_LOCKS_EXCLUDED(mu_);
  void Publish(const Digest& manifest, Job job, const Reference& from);
  bool Listed(const Reference& image) const;
  void OnPublished(const Digest& manifest, Job job, const Reference& to, bool with_profile,
                   const absl::StatusOr<PublishResult>& published) ABSL_LOCKS_EXCLUDED(mu_);
  void OnFailure(const Digest& manifest, Job job, const Reference& to, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Returns what keeps images from being published there now.
  std::optional<Trouble> FindTrouble(const Reference& to) const ABSL_LOCKS_EXCLUDED(mu_);
  Trouble& TroubleLocked(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // `again`, if not null, waits until it is due.
  void EndJob(const Digest& manifest, Job* again) ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  std::optional<Deps> deps_;  // set by Start, before any job
  CancelSource stop_;
  mutable absl::Mutex mu_;
  bool started_ ABSL_GUARDED_BY(mu_) = false, stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  std::map<Digest, Job> waiting_ ABSL_GUARDED_BY(mu_);  // by manifest
  // Manifests that need no further attempt of this process; true: not with a profile either.
  absl::flat_hash_map<Digest, bool> settled_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Trouble> troubles_ ABSL_GUARDED_BY(mu_);  // by host, or host/repository
  Timer timer_ ABSL_GUARDED_BY(mu_);
  uint64_t pushed_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t found_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t failed_ ABSL_GUARDED_BY(mu_) = 0;
  std::unique_ptr<Executor> executor_;  // made by Start
};

}  // namespace imagefs
