// SPDX-License-Identifier: Apache-2.0
#include "image/span_table.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "base/fd.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"
#include "image/raw_digest.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfsacc";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kVersionLate = 2;  // its windows come later
constexpr size_t kHeaderBytes = 136, kVersionAt = 8, kSumAt = 128, kWindowSumAt = 132;
constexpr size_t kRecordBytes = 80;
constexpr size_t kMoveBytes = 24;
constexpr size_t kMaxMoves = 4 << 20;
// Of a stored table: small enough for a reader of one page not to wait for the rest, and as large
// as is needed for a table of no more than this many spans.
constexpr uint64_t kStoredSpanBytes = 256 << 10;
constexpr uint64_t kManyStoredSpans = 64 << 10;

void PutSpan(std::string& out, const SpanEntry& span) {
  PutLittleEndian<uint64_t>(out, span.data_begin);
  PutLittleEndian<uint64_t>(out, span.blob_begin);
  PutLittleEndian<uint32_t>(out, span.data_bytes);
  PutLittleEndian<uint32_t>(out, span.blob_bytes);
  PutLittleEndian<uint32_t>(out, span.skip);
  out.push_back(static_cast<char>(span.codec));
  out.push_back(static_cast<char>(span.bit));
  out.push_back(static_cast<char>(span.digest_of));
  out.push_back('\0');
  PutLittleEndian<uint64_t>(out, span.window_offset);
  PutLittleEndian<uint32_t>(out, span.window_bytes);
  PutLittleEndian<uint32_t>(out, 0);
  PutDigest(out, span.digest);
}

SpanEntry GetSpan(std::string_view record) {
  SpanEntry span;
  span.data_begin = GetLittleEndian<uint64_t>(record, 0);
  span.blob_begin = GetLittleEndian<uint64_t>(record, 8);
  span.data_bytes = GetLittleEndian<uint32_t>(record, 16);
  span.blob_bytes = GetLittleEndian<uint32_t>(record, 20);
  span.skip = GetLittleEndian<uint32_t>(record, 24);
  span.codec = static_cast<SpanCodec>(record[28]);
  span.bit = static_cast<uint8_t>(record[29]);
  span.digest_of = static_cast<SpanDigest>(record[30]);
  span.window_offset = GetLittleEndian<uint64_t>(record, 32);
  span.window_bytes = GetLittleEndian<uint32_t>(record, 40);
  span.digest = GetDigest(record, 48);
  return span;
}

absl::Status Wrong(std::string_view what) {
  return absl::DataLossError(StrCat("the span table is malformed: ", what));
}

bool InRange(uint64_t begin, uint64_t length, uint64_t size) {
  return begin <= size && length <= size - begin;
}

// Never 0, which marks tables of older versions.
uint32_t SumOfWindows(std::string_view windows) {
  const uint32_t sum = Crc32c(~0U, windows);
  return sum == 0 ? 1 : sum;
}

// `bytes`: the header and all up to the windows.
uint32_t SumOfRecords(std::string_view bytes) {
  std::string header(bytes.substr(0, kHeaderBytes));
  std::memset(header.data() + kSumAt, 0, sizeof(uint32_t));
  return Crc32c(Crc32c(~0U, header), bytes.substr(kHeaderBytes));
}

void SetNumber(std::string& bytes, size_t at, uint32_t number) {
  for (size_t i = 0; i < sizeof(number); ++i) bytes[at + i] = static_cast<char>(number >> (8 * i));
}

