// SPDX-License-Identifier: Apache-2.0
// Hostile indexes: every call of the reader on whatever the image says. The checksum of the
// superblock is set right first, since otherwise no change to that block would get any further.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "image/erofs_format.h"
#include "image/erofs_reader.h"
#include "image/merge.h"

namespace imagefs {
namespace {

void SetChecksum(std::string& bytes) {
  if (bytes.size() < kSuperOffset + kBlockSize) return;
  char* checksum = &bytes[kSuperOffset + offsetof(SuperBlock, checksum)];
  std::memset(checksum, 0, sizeof(Le32));
  const Le32 sum = Crc32c(0xffffffff, std::string_view(bytes).substr(kSuperOffset, kBlockSize));
  std::memcpy(checksum, &sum, sizeof(sum));
}

void Inode(const ErofsImage& image, Nid nid) {
  const auto stat = image.GetStat(nid);
  (void)image.StoredBytes(nid).ok();
  (void)image.Readlink(nid).ok();
  if (const auto xattrs = image.Xattrs(nid); xattrs.ok()) {
    for (const Xattr& xattr : *xattrs) {
      if (!image.GetXattr(nid, xattr.name)->has_value()) abort();
    }
  }
  if (!stat.ok()) return;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{513}, stat->size / 2, stat->size - 1}) {
    const auto extent = image.Map(nid, offset);
    if (!extent.ok()) continue;
    if (offset >= stat->size || extent->length == 0 || extent->length > stat->size - offset)
      abort();
    if (extent->device > image.devices().size()) abort();
    if (extent->device > 0 &&
        extent->data_offset + extent->length > image.devices()[extent->device - 1].size_bytes) {
      abort();
    }
  }
}

void Directory(const ErofsImage& image, Nid nid, std::vector<Nid>& found) {
  int budget = 300;
  std::vector<uint64_t> positions = {1, 12, 511, 513, UINT64_MAX};
  (void)image
      .ReadDir(nid, 0,
               [&](const ErofsImage::DirentView& entry) {
                 if (entry.name.empty() || entry.name.size() > kMaxName) abort();
                 found.push_back(entry.nid);
                 (void)image.Lookup(nid, entry.name).ok();
                 if (budget % 37 == 0) positions.push_back(entry.next);
                 return --budget > 0;
               })
      .ok();
  for (const uint64_t position : positions) {
    (void)image.ReadDir(nid, position, [](const ErofsImage::DirentView&) { return false; }).ok();
  }
  (void)image.Lookup(nid, "entry-1").ok();
}

void Walk(const ErofsImage& image) {
  std::vector<Nid> stack = {image.root()};
  std::set<Nid> seen;
  while (!stack.empty() && seen.size() < 300) {
    const Nid nid = stack.back();
    stack.pop_back();
    if (!seen.insert(nid).second) continue;
    Inode(image, nid);
    Directory(image, nid, stack);
  }
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 18) return 0;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  imagefs::SetChecksum(bytes);
  const auto image = imagefs::ErofsImage::FromMemory(bytes);
  if (!image.ok()) return 0;
  imagefs::Walk(**image);
  (void)(*image)->ToTree(3).ok();
  (void)imagefs::MergeLayers({image->get(), image->get()}).ok();
  return 0;
}
