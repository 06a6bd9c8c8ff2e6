// SPDX-License-Identifier: Apache-2.0
#include "cache/present_map.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfspr2";
constexpr size_t kMarkBytes = 8;  // the tag and the checksum

}  // namespace

absl::StatusOr<std::unique_ptr<PresentMap>> PresentMap::Open(const std::string& path,
                                                             const SpanTableReader& span_table) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd file, OpenOrCreate(path));
  std::unique_ptr<PresentMap> map(new PresentMap(span_table, std::move(file)));
  IMAGEFS_RETURN_IF_ERROR(map->Load(path));
  return map;
}

absl::Status PresentMap::Load(const std::string& path) {
  const size_t count = table_.span_count();
  marks_.resize(count);
  std::string bytes(kMagic.size() + count * kMarkBytes, '\0');
  struct stat st;
  if (fstat(file_.get(), &st) != 0) return ErrnoStatus(errno, path);
  IMAGEFS_RETURN_IF_ERROR(PreadFull(file_.get(), absl::MakeSpan(bytes), 0).status());
  if (bytes.starts_with(kMagic)) {
    for (size_t i = 0; i < count; ++i) {
      const std::string_view mark = std::string_view(bytes).substr(kMagic.size() + i * kMarkBytes);
      const uint32_t sum = GetLittleEndian<uint32_t>(mark.substr(4));
      if (GetLittleEndian<uint32_t>(mark) == TagOf(i, sum)) marks_[i] = {true, sum};
    }
    return absl::OkStatus();
  }
  // Of an older version: one byte per span.
  if (static_cast<uint64_t>(st.st_size) <= count) {
    for (size_t i = 0; i < count; ++i) marks_[i].present = bytes[i] == 1;
  }
  if (ftruncate(file_.get(), 0) != 0) return ErrnoStatus(errno, path);
  return Annotate(PwriteFull(file_.get(), kMagic, 0), path);
}

// Depends on the layer, the span, and the rest of the mark.
uint32_t PresentMap::TagOf(size_t span, uint32_t sum) const {
  const SpanEntry about = table_.span(span);
  const auto& digest = about.digest.bytes();
  std::string text(reinterpret_cast<const char*>(digest.data()), digest.size());
  PutLittleEndian<uint32_t>(text, static_cast<uint32_t>(span));
  PutLittleEndian<uint32_t>(text, static_cast<uint32_t>(about.data_begin >> 9));
  PutLittleEndian<uint32_t>(text, sum);
  const uint32_t tag = Crc32c(~0U, text);
  return tag == 0 ? 1 : tag;  // 0 is a hole of the file
}

bool PresentMap::Holds(size_t span, std::string_view data) const {
  const SpanEntry about = table_.span(span);
  if (about.digest_of == SpanDigest::kOfData) return Sha256Of(data) == about.digest;
  return marks_[span].sum == Crc32c(~0U, data);
}

absl::Status PresentMap::Set(size_t span, uint32_t sum) {
  std::string mark;
  PutLittleEndian<uint32_t>(mark, TagOf(span, sum));
  PutLittleEndian<uint32_t>(mark, sum);
  return PwriteFull(file_.get(), mark, kMagic.size() + span * kMarkBytes);
}

absl::Status PresentMap::Clear(size_t span) {
  return PwriteFull(file_.get(), std::string(kMarkBytes, '\0'), kMagic.size() + span * kMarkBytes);
}

absl::StatusOr<std::vector<uint32_t>> SpansNotAsMarked(const std::string& directory,
                                                       const SpanTableReader& span_table,
                                                       absl::FunctionRef<bool(size_t)> pace) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<PresentMap> present,
                           PresentMap::Open(directory + "/present", span_table));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  std::vector<uint32_t> wrong;
  std::string bytes;
  for (uint32_t i = 0; i < span_table.span_count(); ++i) {
    if (!present->mark(i).present) continue;
    const SpanEntry span = span_table.span(i);
    bytes.resize(span.data_bytes);
    if (!pace(bytes.size())) return absl::CancelledError("the check was cancelled");
    if (!PreadExact(data.get(), absl::MakeSpan(bytes), span.data_begin, "data").ok() ||
        !present->Holds(i, bytes)) {
      wrong.push_back(i);
    }
  }
  return wrong;
}

}  // namespace imagefs
