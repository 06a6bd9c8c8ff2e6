// SPDX-License-Identifier: Apache-2.0
// Hostile published indexes, of both forms: as they come from a registry, and, so that the checks
// behind the zstd frame are reached, as what is in that frame. The checksums of the superblock and
// of the span table are set right first. What is accepted is written anew, as for the kernel: that
// has to work, be accepted in turn, and give the same bytes a third time.
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "base/fd.h"
#include "image/erofs_format.h"
#include "image/erofs_reader.h"
#include "image/erofs_writer.h"
#include "image/index_bundle.h"
#include "image/privileges.h"
#include "image/span_table.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxUnpacked = 4 << 20;

Fd NewFile() { return Fd(memfd_create("bundle", MFD_CLOEXEC)); }

uint64_t SizeOf(const Fd& file) {
  struct stat st;
  if (fstat(file.get(), &st) != 0) abort();
  return static_cast<uint64_t>(st.st_size);
}

std::string Bytes(const Fd& file) {
  std::string bytes(SizeOf(file), '\0');
  if (!PreadFull(file.get(), absl::MakeSpan(bytes), 0).ok()) abort();
  return bytes;
}

// Null: not accepted.
std::unique_ptr<Tree> Accept(const ErofsImage& index, const SpanTableReader& span_table,
                             uint64_t max_bytes) {
  auto tree = TreeOfBundle(index, span_table, Sha256Of("blob"), 100, Sha256Of("tar"), max_bytes);
  if (!tree.ok()) return nullptr;
  if (tree->memory_bytes() > max_bytes) abort();
  RemovePrivileges(*tree);
  return std::make_unique<Tree>(*std::move(tree));
}

// "" when the writer refuses the tree, which only the first time is right.
std::string WriteAnew(const Tree& tree, uint64_t data_bytes) {
  const Fd file = NewFile();
  ErofsWriterOptions options;
  options.overlay_form = true;
  options.devices.push_back({Sha256Of("tar").hex(), data_bytes});
  if (!WriteErofs(tree, options, file.get()).ok()) return "";
  return Bytes(file);
}

void Check(const Fd& index_file, const Fd& access_file) {
  const auto span_table = SpanTableReader::OpenFd(access_file.get(), "access");
  const auto index = ErofsImage::OpenFd(index_file.get(), "index");
  if (!span_table.ok() || !index.ok()) return;
  const auto tree = Accept(**index, **span_table, 8 * SizeOf(index_file) + (1 << 20));
  if (tree == nullptr) return;
  const std::string once = WriteAnew(*tree, (*span_table)->data_bytes());
  if (once.empty()) return;
  const auto again = ErofsImage::FromMemory(once);
  if (!again.ok()) abort();
  const auto same = Accept(**again, **span_table, UINT64_MAX);
  if (same == nullptr || WriteAnew(*same, (*span_table)->data_bytes()) != once) abort();
}

// Returns whether it could be unpacked.
bool Unpack(std::string_view packed, const Fd& index, const Fd& span_table) {
  const auto windows =
      UnpackBundle(packed, kMaxUnpacked, Sha256Of("blob"), index.get(), span_table.get());
  uint64_t hole = 0;
  if (windows.ok() && windows->has_value()) {
    hole = (*windows)->blob.size;
    if (hole == 0 || hole > kMaxBundleBytes || (*windows)->piece_bytes == 0 ||
        (*windows)->pieces.size() != (*windows)->PieceCount()) {
      abort();
    }
  }
  if (SizeOf(index) + SizeOf(span_table) - hole > kMaxUnpacked) abort();
  return windows.ok() && hole <= kMaxUnpacked;
}

void SetChecksums(std::string& index, std::string& span_table) {
  constexpr size_t kAccessHeader = 136, kAccessSum = 128, kCounts = 104;
  if (index.size() >= kSuperOffset + kBlockSize) {
    char* const at = &index[kSuperOffset + offsetof(SuperBlock, checksum)];
    std::memset(at, 0, sizeof(Le32));
    const Le32 sum = Crc32c(~0U, std::string_view(index).substr(kSuperOffset, kBlockSize));
    std::memcpy(at, &sum, sizeof(sum));
  }
  if (span_table.size() >= kAccessHeader) {
    uint64_t spans = 0, moves = 0;
    std::memcpy(&spans, &span_table[kCounts], sizeof(spans));
    std::memcpy(&moves, &span_table[kCounts + 8], sizeof(moves));
    const uint64_t covered = kAccessHeader + spans * 80 + moves * 24;
    if (spans > 1000 || moves > 1000 || covered > span_table.size()) return;
    std::memset(&span_table[kAccessSum], 0, sizeof(Le32));
    const Le32 sum = Crc32c(~0U, std::string_view(span_table).substr(0, covered));
    std::memcpy(&span_table[kAccessSum], &sum, sizeof(sum));
  }
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  {
    const Fd index = NewFile(), span_table = NewFile();
    Unpack(bytes, index, span_table);
  }
  const Fd index = NewFile(), span_table = NewFile();
  if (!Unpack(CompressZstd(bytes, 1), index, span_table)) return 0;
  std::string index_bytes = Bytes(index), span_table_bytes = Bytes(span_table);
  SetChecksums(index_bytes, span_table_bytes);
  if (!PwriteFull(index.get(), index_bytes, 0).ok()) abort();
  if (!PwriteFull(span_table.get(), span_table_bytes, 0).ok()) abort();
  Check(index, span_table);
  return 0;
}
