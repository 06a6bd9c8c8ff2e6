// SPDX-License-Identifier: Apache-2.0
// Layers whose blobs were unpacked and have the right digests, while their tars are still to be
// compared with the DiffIDs that images claim (docs/adr/0010-identity.md). Owned by LayerStore.
//
// Hashing the tar is a fifth of the work of a pass, and says nothing about the bytes that the
// digest of the blob did not say: only whether the configuration tells the truth. So a layer can be
// read before. Until it is hashed it has a name of its own, like every layer that is not proven; it
// is given only to those who have any IndexTrust, and who would thus be given a lazy one. Then it
// is stored under its DiffID as well, and those who read it go on. If the claim is false, their
// reads fail, and nothing is kept.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/timer_queue.h"
#include "cache/chain.h"
#include "cache/layer_maker.h"
#include "cache/layer_store.h"

namespace imagefs {

// Serves every byte until the claim turns out to be false. Thread-safe.
class UnhashedFill final : public LayerFill {
 public:
  explicit UnhashedFill(uint64_t bytes) : bytes_(bytes) {}
  void Ensure(ByteRange, ReaderId, CancelToken, Done done) override {
    absl::Status failed;
    {
      absl::MutexLock lock(&mu_);
      failed = failed_;
    }
    failed.ok() ? done(ReadPin()) : done(failed);
  }
  Progress progress() const override {
    absl::MutexLock lock(&mu_);
    return {bytes_, bytes_, failed_};
  }
  bool complete() const override { return proven_.load(std::memory_order_acquire); }
  bool whole() const override { return true; }
  bool readable() const override { return readable_.load(std::memory_order_acquire); }

  // The tar has the DiffID.
  void Prove() { proven_.store(true, std::memory_order_release); }
  // From now on reads fail.
  void Fail(const absl::Status& why) {
    absl::MutexLock lock(&mu_);
    failed_ = why;
    readable_.store(false, std::memory_order_release);
  }

 private:
  const uint64_t bytes_;
  std::atomic<bool> proven_{false}, readable_{true};
  mutable absl::Mutex mu_;
  absl::Status failed_ ABSL_GUARDED_BY(mu_);
};

class LayerStore::Hashing {
 public:
  // A layer to be hashed.
  struct Item {
    LayerRef layer;  // with an UnhashedFill
    Descriptor blob;
    std::optional<SpanTableBuilder::BlobFile> file;  // of the blob, if it is still available
    LayerOutput made;
    SourceTurns::Claim source;
  };

  explicit Hashing(LayerStore& store);
  // What is not hashed to the end is left to the next process of this boot.
  ~Hashing();

  // Whether the layer may be given to this request before its tar is hashed.
  bool MayFollow(const Request& request) const;
  // Moves the layer's files from `directory` into place, records it, pins it. Begin follows.
  absl::StatusOr<LayerRef> Publish(const Request& request, const std::string& directory,
                                   const LayerOutput& made, const Origin& origin);
  void Begin(Item item);
  // Begins with what an earlier process of this boot left.
  void BeginRecorded();

 private:
  void Submit(std::shared_ptr<const Item> item);
  void Run(const std::shared_ptr<const Item>& item);
  absl::Status Promote(const Item& item, const Digest& data);
  void RunLater(std::shared_ptr<const Item> item) ABSL_LOCKS_EXCLUDED(mu_);

  LayerStore& store_;
  CancelSource stop_;
  absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::map<Digest, Timer> retries_ ABSL_GUARDED_BY(mu_);  // by the layer's name
  std::unique_ptr<Executor> threads_;                     // last: they end before anything above
};

}  // namespace imagefs
