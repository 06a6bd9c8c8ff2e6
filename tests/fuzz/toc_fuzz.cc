// SPDX-License-Identifier: Apache-2.0
// Tables of contents of eStargz and zstd:chunked. The first byte says what the rest is: 'f' a
// footer, 'e' or 'z' the table as it lies in a blob, 'j' or 'k' its JSON.
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/digest.h"
#include "base/fd.h"
#include "image/toc.h"
#include "tests/fuzz/table_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const char what = static_cast<char>(data[0]);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  constexpr uint64_t kMaxUnpacked = 1 << 20;
  imagefs::TocLocation location;
  if (what == 'f') {
    constexpr uint64_t kBlobSize = uint64_t{1} << 20;
    const auto range = imagefs::ParseEstargzFooter(bytes, kBlobSize);
    if (range.ok() && (range->empty() || range->end >= kBlobSize)) std::abort();
    return 0;
  }
  if (what == 'z' || what == 'k') location.kind = imagefs::TocKind::kZstdChunked;
  if (what == 'e' || what == 'z') {
    location.range = {0, bytes.size()};
    location.digest = imagefs::Sha256Of(bytes);
    location.json_bytes = kMaxUnpacked;
    if (imagefs::AnnouncedTocBytes(location, bytes) > kMaxUnpacked) return 0;
    const imagefs::Fd file(memfd_create("toc", MFD_CLOEXEC));
    const auto json = imagefs::OpenToc(location, bytes, file.get());
    struct stat st;
    if (fstat(file.get(), &st) != 0 || static_cast<uint64_t>(st.st_size) > kMaxUnpacked) abort();
    if (json.ok() && json->json.end > static_cast<uint64_t>(st.st_size)) abort();
    return 0;
  }
  constexpr uint64_t kTocBegin = uint64_t{1} << 20;
  imagefs::Descriptor blob;
  blob.size = 2 * kTocBegin;
  location.range = {kTocBegin, kTocBegin + 1000};
  const auto table = imagefs::BuildFromToc(location, bytes, std::nullopt, blob, imagefs::Digest());
  if (table.ok()) imagefs::CheckTable(*table);
  return 0;
}
