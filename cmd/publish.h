// SPDX-License-Identifier: Apache-2.0
// Makes the indexes of an image's layers and gives them away: to the image's repository, to another
// one, or into a file (docs/formats/published.md).
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
#include "base/cancel.h"
#include "base/executor.h"
#include "cache/image_store.h"
#include "fetch/source.h"

namespace imagefs {

struct PublishRequest {
  ImageRef image;
  std::shared_ptr<ImageSource> source;
  std::optional<Reference> to;   // push there; only the repository counts
  SourceFactory::Access access;  // with this
  std::string file;              // write an OCI archive there; "" = do not
  bool with_profile = false;
  bool only_if_absent = false;  // push nothing where an index lies already
  bool statement_only = false;  // publish nothing: only say what is to be signed
  // Texts of .minisig files over the statement with that digest. kAborted when the index that is
  // made now has another statement.
  std::vector<std::string> signatures;
  std::string statement_digest;
};

struct PublishResult {
  struct Layer {
    Digest digest;
    uint64_t blob_bytes = 0;
    uint64_t index_bytes = 0;  // as published; 0 = not
    std::string reason;        // why not
  };
  std::vector<Layer> layers;
  std::string artifact;    // digest of the artifact's manifest
  std::string repository;  // that it was pushed to, "" = none
  bool listed_by_tag = false;
  bool absent = true;  // with only_if_absent: whether there was none
  uint64_t sent_bytes = 0;
  std::string file;
  std::string statement;  // with statement_only
  // Ids of keys. An index that says the same as the one in its place keeps the signatures of that.
  std::vector<std::string> signed_by;
  std::vector<std::string> signatures_lost;  // of an index in its place that said something else
};

// All publications that run, of calls and of the daemon itself: the daemon owns them, and none of
// them outlives a part that it uses. Thread-safe.
class Publications {
 public:
  // The parts outlive this object; the executor still runs what Stop waits for.
  struct Deps {
    ImageStore& store;
    SourceFactory& sources;
    Executor& executor;
  };
  explicit Publications(Deps deps) : deps_(deps) {}
  ~Publications() { Stop(); }
  Publications(const Publications&) = delete;
  Publications& operator=(const Publications&) = delete;

  // `done` runs once, on any thread; kCancelled when `cancel` fires or the daemon stops.
  using Done = absl::AnyInvocable<void(absl::StatusOr<PublishResult>)>;
  void Start(PublishRequest request, CancelToken cancel, Done done);
  // Counted from Start until nothing of the publication is left.
  int running() const;
  // Cancels what runs, refuses what comes, and waits until nothing runs. REQUIRES: not called from
  // a `done`. Idempotent.
  void Stop();

 private:
  class Job;
  class Counted;
  const Deps deps_;
  CancelSource stop_;
  mutable absl::Mutex mu_;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
