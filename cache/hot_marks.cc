// SPDX-License-Identifier: Apache-2.0
#include "cache/hot_marks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "image/hot_pack.h"

namespace imagefs {

namespace {

constexpr size_t kHeadBytes = 64;

absl::StatusOr<std::string> Head() {
  IMAGEFS_ASSIGN_OR_RETURN(std::string head, BootId());
  head.resize(kHeadBytes);
  return head;
}

}  // namespace

absl::StatusOr<std::vector<ByteRange>> HotMarks::Read(uint64_t data_bytes) {
  std::vector<ByteRange> out;
  absl::StatusOr<Fd> file = OpenFile(path_, O_RDWR);
  if (absl::IsNotFound(file.status())) return out;
  IMAGEFS_RETURN_IF_ERROR(file.status());
  IMAGEFS_ASSIGN_OR_RETURN(const std::string head, Head());
  std::string found(kHeadBytes, '\0');
  IMAGEFS_RETURN_IF_ERROR(PreadFull(file->get(), absl::MakeSpan(found), 0).status());
  file_ = *std::move(file);
  if (found != head) {
    Remove();
    return out;
  }
  const uint64_t pages = (data_bytes + kHotPageBytes - 1) / kHotPageBytes;
  bits_.resize((pages + 7) / 8);
  IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                           PreadFull(file_.get(), absl::MakeSpan(bits_), kHeadBytes));
  bits_.resize(got);
  for (uint64_t page = 0; page < pages && page / 8 < bits_.size(); ++page) {
    if ((static_cast<uint8_t>(bits_[page / 8]) >> page % 8 & 1) == 0) continue;
    const ByteRange range = {page * kHotPageBytes,
                             std::min((page + 1) * kHotPageBytes, data_bytes)};
    if (!out.empty() && out.back().end == range.begin) {
      out.back().end = range.end;
    } else {
      out.push_back(range);
    }
  }
  return out;
}

absl::Status HotMarks::Write(ByteRange range, bool marked) {
  if (file_.get() < 0) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string head, Head());
    IMAGEFS_ASSIGN_OR_RETURN(file_, OpenFile(path_, O_RDWR | O_CREAT | O_TRUNC, 0600));
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(file_.get(), head, 0));
  }
  const uint64_t first = range.begin / kHotPageBytes;
  const uint64_t last = (range.end - 1) / kHotPageBytes;
  if (bits_.size() <= last / 8) bits_.resize(last / 8 + 1);
  for (uint64_t page = first; page <= last; ++page) {
    const auto bit = static_cast<uint8_t>(1U << page % 8);
    const auto old = static_cast<uint8_t>(bits_[page / 8]);
    bits_[page / 8] = static_cast<char>(marked ? old | bit : old & ~bit);
  }
  return PwriteFull(file_.get(),
                    std::string_view(bits_).substr(first / 8, last / 8 - first / 8 + 1),
                    kHeadBytes + first / 8);
}

void HotMarks::Remove() {
  if (file_.get() < 0) return;
  file_.Reset();
  bits_.clear();
  if (unlink(path_.c_str()) != 0 && errno != ENOENT) {
    LogWarning("layer.cleanup_failed file=", path_, " errno=", errno);
  }
}

}  // namespace imagefs
