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
// What a reader of one page waits for, once those before it are decoded.
constexpr uint32_t kPartBytes = 512 << 10;

// Where a table is cut: between a point and the next one.
struct Cut {
  RestartPoint point;
  ByteRange data, blob;
};

std::vector<Cut> CutsOf(const SpanTableInput& input) {
  std::vector<Cut> cuts;
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
    cuts.push_back({point, {point.data_offset, data_end}, {point.blob_offset, blob_end}});
  }
  return cuts;
}

// Appends the span of a cut, without digest and window.
absl::Status AppendSpan(const Cut& cut, std::vector<SpanEntry>& spans) {
  if (cut.data.size() > kMaxSpanDataBytes || cut.blob.size() > kMaxSpanBlobBytes) {
    return absl::UnimplementedError(StrCat("the blob can only be entered at byte ", cut.blob.begin,
                                           " and then at ", cut.blob.end,
                                           ", too far apart to be read in parts"));
  }
  SpanEntry span;
  span.data_begin = cut.data.begin;
  span.data_bytes = static_cast<uint32_t>(cut.data.size());
  span.blob_begin = cut.blob.begin;
  span.blob_bytes = static_cast<uint32_t>(cut.blob.size());
  span.codec = cut.point.codec;
  span.bit = cut.point.bit;
  spans.push_back(span);
  return absl::OkStatus();
}

// Appends the parts of the zstd frames of a cut, which are proven meanwhile.
absl::Status AppendParts(const Cut& cut, const SpanTableInput& input, const CancelToken& cancel,
                         std::vector<SpanEntry>& spans) {
  uint64_t at = cut.data.begin;
  std::string tar;
  auto compare = [&](std::string_view content) {
    if (cancel.cancelled()) return absl::CancelledError("the span table is no longer wanted");
    // What follows the tar is nobody's.
    content = content.substr(0, cut.data.end - at);
    tar.resize(content.size());
    IMAGEFS_RETURN_IF_ERROR(PreadExact(input.data_fd, absl::MakeSpan(tar), at, kData));
    at += content.size();
    if (content == tar) return absl::OkStatus();
    return absl::DataLossError(StrCat("the tar is not what the blob has before byte ", at));
  };
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ZstdPart> parts,
                           FindZstdParts(cut.blob, kPartBytes, input.read_blob, compare));
  uint64_t data = cut.data.begin;
  for (const ZstdPart& part : parts) {
    if (data == cut.data.end) break;
    SpanEntry span;
    span.data_begin = data;
    span.data_bytes =
        static_cast<uint32_t>(std::min<uint64_t>(part.data_bytes, cut.data.end - data));
    span.blob_begin = part.blob.begin;
    span.blob_bytes = static_cast<uint32_t>(part.blob.size());
    span.codec = part.begins ? SpanCodec::kZstdBegin : SpanCodec::kZstdNext;
    span.digest_of = SpanDigest::kOfBlob;
    span.digest = part.digest;
    spans.push_back(span);
    data = span.data_end();
  }
  return data == cut.data.end ? absl::OkStatus()
                              : absl::DataLossError("the blob has less than the tar");
}

// Returns the spans of the blob: without digests and windows, but for parts of frames.
absl::StatusOr<std::vector<SpanEntry>> SpansOf(const SpanTableInput& input,
                                               const CancelToken& cancel) {
  std::vector<SpanEntry> spans;
  for (const Cut& cut : CutsOf(input)) {
    absl::Status status = absl::UnimplementedError("");
    if (cut.point.codec == SpanCodec::kZstd && cut.data.size() > input.whole_frame_bytes) {
      status = AppendParts(cut, input, cancel, spans);
    }
    if (absl::IsUnimplemented(status)) status = AppendSpan(cut, spans);
    IMAGEFS_RETURN_IF_ERROR(status);
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
  IMAGEFS_ASSIGN_OR_RETURN(table.spans, SpansOf(input, cancel));
  std::string blob, data, window;
  for (SpanEntry& span : table.spans) {
    if (cancel.cancelled()) return absl::CancelledError("the span table is no longer wanted");
    if (IsZstdPart(span.codec)) continue;
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
    if (span.codec == SpanCodec::kZstdNext) continue;
    const SpanCodec codec = IsZstdPart(span.codec) ? SpanCodec::kZstd : span.codec;
    points.push_back({span.blob_begin, span.data_begin, codec, span.bit});
  }
  return points;
}

}  // namespace imagefs