// Validates one span on its own.
absl::Status CheckSpan(const SpanEntry& span, uint64_t blob_size, uint64_t data_bytes,
                       uint64_t windows) {
  if (span.data_bytes == 0 || span.data_bytes > kMaxSpanDataBytes ||
      !InRange(span.data_begin, span.data_bytes, data_bytes)) {
    return Wrong("a span outside of the data");
  }
  if (span.blob_bytes == 0 || span.blob_bytes > kMaxSpanBlobBytes ||
      !InRange(span.blob_begin, span.blob_bytes, blob_size)) {
    return Wrong("a span outside of the blob");
  }
  if (span.codec > SpanCodec::kZstdNext || span.bit > 7 || span.skip > kMaxSpanSkip ||
      (span.bit != 0 && span.codec != SpanCodec::kDeflate) ||
      (span.window_bytes != 0 && span.codec != SpanCodec::kDeflate) ||
      span.digest_of > SpanDigest::kNone ||
      (span.digest_of == SpanDigest::kNone && span.codec != SpanCodec::kStored)) {
    return Wrong("a span of an unknown kind");
  }
  if (span.codec == SpanCodec::kStored && uint64_t{span.skip} + span.data_bytes > span.blob_bytes) {
    return Wrong("a stored span that is longer than its bytes");
  }
  if (IsZstdPart(span.codec) && (span.skip != 0 || span.digest_of != SpanDigest::kOfBlob ||
                                 std::max(span.data_bytes, span.blob_bytes) > kMaxZstdPartBytes)) {
    return Wrong("a part of a zstd frame of an unknown kind, or too large");
  }
  // A window is a zstd frame of 32 KiB: never much larger than its content.
  if (span.window_bytes > 2 * kDeflateWindowBytes ||
      !InRange(span.window_offset, span.window_bytes, windows)) {
    return Wrong("a window outside of the windows");
  }
  return absl::OkStatus();
}

}  // namespace

SpanTable StoredSpanTable(const Digest& blob, uint64_t bytes) {
  SpanTable table;
  table.blob_digest = table.diff_id = blob;
  table.blob_size = table.tar_bytes = bytes;
  table.data_bytes = (bytes + 511) / 512 * 512;
  uint64_t span_bytes = kStoredSpanBytes;
  while (span_bytes < kMaxSpanDataBytes && bytes / span_bytes > kManyStoredSpans) span_bytes *= 2;
  for (uint64_t at = 0; at < bytes; at += span_bytes) {
    SpanEntry span;
    span.data_begin = span.blob_begin = at;
    span.data_bytes = span.blob_bytes = static_cast<uint32_t>(std::min(span_bytes, bytes - at));
    span.digest_of = SpanDigest::kNone;
    table.spans.push_back(span);
  }
  return table;
}

absl::StatusOr<std::string> WriteSpanTable(const SpanTable& table) {
  std::string out;
  out.reserve(kHeaderBytes + table.spans.size() * kRecordBytes + table.moves.size() * kMoveBytes +
              table.windows.size());
  out.append(kMagic);
  PutLittleEndian<uint32_t>(out, kVersion);
  PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(table.layout));
  PutDigest(out, table.blob_digest);
  PutDigest(out, table.diff_id);
  PutLittleEndian<uint64_t>(out, table.blob_size);
  PutLittleEndian<uint64_t>(out, table.tar_bytes);
  PutLittleEndian<uint64_t>(out, table.data_bytes);
  PutLittleEndian<uint64_t>(out, table.spans.size());
  PutLittleEndian<uint64_t>(out, table.moves.size());
  PutLittleEndian<uint64_t>(out, table.windows.size());
  PutLittleEndian<uint32_t>(out, 0);  // placeholder for the checksum
  PutLittleEndian<uint32_t>(out, SumOfWindows(table.windows));
  for (const SpanEntry& span : table.spans) PutSpan(out, span);
  for (const LayerBuilder::Move& move : table.moves) {
    PutLittleEndian<uint64_t>(out, move.from);
    PutLittleEndian<uint64_t>(out, move.to);
    PutLittleEndian<uint64_t>(out, move.length);
  }
  SetNumber(out, kSumAt, SumOfRecords(out));
  out.append(table.windows);
  IMAGEFS_RETURN_IF_ERROR(SpanTableReader::Check(out));
  return out;
}

std::string SpanTableWithoutWindows(std::string_view table) {
  const auto windows = GetLittleEndian<uint64_t>(table, 120);
  std::string out(table.substr(0, table.size() - windows));
  if (windows == 0) return out;
  SetNumber(out, kVersionAt, kVersionLate);
  SetNumber(out, kWindowSumAt, 0);
  SetNumber(out, kSumAt, SumOfRecords(out));
  return out;
}

