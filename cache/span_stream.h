// SPDX-License-Identifier: Apache-2.0
// The tar of a blob, decoded span by span on several threads by a span table, and given in order.
// The table is only a hint: it is believed nowhere but in where to enter the blob. What comes out
// is right if the digest of the blob and that of the tar are, which the caller compares.
//
//   reader          reads the blob in order, and the window of each span
//   decoders        decode one span each, and write it to the data file
//   two hashers     of the blob and of the tar, each in order
//   caller          Next: the tar, in order
//
// A span is held until all of them are done with it, at most kMostBytes of them at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/digest.h"
#include "base/executor.h"
#include "image/span_table.h"

namespace imagefs {

class SpanStream {
 public:
  static constexpr uint64_t kMostBytes = 64 << 20;
  static constexpr uint32_t kMaxSpanBytes = 8 << 20;  // of the blob, and of the tar

  // How spans are decoded.
  struct Decoding {
    const SpanTableReader& table;  // REQUIRES: Check
    // The packed window of a span that has one. May block. Called from one other thread.
    absl::FunctionRef<absl::StatusOr<std::string>(const SpanEntry&)> window;
    Executor& threads;
    PriorityRef priority;
  };
  // Returns why the table is not one of a whole tar, of this blob and DiffID, by spans that are
  // small enough.
  static absl::Status Check(const SpanTableReader& table, const Digest& blob, uint64_t blob_size,
                            const Digest& diff_id);

  // Both are called from one other thread, and `read` as in LayerInput.
  using Read = absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char> buffer, uint64_t offset)>;
  using Admit = absl::FunctionRef<absl::Status(uint64_t bytes)>;  // before bytes are written
  // Starts the threads. Everything it is given must outlive it.
  SpanStream(const Decoding& decoding, Read read, Admit admit, int data_fd);
  // Waits for the threads, and for a call of `read` or `window` in progress.
  ~SpanStream();
  SpanStream(const SpanStream&) = delete;
  SpanStream& operator=(const SpanStream&) = delete;

  // The next bytes of the tar, which are in the data file already; valid until the next call. Empty
  // at the end. kDataLoss: the blob is not what the table says. Blocks.
  absl::StatusOr<std::string_view> Next();

  struct Hashes {
    Digest blob;
    Sha256 tar;  // unfinished
  };
  // REQUIRES: Next returned the end. Call once. Blocks.
  absl::StatusOr<Hashes> Finish();

 private:
  struct Piece;
  using PieceRef = std::shared_ptr<Piece>;
  // Who goes through the pieces in order.
  enum Follower : uint8_t { kBlobHash, kTarHash, kCaller, kFollowers };

  absl::Status ReadAll();
  absl::Status ReadExact(absl::Span<char> out, uint64_t offset);
  absl::Status Push(PieceRef piece);
  void Decode(Piece& piece);
  // Returns the next piece for it, and gives back the one before; null at the end. `decoded`: once
  // it is.
  absl::StatusOr<PieceRef> Follow(Follower who, bool decoded);
  void Stop(const absl::Status& why);

  const Decoding decoding_;
  const Read read_;
  const Admit admit_;
  const int data_fd_;
  Sha256 blob_hash_, tar_hash_;  // of their threads until these are joined
  absl::Mutex mu_;
  std::deque<PieceRef> pieces_ ABSL_GUARDED_BY(mu_);
  uint64_t first_ ABSL_GUARDED_BY(mu_) = 0;  // number of the first one
  uint64_t next_[kFollowers] ABSL_GUARDED_BY(mu_) = {};
  bool holds_[kFollowers] ABSL_GUARDED_BY(mu_) = {};
  uint64_t held_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  int decoding_now_ ABSL_GUARDED_BY(mu_) = 0;  // tasks that are queued or running
  bool all_read_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::thread reader_, blob_hasher_, tar_hasher_;
};

}  // namespace imagefs
