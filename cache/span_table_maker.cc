// SPDX-License-Identifier: Apache-2.0
#include "cache/span_table_maker.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kData = "the layer's data file";

// Returns the spans between the points, without digests and windows.
absl::StatusOr<std::vector<SpanEntry>> Cut(const SpanTableInput& input) {
  std::vector<SpanEntry> spans;
  for (size_t i = 0; i < input.points.size(); ++i) {
    const RestartPoint& point = input.points[i];
    const bool last = i + 1 == input.points.size();
    const uint64_t data_end =
        std::min(input.tar_bytes, last ? input.tar_bytes : input.points[i + 1].data_offset);
    // The byte in which the next block begins contains the end of this one.
    const uint64_t blob_end =
        last ? input.blob_size
             : input.points[i + 1].blob_offset + (input.points[i + 1].bit != 0 ? 1 : 0);
    if (point.data_offset >= data_end) continue;
    if (data_end - point.data_offset > kMaxSpanDataBytes ||
        blob_end - point.blob_offset > kMaxSpanBlobBytes) {
      return absl::UnimplementedError(StrCat("the blob can only be entered at byte ",
                                             point.blob_offset, " and then at ", blob_end,
                                             ", too far apart to be read in parts"));
    }
    SpanEntry span;
    span.data_begin = point.data_offset;
    span.data_bytes = static_cast<uint32_t>(data_end - point.data_offset);
    span.blob_begin = point.blob_offset;
    span.blob_bytes = static_cast<uint32_t>(blob_end - point.blob_offset);
    span.codec = point.codec;
    span.bit = point.bit;
    spans.push_back(span);
  }
  return spans;
}

}  // namespace

absl::StatusOr<SpanTable> MakeSpanTable(const SpanTableInput& input, const CancelToken& cancel) {
  SpanTable table;
  table.blob_digest = input.blob_digest;
  table.blob_size = input.blob_size;
  table.diff_id = input.diff_id;
  table.tar_bytes = input.tar_bytes;
  table.data_bytes = input.data_bytes;
  table.moves = input.moves;
  IMAGEFS_ASSIGN_OR_RETURN(table.spans, Cut(input));
  std::string blob, data, window;
  for (SpanEntry& span : table.spans) {
    if (cancel.cancelled()) return absl::CancelledError("the span table is no longer wanted");
    blob.resize(span.blob_bytes);
    data.resize(span.data_bytes);
    IMAGEFS_RETURN_IF_ERROR(input.read_blob(absl::MakeSpan(blob), span.blob_begin));
    IMAGEFS_RETURN_IF_ERROR(
        PreadExact(input.data_fd, absl::MakeSpan(data), span.data_begin, kData));
    span.digest = Sha256Of(data);
    std::string packed;
    if (span.codec == SpanCodec::kDeflate) {
      window.resize(std::min<uint64_t>(kDeflateWindowBytes, span.data_begin));
      IMAGEFS_RETURN_IF_ERROR(PreadExact(input.data_fd, absl::MakeSpan(window),
                                         span.data_begin - window.size(), kData));
      IMAGEFS_ASSIGN_OR_RETURN(const std::vector<bool> used, UsedWindow(span, blob));
      packed = PackWindow(window, used);
      span.window_offset = table.windows.size();
      span.window_bytes = static_cast<uint32_t>(packed.size());
      table.windows += packed;
    }
    // Otherwise a table that does not give the tar's bytes would be detected only by its users.
    IMAGEFS_RETURN_IF_ERROR(DecodeSpan(span, packed, blob, absl::MakeSpan(data)));
  }
  return table;
}

std::vector<RestartPoint> PointsOf(const SpanTableReader& table) {
  std::vector<RestartPoint> points;
  for (size_t i = 0; i < table.span_count(); ++i) {
    const SpanEntry span = table.span(i);
    points.push_back({span.blob_begin, span.data_begin, span.codec, span.bit});
  }
  return points;
}

}  // namespace imagefs