absl::StatusOr<std::string> HeaderOfCompleted(std::string_view table) {
  IMAGEFS_RETURN_IF_ERROR(SpanTableReader::Check(table));
  const std::string_view windows =
      table.substr(table.size() - GetLittleEndian<uint64_t>(table, 120));
  std::string out(table.substr(0, table.size() - windows.size()));
  SetNumber(out, kVersionAt, kVersion);
  SetNumber(out, kWindowSumAt, SumOfWindows(windows));
  SetNumber(out, kSumAt, SumOfRecords(out));
  out.resize(kHeaderBytes);
  return out;
}

absl::Status SpanTableReader::Check(std::string_view bytes) {
  SpanTableReader span_table;
  span_table.bytes_ = bytes;
  return span_table.Parse();
}

absl::StatusOr<std::unique_ptr<SpanTableReader>> SpanTableReader::FromBytes(std::string bytes) {
  std::unique_ptr<SpanTableReader> span_table(new SpanTableReader());
  span_table->owned_ = std::move(bytes);
  span_table->bytes_ = span_table->owned_;
  IMAGEFS_RETURN_IF_ERROR(span_table->Parse());
  return span_table;
}

absl::StatusOr<std::unique_ptr<SpanTableReader>> SpanTableReader::Open(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<SpanTableReader> span_table, OpenFd(fd.get(), path));
  span_table->owned_ = std::string(span_table->records_);
  span_table->records_ = span_table->owned_;
  IMAGEFS_RETURN_IF_ERROR(span_table->file_.CheckWhole(path));
  return span_table;
}

absl::StatusOr<std::unique_ptr<SpanTableReader>> SpanTableReader::OpenFd(int fd,
                                                                         std::string_view name) {
  std::unique_ptr<SpanTableReader> span_table(new SpanTableReader());
  IMAGEFS_ASSIGN_OR_RETURN(span_table->file_, MappedFile::Map(fd, name));
  span_table->bytes_ = span_table->file_.bytes();
  const absl::Status status = span_table->Parse();
  IMAGEFS_RETURN_IF_ERROR(span_table->file_.CheckWhole(name));
  if (!status.ok()) return Annotate(status, name);
  return span_table;
}

