// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_window.h"

#include <algorithm>
#include <array>

namespace imagefs {
namespace {

constexpr uint32_t kZstdMagic = 0xFD2FB528;
constexpr uint64_t kMinWindow = 1 << 10;

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i - 1]);
  return value;
}

}  // namespace

std::optional<ZstdDemand> ZstdDemandOf(std::string_view head) {
  constexpr size_t kMagicBytes = 4;
  if (head.size() < kMagicBytes) return std::nullopt;
  if (LittleEndian(head.substr(0, kMagicBytes)) != kZstdMagic) return ZstdDemand{};
  if (head.size() < kMagicBytes + 1) return std::nullopt;
  const auto descriptor = static_cast<uint8_t>(head[kMagicBytes]);
  const bool single_segment = (descriptor & 0x20) != 0;
  constexpr std::array<size_t, 4> kDictionaryBytes = {0, 1, 2, 4}, kSizeBytes = {0, 2, 4, 8};
  size_t size_bytes = kSizeBytes[descriptor >> 6];
  if (size_bytes == 0 && single_segment) size_bytes = 1;
  const size_t window_at = kMagicBytes + 1;
  const size_t size_at = window_at + (single_segment ? 0 : 1) + kDictionaryBytes[descriptor & 3];
  if (head.size() < size_at + size_bytes) return std::nullopt;

  uint64_t content = LittleEndian(head.substr(size_at, size_bytes));
  if (size_bytes == 2) content += 256;
  ZstdDemand demand;
  if (single_segment) {
    demand.window = std::max(content, kMinWindow);
  } else {
    const auto byte = static_cast<uint8_t>(head[window_at]);
    const uint64_t base = uint64_t{1} << (10 + (byte >> 3));
    demand.window = base + base / 8 * (byte & 7);
  }
  demand.memory = size_bytes == 0 ? demand.window : std::min(demand.window, content);
  return demand;
}

}  // namespace imagefs
