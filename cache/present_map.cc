#include "cache/present_map.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfspr2";
constexpr size_t kMarkBytes = 8;  // the tag, the sum

uint32_t GetU32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

void PutU32(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(value >> shift));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PresentMap>> PresentMap::Open(const std::string& path,
                                                             const LayerAccess& access) {
  absl::StatusOr<Fd> file = OpenFile(path, O_RDWR | O_CREAT, 0600);
  // On a file system that became read-only, what is here can still be read.
  if (absl::IsFailedPrecondition(file.status())) file = OpenFile(path, O_RDONLY);
  IMAGEFS_RETURN_IF_ERROR(file.status());
  std::unique_ptr<PresentMap> map(new PresentMap(access, *std::move(file)));
  IMAGEFS_RETURN_IF_ERROR(map->Load(path));
  return map;
}

absl::Status PresentMap::Load(const std::string& path) {
  const size_t count = access_.span_count();
  marks_.resize(count);
  std::string bytes(kMagic.size() + count * kMarkBytes, '\0');
  struct stat st;
  if (fstat(file_.get(), &st) != 0) return ErrnoStatus(errno, path);
  IMAGEFS_RETURN_IF_ERROR(PreadFull(file_.get(), absl::MakeSpan(bytes), 0).status());
  if (bytes.starts_with(kMagic)) {
    for (size_t i = 0; i < count; ++i) {
      const std::string_view mark = std::string_view(bytes).substr(kMagic.size() + i * kMarkBytes);
      const uint32_t sum = GetU32(mark.substr(4));
      if (GetU32(mark) == TagOf(i, sum)) marks_[i] = {true, sum};
    }
    return absl::OkStatus();
  }
  // Of an older version: one byte a span.
  if (static_cast<uint64_t>(st.st_size) <= count) {
    for (size_t i = 0; i < count; ++i) marks_[i].present = bytes[i] == 1;
  }
  if (ftruncate(file_.get(), 0) != 0) return ErrnoStatus(errno, path);
  return Annotate(PwriteFull(file_.get(), kMagic, 0), path);
}

// Depends on which span this is, of which layer, and on the rest of the mark.
uint32_t PresentMap::TagOf(size_t span, uint32_t sum) const {
  const AccessSpan about = access_.span(span);
  const auto& digest = about.digest.bytes();
  std::string text(reinterpret_cast<const char*>(digest.data()), digest.size());
  PutU32(text, static_cast<uint32_t>(span));
  PutU32(text, static_cast<uint32_t>(about.data_begin >> 9));
  PutU32(text, sum);
  const uint32_t tag = Crc32c(~0U, text);
  return tag == 0 ? 1 : tag;  // 0 is a hole of the file
}

bool PresentMap::Holds(size_t span, std::string_view data) const {
  const AccessSpan about = access_.span(span);
  if (!about.digest_of_blob) return Sha256Of(data) == about.digest;
  return marks_[span].sum == Crc32c(~0U, data);
}

absl::Status PresentMap::Set(size_t span, uint32_t sum) {
  std::string mark;
  PutU32(mark, TagOf(span, sum));
  PutU32(mark, sum);
  return PwriteFull(file_.get(), mark, kMagic.size() + span * kMarkBytes);
}

absl::Status PresentMap::Clear(size_t span) {
  return PwriteFull(file_.get(), std::string(kMarkBytes, '\0'), kMagic.size() + span * kMarkBytes);
}

}  // namespace imagefs
