// SPDX-License-Identifier: Apache-2.0
// The compressed bytes of one blob while it is downloaded: a sparse file that is written in any
// order and read sequentially while it fills. Bytes that are present survive a failed or cancelled
// transfer and, within one boot, a restart of the process. They are not verified: whoever reads the
// whole file checks its digest.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "base/fd.h"
#include "cache/store_space.h"

namespace imagefs {

class DownloadFile {
 public:
  // Opens or creates the file at `path` for a blob of `size` bytes. Data left by an earlier process
  // is found by the file's holes and reused. `space` is asked before bytes are written, and must
  // outlive the file; null: no limit.
  static absl::StatusOr<std::shared_ptr<DownloadFile>> Open(std::string path, uint64_t size,
                                                            StoreSpace* space,
                                                            StoreSpace::Writer writer);

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  // Stores bytes of the transfer. Returns kResourceExhausted if the disk is full or the store has
  // reached its limit, and kDataLoss for bytes beyond `size`.
  absl::Status Write(uint64_t offset, std::string_view data);
  // Marks these bytes as present regardless of the file's holes: an earlier process of this boot
  // wrote them.
  void Trust(ByteRange range);
  // Gives the space of bytes back, which are then missing.
  absl::Status Drop(ByteRange range);
  std::vector<ByteRange> Missing() const;
  uint64_t present_bytes() const;
  // Reads bytes at `offset` that are present. Returns how many: 0 if the first is not.
  absl::StatusOr<size_t> ReadPresent(absl::Span<char> buffer, uint64_t offset) const;
  // Runs `callback` once, when the first byte of the blob is present (inline if it already is).
  void OnFirstByte(absl::AnyInvocable<void()> callback);
  // Returns another descriptor of the file, which may outlive the download and its name.
  absl::StatusOr<Fd> Duplicate() const;
  // Forgets every byte, because the content was wrong.
  absl::Status Discard();

  // One sequential reader and its view of the transfer that feeds it.
  class Reader {
   public:
    explicit Reader(std::shared_ptr<DownloadFile> download) : download_(std::move(download)) {}
    // The transfer has ended for this reader. After an error, missing bytes never arrive.
    void End(absl::Status status);
    // Returns whether Read would not block.
    bool Ready(uint64_t offset) const;
    // Reads up to buffer.size() bytes at `offset`. Blocks until at least one is present. Returns 0
    // at the end of the blob.
    absl::StatusOr<size_t> Read(absl::Span<char> buffer, uint64_t offset);

   private:
    const std::shared_ptr<DownloadFile> download_;
    bool ended_ = false;  // guarded by download_->mu_, as is status_
    absl::Status status_;
  };

 private:
  DownloadFile(std::string path, uint64_t size, Fd fd, StoreSpace* space, StoreSpace::Writer writer)
      : path_(std::move(path)), size_(size), fd_(std::move(fd)), space_(space), writer_(writer) {}
  absl::Status FindExisting();

  const std::string path_;
  const uint64_t size_;
  const Fd fd_;
  StoreSpace* const space_;
  const StoreSpace::Writer writer_;
  mutable absl::Mutex mu_;
  RangeSet present_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::AnyInvocable<void()>> on_first_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
