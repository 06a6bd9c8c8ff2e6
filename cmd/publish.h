// SPDX-License-Identifier: Apache-2.0
// Makes the indexes of an image's layers and publishes them to the image's repository, to another
// one, or to a file (docs/formats/published.md).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/timer_queue.h"
#include "cache/image_store.h"
#include "fetch/source.h"

namespace imagefs {

struct PublishRequest {
  ImageRef image;
  std::shared_ptr<ImageSource> source;
  std::optional<Reference> to;   // destination; only its repository is used
  SourceFactory::Access access;  // credentials for `to`
  std::string file;              // OCI archive to write; "" = none
  bool with_profile = false;     // and with the hot pack of that profile
  // Push nothing if an index exists. With `with_profile`, this very index without a profile is
  // replaced, unless it is signed.
  bool only_if_absent = false;
  // Wait for a random time up to this before pushing. Nodes that made the same index at the same
  // time then mostly find that of the first.
  absl::Duration spread = absl::ZeroDuration();
  bool statement_only = false;  // publish nothing: only return the statement to sign
  // Contents of .minisig files that sign the statement with that digest. kAborted if the statement
  // has changed since.
  std::vector<std::string> signatures;
  std::string statement_digest;
};

struct PublishResult {
  struct Layer {
    Digest digest;
    uint64_t blob_bytes = 0;
    uint64_t index_bytes = 0;  // as published; 0 = not published
    std::string reason;        // why it was not published
  };
  std::vector<Layer> layers;
  std::string artifact;    // digest of the artifact's manifest
  std::string repository;  // destination of the push, "" = none
  bool listed_by_tag = false;
  bool absent = true;  // false if only_if_absent and an index existed, which was kept
  uint64_t sent_bytes = 0;
  uint64_t hot_pack_bytes = 0, hot_pack_data_bytes = 0;  // as published, unpacked; 0 = no pack
  std::string file;
  std::string statement;  // with statement_only
  // Key ids. If the existing index has the same statement, its signatures are kept.
  std::vector<std::string> signed_by;
  std::vector<std::string> signatures_lost;  // of an existing index with another statement
};

// All running publications, by calls and by the daemon itself. The daemon owns this object, and no
// publication outlives a part that it uses. Thread-safe.
class Publications {
 public:
  // The parts must outlive this object, and the executor must still run tasks during Stop.
  struct Deps {
    ImageStore& store;
    SourceFactory& sources;
    Executor& executor;
  };
  explicit Publications(Deps deps) : deps_(deps) {}
  ~Publications() { Stop(); }
  Publications(const Publications&) = delete;
  Publications& operator=(const Publications&) = delete;

  // Runs `done` exactly once, on any thread, with kCancelled if `cancel` fires or the daemon stops.
  using Done = absl::AnyInvocable<void(absl::StatusOr<PublishResult>)>;
  void Start(PublishRequest request, CancelToken cancel, Done done);
  // Runs `call`, which must not block, after a pause.
  Timer After(absl::Duration pause, absl::AnyInvocable<void()> call);
  // Returns the number of publications that have started and not been destroyed.
  int running() const;
  // Cancels running publications, rejects new ones, and blocks until none runs. REQUIRES: not
  // called from a `done`. Idempotent.
  void Stop();

 private:
  class Job;
  class Counted;
  const Deps deps_;
  CancelSource stop_;
  mutable absl::Mutex mu_;
  std::unique_ptr<TimerQueue> timers_ ABSL_GUARDED_BY(mu_);  // made when it is needed
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
