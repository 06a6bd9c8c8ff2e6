// SPDX-License-Identifier: Apache-2.0
// Gives containerd's content store the layer blobs that lazy pulls skipped (docs/containerd.md,
// "The content store").
//
// Every minute, and soon after a snapshot was made or a blob was kept, it compares: in each
// namespace that has the manifest of an image that a snapshot is of, each layer that the manifest's
// labels refer to (so that containerd collects it with the image, and not before) shall be there. A
// missing one is written from the file that is kept of it, or from what another namespace has. If
// there is neither although the layer is local (it was made before, or containerd was away for
// long), the blob is fetched again in the background. A layer that is still filling is waited for.
//
// Nothing here is durable: the next process compares again. A failure is counted, logged when it
// begins and when it has ended, and delays the next attempt: of that blob if it could not be
// fetched or was wrong, else of all. It has no effect on mounts.
//
// Thread-safe. Has a thread of its own (ThreadRole::kContent).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel.h"
#include "base/monotonic.h"
#include "cache/image_types.h"
#include "cache/kept_blobs.h"
#include "snap/content_store.h"

namespace imagefs {

class ContentKeeper {
 public:
  struct Options {
    absl::Duration settle = absl::Seconds(1);    // from LookSoon to the comparison
    absl::Duration interval = absl::Minutes(1);  // between comparisons
    // Doubles with each failure in a row, unless the runtime only does not answer.
    absl::Duration first_pause = absl::Minutes(1), longest_pause = absl::Hours(1);
    // How long a blob is kept that no manifest refers to. The daemon may have made its layer for
    // somebody else.
    absl::Duration unneeded = absl::Minutes(10);
  };
  struct Deps {
    KeptBlobs& blobs;
    std::function<absl::StatusOr<std::vector<ImageRef>>()> images;  // that snapshots are of
    std::function<LayerState(const LayerKey&)> state_of;
    // Opens the image's repository with the node's credentials. May block on them.
    std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)> open;
    std::function<std::unique_ptr<ContentStore>(CancelToken)> connect;
  };
  ContentKeeper(Options options, Deps deps);
  // Ends calls of containerd and the fetch that are running.
  ~ContentKeeper();

  void LookSoon() ABSL_LOCKS_EXCLUDED(mu_);
  // content_blobs_written, content_blobs_failed, content_blobs_missing (at the last comparison).
  std::vector<std::pair<std::string, uint64_t>> Counters() const;

 private:
  using Contents = absl::flat_hash_map<Digest, ContentStore::Labels>;
  struct Namespace {
    std::string name;
    Contents contents;
  };
  // A blob that namespaces lack.
  struct Missing {
    ImageRef image;
    size_t layer = 0;
    std::vector<std::string> namespaces;
    bool elsewhere = false;  // another namespace has it
  };

  void Loop();
  bool Wait() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Turn() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Missing> Compare(const std::vector<ImageRef>& images,
                               const std::vector<Namespace>& namespaces,
                               absl::flat_hash_set<Digest>& needed) const;
  static bool Awaits(const std::vector<Namespace>& namespaces, const Digest& blob);
  absl::Status Write(const Missing& missing);
  absl::Status StartFetch(const Missing& missing) ABSL_LOCKS_EXCLUDED(mu_);
  // After that many failures before.
  absl::Duration PauseAfter(int failures) const;
  bool MayTry(const Digest& blob) const;
  void BlobFailed(const Digest& blob, const absl::Status& why);
  void Note(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  const Deps deps_;
  CancelSource cancel_;
  std::unique_ptr<ContentStore> content_;
  std::atomic<uint64_t> written_{0}, failed_{0}, missing_{0};
  // Used by the thread only, like retries_ and asked_.
  int failures_ = 0;  // of everything, in a row
  struct Retry {
    int failures = 0;
    Moment not_before;
  };
  absl::flat_hash_map<Digest, Retry> retries_;  // of missing blobs
  Digest asked_;                                // the blob of the last fetch
  absl::Mutex mu_;
  TimedCondition changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool fetching_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> fetched_ ABSL_GUARDED_BY(mu_);  // how the last one ended; for Turn
  Moment look_at_ ABSL_GUARDED_BY(mu_);
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  std::thread thread_;  // last
};

}  // namespace imagefs
