// SPDX-License-Identifier: Apache-2.0
// An in-memory image source, scripted by tests: holds a blob back, fails it, damages it, and
// records every requested range.
//
// A FakeRepository is the content; a FakeSource is one caller's access to it with its own auth
// scope. Thread-safe. Transfers run on the repository's threads, which must not block, like the
// network thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "fetch/source.h"

namespace imagefs {

class FakeRepository {
 public:
  // `threads`: the number of concurrent transfers.
  explicit FakeRepository(int threads = 4) : threads_(ThreadRole::kTest, threads) {}

  // Adds an image made of these uncompressed tars, bottom first, under `tag`. Returns the digest of
  // its manifest.
  Digest AddImage(const std::string& tag, const std::vector<std::string>& tars);
  // Like the above, with blobs that may be compressed and DiffIDs that may be false.
  struct LayerSpec {
    std::string blob;
    Digest diff_id;
    bool gzip = false;
    bool foreign = false;  // read at its urls: the registry confirms access for nobody
  };
  Digest AddImage(const std::string& tag, const std::vector<LayerSpec>& layers);
  // Adds a manifest under `tag` (and its digest).
  Digest AddManifest(const std::string& tag, const std::string& json);
  // Adds a blob that belongs to no image.
  Descriptor AddBlob(std::string bytes);
  // Adds an image index under `tag`, which lists the images of other tags. Returns its digest.
  struct IndexEntry {
    std::string tag;
    std::string platform;  // as Platform::ToString; "" = not given
  };
  Digest AddIndex(const std::string& tag, const std::vector<IndexEntry>& entries);
  // Returns the blob of the n-th layer of the image added last.
  Descriptor LayerBlob(size_t n) const { return last_layers_.at(n); }

  // Stops every transfer before byte `offset` of this blob until Release.
  void HoldAt(const Digest& blob, uint64_t offset);
  void Release(const Digest& blob);
  // Stalls the next `times` transfers of the blob before their first byte until they are cancelled
  // or Release is called.
  void Stall(const Digest& blob, int times);
  // Returns how many transfers are held or stalled.
  int Standing(const Digest& blob) const;
  // Makes the next `times` transfers of the blob end with `status` at byte `offset`.
  void FailAt(const Digest& blob, uint64_t offset, absl::Status status, int times);
  // Makes the next `times` transfers of the blob deliver one wrong byte at `offset`; a transfer of
  // the whole blob is rejected for it.
  void CorruptAt(const Digest& blob, uint64_t offset, int times);
  // From now on large ranges of the blob arrive as from a registry: in parts of `part` bytes,
  // `at_once` of them in flight, the last of these always ahead of the others, in pieces of odd
  // sizes.
  void Interleave(const Digest& blob, uint64_t part, size_t at_once);
  // Has no parts of the blob: readers of parts get all of it.
  void IgnoreRanges(const Digest& blob);
  // Violate the contract of a source in the next `times` transfers of the blob: deliver each piece
  // twice; end early with OK.
  void RepeatPieces(const Digest& blob, int times);
  void EndEarly(const Digest& blob, uint64_t offset, int times);
  // Makes blob reads with this auth scope fail with kPermissionDenied, and its blobs appear absent.
  void Deny(const std::string& auth_scope);
  // The same for one blob only.
  void Deny(const std::string& auth_scope, const Digest& blob);

  // Requested ranges, in order.
  std::vector<ByteRange> Reads(const Digest& blob) const;
  int manifest_reads() const { return manifest_reads_; }
  // The tags and digests of requested manifests, in order.
  std::vector<std::string> manifests_asked() const {
    absl::MutexLock lock(&mu_);
    return manifests_asked_;
  }
  // Number of queries whether a blob exists.
  int questions() const { return questions_; }
  // Waits until a transfer of the blob is held.
  void AwaitHeld(const Digest& blob);

  // "" = anonymous.
  std::shared_ptr<ImageSource> Open(const std::string& auth_scope,
                                    const std::string& registry = "registry.test");

 private:
  friend class FakeSource;
  struct Blob {
    std::string bytes;
    uint64_t hold_at = UINT64_MAX;
    int held = 0;
    int stalls = 0;
    bool released = false;
    uint64_t fail_at = 0;
    absl::Status failure;
    int failures = 0;
    uint64_t corrupt_at = 0;
    int corruptions = 0;
    uint64_t part = UINT64_MAX;
    size_t at_once = 1;
    int repeats = 0;
    uint64_t end_at = 0;
    int early_ends = 0;
    bool whole_only = false;
    std::vector<ByteRange> reads;
  };
  bool SendsParts(const Digest& blob);
  bool Has(const std::string& auth_scope, const Descriptor& blob);
  absl::StatusOr<std::string> Small(const Descriptor& blob, uint64_t max_bytes);
  void Transfer(const std::string& auth_scope, const Descriptor& blob,
                std::vector<ByteRange> ranges, const CancelToken& cancel,
                ImageSource::BlobSink& sink, ImageSource::BlobDone& done);
  // Returns the next bytes of the blob from offset `at`, up to `end`; "" = the transfer ends there
  // as if it were complete. Waits at a hold.
  absl::StatusOr<std::string> NextPiece(const Digest& blob, uint64_t at, uint64_t end,
                                        const CancelToken& cancel);
  absl::Status Deliver(const Descriptor& blob, ByteRange range, const CancelToken& cancel,
                       ImageSource::BlobSink& sink);

  mutable absl::Mutex mu_;
  std::map<std::string, std::string> manifests_ ABSL_GUARDED_BY(mu_);  // tag or digest -> bytes
  std::map<Digest, Blob> blobs_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> manifests_asked_ ABSL_GUARDED_BY(mu_);
  bool DeniedLocked(const std::string& auth_scope, const Digest& blob) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<std::string> denied_ ABSL_GUARDED_BY(mu_);
  std::set<std::pair<std::string, Digest>> denied_blobs_ ABSL_GUARDED_BY(mu_);
  std::set<Digest> foreign_ ABSL_GUARDED_BY(mu_);
  std::vector<Descriptor> last_layers_;
  std::atomic<int> manifest_reads_{0}, questions_{0};
  Executor threads_;
};

// Opens every registry reference on one repository; the username is the auth scope.
class FakeSourceFactory : public SourceFactory {
 public:
  explicit FakeSourceFactory(FakeRepository& repository) : repository_(repository) {}
  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference,
                                                    const Access& access) override;
  Counters counters() const override { return {}; }

 private:
  FakeRepository& repository_;
};

}  // namespace imagefs
