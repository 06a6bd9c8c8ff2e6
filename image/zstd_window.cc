// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_window.h"

#include <algorithm>
#include <array>

namespace imagefs {
namespace {

constexpr uint64_t kMinWindow = 1 << 10;
constexpr size_t kMagicBytes = 4;

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i - 1]);
  return value;
}

// Where the fields of a frame's header are.
struct Fields {
  bool single_segment = false;
  size_t window_at = 0, size_at = 0, size_bytes = 0;
  size_t end() const { return size_at + size_bytes; }
};

std::optional<Fields> FieldsOf(std::string_view head) {
  constexpr std::array<size_t, 4> kDictionaryBytes = {0, 1, 2, 4}, kSizeBytes = {0, 2, 4, 8};
  if (head.size() < kMagicBytes + 1) return std::nullopt;
  const auto descriptor = static_cast<uint8_t>(head[kMagicBytes]);
  Fields fields;
  fields.single_segment = (descriptor & 0x20) != 0;
  fields.size_bytes = kSizeBytes[descriptor >> 6];
  if (fields.size_bytes == 0 && fields.single_segment) fields.size_bytes = 1;
  fields.window_at = kMagicBytes + 1;
  fields.size_at =
      fields.window_at + (fields.single_segment ? 0 : 1) + kDictionaryBytes[descriptor & 3];
  return head.size() < fields.end() ? std::nullopt : std::optional(fields);
}

}  // namespace

std::optional<ZstdDemand> ZstdDemandOf(std::string_view head) {
  if (head.size() < kMagicBytes) return std::nullopt;
  if (LittleEndian(head.substr(0, kMagicBytes)) != kZstdMagic) return ZstdDemand{};
  const std::optional<Fields> fields = FieldsOf(head);
  if (!fields.has_value()) return std::nullopt;
  uint64_t content = LittleEndian(head.substr(fields->size_at, fields->size_bytes));
  if (fields->size_bytes == 2) content += 256;
  ZstdDemand demand;
  if (fields->single_segment) {
    demand.window = std::max(content, kMinWindow);
  } else {
    const auto byte = static_cast<uint8_t>(head[fields->window_at]);
    const uint64_t base = uint64_t{1} << (10 + (byte >> 3));
    demand.window = base + base / 8 * (byte & 7);
  }
  demand.memory = fields->size_bytes == 0 ? demand.window : std::min(demand.window, content);
  return demand;
}

std::optional<size_t> ZstdHeadBytes(std::string_view head) {
  const std::optional<Fields> fields = FieldsOf(head);
  return fields.has_value() ? std::optional(fields->end()) : std::nullopt;
}

}  // namespace imagefs
