// SPDX-License-Identifier: Apache-2.0
// Hostile hot packs. The first two bytes say how long the header is; the rest is the pack. What is
// accepted keeps what the users of a pack rely on: no page twice or outside of its layer, frames
// that follow each other, and no more bytes than the limits.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "image/hot_pack.h"

namespace imagefs {
namespace {

void Check(const HotPack& pack, std::string_view bytes, size_t header_bytes) {
  std::set<std::pair<uint32_t, uint64_t>> pages;
  uint64_t total = 0, at = header_bytes;
  uint32_t piece = 0;
  for (const HotPack::Frame& frame : pack.frames) {
    if (frame.first != piece || frame.last <= frame.first || frame.blob.begin != at) abort();
    piece = frame.last;
    at = frame.blob.end;
    uint64_t data_bytes = 0;
    for (uint32_t i = frame.first; i < frame.last; ++i) {
      const auto& [layer, range] = pack.pieces[i];
      if (range.empty() || range.end > pack.layers[layer].data_bytes) abort();
      data_bytes += range.size();
      for (uint64_t page = range.begin / kHotPageBytes; page * kHotPageBytes < range.end; ++page) {
        if (!pages.insert({layer, page}).second) abort();
      }
    }
    if (data_bytes != frame.data_bytes || data_bytes > kMaxPackFrameBytes) abort();
    total += data_bytes;
    const auto plain = UnpackHotFrame(frame, bytes.substr(frame.blob.begin, frame.blob.size()));
    if (plain.ok() && plain->size() != data_bytes) abort();
  }
  if (piece != pack.pieces.size() || at != bytes.size()) abort();
  if (total != pack.data_bytes || total > kMaxPackDataBytes) abort();
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t header_bytes = std::min<size_t>(bytes.size(), data[0] | data[1] << 8);
  const auto pack = HotPack::Parse(bytes.substr(0, header_bytes), bytes.size());
  if (pack.ok()) Check(*pack, bytes, header_bytes);
  return 0;
}