absl::Status SpanTableReader::Parse() {
  if (bytes_.size() < kHeaderBytes || bytes_.substr(0, kMagic.size()) != kMagic) {
    return Wrong("no span table");
  }
  const auto version = GetLittleEndian<uint32_t>(bytes_, kVersionAt);
  if (version != kVersion && version != kVersionLate) {
    return Wrong(StrCat("version ", version, " where this program knows ", kVersionLate));
  }
  late_windows_ = version == kVersionLate;
  const uint32_t layout = GetLittleEndian<uint32_t>(bytes_, 12);
  if (layout > static_cast<uint32_t>(DataLayout::kForeignTar)) return Wrong("an unknown layout");
  layout_ = static_cast<DataLayout>(layout);
  blob_digest_ = GetDigest(bytes_, 16);
  diff_id_ = GetDigest(bytes_, 48);
  blob_size_ = GetLittleEndian<uint64_t>(bytes_, 80);
  tar_bytes_ = GetLittleEndian<uint64_t>(bytes_, 88);
  data_bytes_ = GetLittleEndian<uint64_t>(bytes_, 96);
  const uint64_t spans = GetLittleEndian<uint64_t>(bytes_, 104),
                 moves = GetLittleEndian<uint64_t>(bytes_, 112),
                 windows = GetLittleEndian<uint64_t>(bytes_, 120);
  constexpr uint64_t kMaxBytes = uint64_t{1} << 50;
  if (blob_size_ > kMaxBytes || data_bytes_ > kMaxBytes || data_bytes_ % 512 != 0 ||
      tar_bytes_ > data_bytes_ || spans > kMaxSpans || moves > kMaxMoves || windows > kMaxBytes ||
      kHeaderBytes + spans * kRecordBytes + moves * kMoveBytes + windows != bytes_.size()) {
    return Wrong("sizes that do not fit each other");
  }
  span_count_ = spans;
  records_ = bytes_.substr(kHeaderBytes, spans * kRecordBytes);
  const std::string_view move_records =
      bytes_.substr(kHeaderBytes + records_.size(), moves * kMoveBytes);
  windows_ = bytes_.substr(bytes_.size() - windows);
  if (SumOfRecords(bytes_.substr(0, bytes_.size() - windows)) !=
      GetLittleEndian<uint32_t>(bytes_, kSumAt)) {
    return Wrong("its checksum");
  }
  const auto window_sum = GetLittleEndian<uint32_t>(bytes_, kWindowSumAt);
  if (late_windows_ ? window_sum != 0 || windows == 0
                    : window_sum != 0 && window_sum != SumOfWindows(windows_)) {
    return Wrong("the checksum of its windows");
  }
  uint64_t end = 0, part_end = 0;
  bool same = true;  // as the blob, up to `end`
  for (size_t i = 0; i < span_count_; ++i) {
    const SpanEntry one = span(i);
    IMAGEFS_RETURN_IF_ERROR(CheckSpan(one, blob_size_, data_bytes_, windows));
    if (one.data_begin < end) return Wrong("spans that overlap");
    if (one.codec == SpanCodec::kZstdBegin) frames_.emplace_back(i, i + 1);
    if (one.codec == SpanCodec::kZstdNext) {
      if (frames_.empty() || frames_.back().second != i || one.data_begin != end ||
          one.blob_begin != part_end) {
        return Wrong("a part of a zstd frame that does not follow the one before");
      }
      frames_.back().second = static_cast<uint32_t>(i + 1);
    }
    part_end = one.blob_end();
    same = same && one.codec == SpanCodec::kStored && one.data_begin == end &&
           one.blob_begin + one.skip == end;
    has_digests_ = has_digests_ && one.digest_of != SpanDigest::kNone;
    end = one.data_end();
  }
  data_is_blob_ = same && layout_ == DataLayout::kTar && diff_id_ == blob_digest_ &&
                  end == blob_size_ && tar_bytes_ == blob_size_;
  if (layout_ != DataLayout::kTable && end > tar_bytes_) return Wrong("a span behind the tar");
  uint64_t moved_to = layout_ != DataLayout::kTable ? tar_bytes_ : end;
  for (size_t i = 0; i < moves; ++i) {
    const LayerBuilder::Move move{GetLittleEndian<uint64_t>(move_records, i * kMoveBytes),
                                  GetLittleEndian<uint64_t>(move_records, i * kMoveBytes + 8),
                                  GetLittleEndian<uint64_t>(move_records, i * kMoveBytes + 16)};
    if (move.length == 0 || !InRange(move.from, move.length, end) || move.to < moved_to ||
        !InRange(move.to, move.length, data_bytes_)) {
      return Wrong("a move outside of the data");
    }
    moved_to = move.to + move.length;
    moves_.push_back(move);
  }
  return absl::OkStatus();
}

SpanEntry SpanTableReader::span(size_t index) const {
  return GetSpan(records_.substr(index * kRecordBytes, kRecordBytes));
}

std::pair<size_t, size_t> SpanTableReader::SpansOf(ByteRange range) const {
  // The first span that ends after the beginning of the range.
  size_t low = 0, high = span_count_;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const std::string_view record = records_.substr(middle * kRecordBytes, kRecordBytes);
    if (GetLittleEndian<uint64_t>(record, 0) + GetLittleEndian<uint32_t>(record, 16) >
        range.begin) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  size_t last = low;
  while (last < span_count_ &&
         GetLittleEndian<uint64_t>(records_, last * kRecordBytes) < range.end) {
    ++last;
  }
  return {low, last};
}

std::string_view SpanTableReader::WindowOf(const SpanEntry& span) const {
  return windows_.substr(span.window_offset, span.window_bytes);
}

}  // namespace imagefs
