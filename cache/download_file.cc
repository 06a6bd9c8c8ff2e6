// SPDX-License-Identifier: Apache-2.0
#include "cache/download_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

// Granularity at which a file system reports holes.
constexpr uint64_t kHoleBlock = 4096;

}  // namespace

absl::StatusOr<std::shared_ptr<DownloadFile>> DownloadFile::Open(std::string path, uint64_t size,
                                                                 StoreSpace* space,
                                                                 StoreSpace::Writer writer) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDWR | O_CREAT, 0600));
  std::shared_ptr<DownloadFile> download =
      absl::WrapUnique(new DownloadFile(std::move(path), size, std::move(fd), space, writer));
  IMAGEFS_RETURN_IF_ERROR(download->FindExisting());
  return download;
}

// A run of data may end in a partially written block, so its last block is not trusted unless the
// file ends exactly with the blob. A wrong guess only costs a second download: the reader checks
// the digest of the whole.
absl::Status DownloadFile::FindExisting() {
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) return ErrnoStatus(errno, path_);
  const uint64_t file_size = static_cast<uint64_t>(st.st_size);
  if (file_size > size_) {
    if (ftruncate(fd_.get(), 0) != 0) return ErrnoStatus(errno, path_);
    return absl::OkStatus();
  }
  absl::MutexLock lock(&mu_);
  off_t position = 0;
  while (static_cast<uint64_t>(position) < file_size) {
    const off_t begin = lseek(fd_.get(), position, SEEK_DATA);
    if (begin < 0) break;  // ENXIO: no more data
    off_t end = lseek(fd_.get(), begin, SEEK_HOLE);
    if (end < 0) break;
    position = end;
    uint64_t trusted = static_cast<uint64_t>(end);
    if (trusted != size_) {
      const uint64_t floor = trusted / kHoleBlock * kHoleBlock;
      trusted = floor == trusted ? floor - std::min(floor, kHoleBlock) : floor;
    }
    present_.Add({static_cast<uint64_t>(begin), trusted});
  }
  return absl::OkStatus();
}

absl::Status DownloadFile::Write(uint64_t offset, std::string_view data) {
  if (data.empty()) return absl::OkStatus();
  if (offset > size_ || data.size() > size_ - offset) {
    return absl::DataLossError(
        StrCat("the registry sent more than the ", size_, " bytes that the manifest announces"));
  }
  if (space_ != nullptr) IMAGEFS_RETURN_IF_ERROR(space_->Admit(data.size(), writer_));
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd_.get(), data, offset));
  std::vector<absl::AnyInvocable<void()>> callbacks;
  {
    absl::MutexLock lock(&mu_);
    present_.Add({offset, offset + data.size()});
    if (!on_first_.empty() && present_.ContiguousEnd(0) > 0) callbacks.swap(on_first_);
  }
  for (auto& callback : callbacks) callback();
  return absl::OkStatus();
}

absl::Status DownloadFile::Drop(ByteRange range) {
  if (range.begin >= range.end) return absl::OkStatus();
  {
    absl::MutexLock lock(&mu_);
    present_.Remove(range);
  }
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(range.begin), static_cast<off_t>(range.size())) != 0) {
    return ErrnoStatus(errno, path_);
  }
  return absl::OkStatus();
}

void DownloadFile::Trust(ByteRange range) {
  absl::MutexLock lock(&mu_);
  present_.Add(range);
}

std::vector<ByteRange> DownloadFile::Missing() const {
  absl::MutexLock lock(&mu_);
  return present_.Missing({0, size_});
}

uint64_t DownloadFile::present_bytes() const {
  absl::MutexLock lock(&mu_);
  return present_.total_bytes();
}

absl::StatusOr<size_t> DownloadFile::ReadPresent(absl::Span<char> buffer, uint64_t offset) const {
  uint64_t end;
  {
    absl::MutexLock lock(&mu_);
    end = present_.ContiguousEnd(offset);
  }
  return PreadFull(fd_.get(), buffer.subspan(0, end - offset), offset);
}

void DownloadFile::OnFirstByte(absl::AnyInvocable<void()> callback) {
  {
    absl::MutexLock lock(&mu_);
    if (present_.ContiguousEnd(0) == 0) {
      on_first_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

absl::StatusOr<Fd> DownloadFile::Duplicate() const { return fd_.Duplicate(); }

absl::Status DownloadFile::Discard() {
  absl::MutexLock lock(&mu_);
  present_ = RangeSet();
  if (ftruncate(fd_.get(), 0) != 0) return ErrnoStatus(errno, path_);
  return absl::OkStatus();
}

void DownloadFile::Reader::End(absl::Status status) {
  absl::MutexLock lock(&download_->mu_);
  if (ended_) return;
  ended_ = true;
  status_ = std::move(status);
}

bool DownloadFile::Reader::Ready(uint64_t offset) const {
  absl::MutexLock lock(&download_->mu_);
  return ended_ || offset >= download_->size_ || download_->present_.ContiguousEnd(offset) > offset;
}

absl::StatusOr<size_t> DownloadFile::Reader::Read(absl::Span<char> buffer, uint64_t offset) {
  MayBlock("waiting for bytes of a download");
  if (offset >= download_->size_) return 0;
  uint64_t end = 0;
  {
    absl::MutexLock lock(&download_->mu_);
    auto ready = [this, offset, &end]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(download_->mu_) {
      end = download_->present_.ContiguousEnd(offset);
      return end > offset || ended_;
    };
    download_->mu_.Await(absl::Condition(&ready));
    if (end <= offset) {
      if (!status_.ok()) return status_;
      return absl::DataLossError(StrCat("the transfer ended at byte ", offset, " of ",
                                        download_->size_, ": the blob is truncated"));
    }
  }
  const size_t want = std::min<uint64_t>(buffer.size(), end - offset);
  return PreadFull(download_->fd_.get(), buffer.subspan(0, want), offset);
}

}  // namespace imagefs
