// SPDX-License-Identifier: Apache-2.0
// Hostile span tables: the table (its checksum set right), then a blob that its spans are decoded
// from. The first two bytes say how long the table is.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "image/span_table.h"

namespace imagefs {
namespace {

constexpr size_t kHeaderBytes = 136, kChecksumAt = 128, kWindowsAt = 120;

void SetChecksum(std::string& bytes) {
  if (bytes.size() < kHeaderBytes) return;
  std::memset(&bytes[kChecksumAt], 0, 4);
  uint64_t windows = 0;
  std::memcpy(&windows, &bytes[kWindowsAt], sizeof(windows));
  if (windows > bytes.size() - kHeaderBytes) return;
  const uint32_t sum = Crc32c(~0U, std::string_view(bytes).substr(0, bytes.size() - windows));
  std::memcpy(&bytes[kChecksumAt], &sum, sizeof(sum));
}

void Spans(const SpanTableReader& span_table, std::string_view blob) {
  for (size_t i = 0; i < span_table.span_count() && i < 64; ++i) {
    SpanEntry span = span_table.span(i);
    if (span.data_bytes > 1 << 20 || span.skip > 1 << 20) continue;
    span.blob_bytes = static_cast<uint32_t>(std::min<size_t>(span.blob_bytes, blob.size()));
    if (span.blob_bytes == 0 || uint64_t{span.skip} + span.data_bytes > span.blob_bytes) {
      if (span.codec == SpanCodec::kStored || span.blob_bytes == 0) continue;
    }
    std::string out(span.data_bytes, '\0');
    (void)DecodeSpan(span, span_table.WindowOf(span), blob.substr(0, span.blob_bytes),
                     absl::MakeSpan(out))
        .ok();
    if (span.codec == SpanCodec::kDeflate) {
      (void)UsedWindow(span, blob.substr(0, span.blob_bytes)).ok();
    }
    const auto [first, last] = span_table.SpansOf({span.data_begin, span.data_end()});
    if (first > i || last <= i) abort();
  }
}

// A table without its windows is the same table, and so is one that gets them back.
void Parts(const SpanTableReader& span_table) {
  std::string whole(span_table.bytes());
  if (span_table.late_windows()) {
    const auto header = HeaderOfCompleted(whole);
    if (!header.ok()) abort();
    whole.replace(0, header->size(), *header);
    if (!SpanTableReader::Check(whole).ok()) abort();
  }
  std::string late = SpanTableWithoutWindows(whole);
  if (late.size() != span_table.windows().begin) abort();
  late += whole.substr(late.size());
  const auto again = SpanTableReader::FromBytes(late);
  if (!again.ok() || (*again)->late_windows() == span_table.windows().empty()) abort();
  if ((*again)->span_count() != span_table.span_count()) abort();
}

}  // namespace
}  // namespace imagefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  if (size < 2) return 0;
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t length = std::min<size_t>(size - 2, data[0] | data[1] << 8);
  std::string table(all.substr(2, length));
  SetChecksum(table);
  if (const auto span_table = SpanTableReader::FromBytes(std::move(table)); span_table.ok()) {
    Spans(**span_table, all.substr(2 + length));
    Parts(**span_table);
  }
  return 0;
}
