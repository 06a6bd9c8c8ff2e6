// SPDX-License-Identifier: Apache-2.0
// Any bytes as zstd frames: what is found to be their parts is decoded to the same content.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "image/zstd_parts.h"

namespace imagefs {
namespace {

constexpr size_t kMaxContent = 4 << 20;

void Run(std::string_view blob, uint32_t part_bytes) {
  std::string content;
  auto read = [&](absl::Span<char> out, uint64_t offset) {
    if (offset > blob.size() || out.size() > blob.size() - offset) abort();
    std::memcpy(out.data(), blob.data() + offset, out.size());
    return absl::OkStatus();
  };
  auto keep = [&](std::string_view piece) {
    content += piece;
    return content.size() <= kMaxContent ? absl::OkStatus() : absl::ResourceExhaustedError("");
  };
  const auto parts = FindZstdParts({0, blob.size()}, part_bytes, read, keep);
  if (!parts.ok()) return;
  std::string again;
  std::unique_ptr<ZstdPartsDecoder> decoder;
  for (size_t i = 0; i < parts->size(); ++i) {
    const ZstdPart& part = (*parts)[i];
    if (part.begins) decoder = *ZstdPartsDecoder::Create();
    if (part.data_bytes == 0 || part.blob.empty() || part.blob.end > blob.size()) abort();
    std::string out(part.data_bytes, '\0');
    const bool last = i + 1 == parts->size() || (*parts)[i + 1].begins;
    if (!decoder->Next(blob.substr(part.blob.begin, part.blob.size()), absl::MakeSpan(out), last)
             .ok()) {
      abort();
    }
    again += out;
  }
  if (again != content) abort();
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  imagefs::Run(std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1),
               1 + uint32_t{data[0]} * 1024);
  return 0;
}
