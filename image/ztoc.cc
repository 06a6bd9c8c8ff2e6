// SPDX-License-Identifier: Apache-2.0
#include "image/ztoc.h"

#include <flatbuffers/flatbuffers.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "generated/ztoc_generated.h"

namespace imagefs {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kMaxTarBytes = kBlock << 32;  // like LayerBuilder
constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";
constexpr std::string_view kSparsePrefix = "GNU.sparse.";
constexpr size_t kMaxNestedBytes = 4096;
constexpr size_t kAlignment = 8;

// The packed points: a count, a span size, then for each point its offsets in the blob and the tar,
// the number of bits in the preceding byte that belong to it, and the window. All little-endian.
constexpr size_t kPointsHeader = 4 + 8;
constexpr size_t kPointHeader = 8 + 8 + 1;
constexpr size_t kPointBytes = kPointHeader + kDeflateWindowBytes;
// Version 1 omits the first point: it always follows a gzip header without options.
constexpr uint64_t kPlainGzipHeader = 10;

absl::Status Malformed(std::string_view why) {
  return absl::InvalidArgumentError(StrCat("zTOC: ", why));
}

std::string_view View(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->c_str(), text->size());
}

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

struct Point {
  uint64_t blob = 0;  // of the first whole byte
  uint64_t tar = 0;
  uint8_t bits = 0;         // number of bits in the preceding byte that belong to the point
  std::string_view window;  // "" or 32 KiB
};

class PackedPoints {
 public:
  static absl::StatusOr<PackedPoints> Parse(std::string_view bytes) {
    if (bytes.size() < kPointsHeader) return Malformed("its list of points is cut off");
    PackedPoints out;
    out.count_ = LittleEndian(bytes.substr(0, 4));
    bytes.remove_prefix(kPointsHeader);
    const uint64_t whole = uint64_t{out.count_} * kPointBytes;
    if (out.count_ == 0 || (bytes.size() != whole && bytes.size() + kPointBytes != whole)) {
      return Malformed(StrCat("its list of ", out.count_, " points has ", bytes.size(), " bytes"));
    }
    out.first_is_left_out_ = bytes.size() != whole;
    out.bytes_ = bytes;
    return out;
  }

  size_t size() const { return count_; }
  Point at(size_t index) const {
    if (first_is_left_out_ && index-- == 0) return {.blob = kPlainGzipHeader};
    const std::string_view packed = bytes_.substr(index * kPointBytes, kPointBytes);
    return {.blob = LittleEndian(packed.substr(0, 8)),
            .tar = LittleEndian(packed.substr(8, 8)),
            .bits = static_cast<uint8_t>(packed[16]),
            .window = packed.substr(kPointHeader)};
  }

 private:
  uint64_t count_ = 0;
  bool first_is_left_out_ = false;
  std::string_view bytes_;
};

class ZtocReader {
 public:
  ZtocReader(const zfb::Ztoc& ztoc, uint64_t ztoc_bytes, const Descriptor& blob, uint64_t max_bytes)
      : ztoc_(ztoc), blob_(blob), max_bytes_(max_bytes), text_left_(ztoc_bytes) {}

  absl::StatusOr<TableLayer> Read(const Digest& diff_id);

 private:
  absl::Status CheckMemory() const;
  absl::Status ReadSizes();
  absl::Status ReadGzipSpans();
  absl::Status AddGzipSpan(const Point& point, uint64_t blob_end, uint64_t tar_end, size_t index);
  absl::Status ReadStoredSpans();
  absl::Status AddSpan(SpanEntry span, uint64_t data_bytes, uint64_t blob_bytes, size_t index);
  absl::Status AddFile(const zfb::File& file);
  absl::Status TakeText(const flatbuffers::String* text);

  size_t digest_count() const {
    const auto* const digests = ztoc_.spans()->digests();
    return digests == nullptr ? 0 : digests->size();
  }
  std::string_view points() const {
    const auto* const points = ztoc_.spans()->points();
    if (points == nullptr) return {};
    return {reinterpret_cast<const char*>(points->data()), points->size()};
  }

  const zfb::Ztoc& ztoc_;
  const Descriptor& blob_;
  const uint64_t max_bytes_;
  uint64_t text_left_;
  uint64_t tar_size_ = 0;
  LayerBuilder builder_;
  SpanTable table_;
};

absl::Status ZtocReader::ReadSizes() {
  if (ztoc_.spans() == nullptr) return Malformed("it has no spans");
  if (ztoc_.blob_size() < 0 || static_cast<uint64_t>(ztoc_.blob_size()) != blob_.size) {
    return Malformed(
        StrCat("it is that of a blob of ", ztoc_.blob_size(), " bytes, not of ", blob_.size));
  }
  if (ztoc_.tar_size() <= 0 || static_cast<uint64_t>(ztoc_.tar_size()) > kMaxTarBytes) {
    return Malformed(StrCat("a tar of ", ztoc_.tar_size(), " bytes is impossible"));
  }
  tar_size_ = static_cast<uint64_t>(ztoc_.tar_size());
  if (digest_count() == 0 || digest_count() > kMaxSpans ||
      ztoc_.spans()->last() != static_cast<int64_t>(digest_count()) - 1) {
    return Malformed("the number of its spans is not that of their digests");
  }
  return absl::OkStatus();
}

absl::Status ZtocReader::AddSpan(SpanEntry span, uint64_t data_bytes, uint64_t blob_bytes,
                                 size_t index) {
  if (data_bytes > kMaxSpanDataBytes || blob_bytes > kMaxSpanBlobBytes) {
    return absl::UnimplementedError(
        StrCat("zTOC: span ", index, " has ", data_bytes, " bytes, too many to be read at once"));
  }
  span.data_bytes = static_cast<uint32_t>(data_bytes);
  span.blob_bytes = static_cast<uint32_t>(blob_bytes);
  span.digest_of = SpanDigest::kOfBlob;
  const flatbuffers::String* const digest =
      ztoc_.spans()->digests()->Get(static_cast<flatbuffers::uoffset_t>(index));
  const absl::StatusOr<Digest> parsed = Digest::Parse(View(digest));
  if (!parsed.ok()) return Annotate(parsed.status(), StrCat("zTOC: span ", index));
  span.digest = *parsed;
  table_.spans.push_back(span);
  return CheckMemory();
}

absl::Status ZtocReader::CheckMemory() const {
  // Count both vectors twice: while they grow, and while they are written as a span table.
  const uint64_t spans = 2 * table_.spans.size() * sizeof(SpanEntry);
  if (builder_.memory_bytes() + spans + 2 * table_.windows.size() <= max_bytes_) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      StrCat("zTOC: it takes more than the ", max_bytes_, " bytes of memory that it may"));
}

// A span begins with the byte that contains its point's bits and ends before the next point's first
// whole byte, so that adjacent spans may share a byte.
absl::Status ZtocReader::AddGzipSpan(const Point& point, uint64_t blob_end, uint64_t tar_end,
                                     size_t index) {
  if (point.bits > 7 || point.blob == 0 || blob_end > blob_.size ||
      (index == 0) != (point.tar == 0)) {
    return Malformed(StrCat("point ", index, " is impossible in a gzip stream"));
  }
  SpanEntry span;
  span.data_begin = point.tar;
  span.blob_begin = point.blob - (point.bits > 0 ? 1 : 0);
  span.codec = SpanCodec::kDeflate;
  span.bit = point.bits > 0 ? static_cast<uint8_t>(8 - point.bits) : 0;
  if (point.tar > 0) {
    const auto known = std::min<uint64_t>(kDeflateWindowBytes, point.tar);
    const std::string packed = PackWindow(point.window.substr(kDeflateWindowBytes - known), {});
    span.window_offset = table_.windows.size();
    span.window_bytes = static_cast<uint32_t>(packed.size());
    table_.windows += packed;
  }
  return AddSpan(span, tar_end - point.tar, blob_end - span.blob_begin, index);
}

absl::Status ZtocReader::ReadGzipSpans() {
  IMAGEFS_ASSIGN_OR_RETURN(const PackedPoints packed, PackedPoints::Parse(points()));
  if (packed.size() != digest_count()) {
    return Malformed(StrCat("it has ", packed.size(), " points for ", digest_count(), " spans"));
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    const Point point = packed.at(i);
    const bool last = i + 1 == packed.size();
    const Point next = last ? Point{.blob = blob_.size, .tar = kMaxTarBytes + 1} : packed.at(i + 1);
    if (point.tar >= next.tar || point.blob >= next.blob) {
      return Malformed(StrCat("point ", i, " does not lie in front of the next one"));
    }
    // Past the end of the archive: the table's tar ends there, whatever the stream contains.
    if (i > 0 && point.tar >= tar_size_) continue;
    IMAGEFS_RETURN_IF_ERROR(AddGzipSpan(point, next.blob, std::min(next.tar, tar_size_), i));
  }
  return absl::OkStatus();
}

absl::Status ZtocReader::ReadStoredSpans() {
  const std::string nested(points().substr(0, kMaxNestedBytes));  // aligned, unlike the original
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(nested.data()), nested.size());
  if (!verifier.VerifyBuffer<zfb::TarSpans>(nullptr)) return Malformed("its spans are malformed");
  const auto& spans = *flatbuffers::GetRoot<zfb::TarSpans>(nested.data());
  if (spans.size() < 0 || static_cast<uint64_t>(spans.size()) != blob_.size ||
      tar_size_ > blob_.size || blob_.size > kMaxTarBytes || spans.span_size() <= 0) {
    return Malformed("the sizes of an uncompressed layer differ");
  }
  tar_size_ = blob_.size;  // including the bytes after the end of the archive
  const auto step = static_cast<uint64_t>(spans.span_size());
  if ((tar_size_ - 1) / step + 1 != digest_count()) {
    return Malformed("the number of its spans is not that of their digests");
  }
  for (size_t i = 0; i < digest_count(); ++i) {
    SpanEntry span;
    span.data_begin = span.blob_begin = i * step;
    const uint64_t bytes = std::min(step, tar_size_ - span.data_begin);
    IMAGEFS_RETURN_IF_ERROR(AddSpan(span, bytes, bytes, i));
  }
  return absl::OkStatus();
}

// The format allows a million entries to share one long text. Real ones share none, so the total
// length of all texts must not exceed that of the zTOC itself.
absl::Status ZtocReader::TakeText(const flatbuffers::String* text) {
  const uint64_t size = View(text).size();
  if (size > text_left_) return Malformed("its entries say more than it has bytes for");
  text_left_ -= size;
  return absl::OkStatus();
}

absl::Status ZtocReader::AddFile(const zfb::File& file) {
  for (const auto* text : {file.name(), file.type(), file.link(), file.mtime()}) {
    IMAGEFS_RETURN_IF_ERROR(TakeText(text));
  }
  TableEntry entry;
  entry.type = View(file.type());
  entry.path = View(file.name());
  entry.link = View(file.link());
  entry.mode = file.mode();
  entry.uid = file.uid();
  entry.gid = file.gid();
  entry.size = file.size();
  entry.major = file.major();
  entry.minor = file.minor();
  entry.mtime = View(file.mtime());
  if (file.records() != nullptr) {
    for (const zfb::PaxRecord* record : *file.records()) {
      IMAGEFS_RETURN_IF_ERROR(TakeText(record->key()));
      IMAGEFS_RETURN_IF_ERROR(TakeText(record->value()));
      std::string_view key = View(record->key());
      if (key.starts_with(kSparsePrefix)) {
        return absl::UnimplementedError(StrCat("zTOC: entry \"", Printable(entry.path),
                                               "\" is sparse, and a zTOC cannot say how"));
      }
      if (ConsumePrefix(&key, kXattrPrefix)) {
        entry.xattrs.push_back({std::string(key), std::string(View(record->value()))});
      }
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(TarEntry tar_entry, ToTarEntry(std::move(entry)));
  if (tar_entry.size > 0) {
    const auto offset = static_cast<uint64_t>(file.offset());
    if (file.offset() < 0 || offset % kBlock != 0 || offset > tar_size_ ||
        tar_entry.size > tar_size_ - offset) {
      return Malformed(StrCat("entry \"", Printable(tar_entry.path), "\" lies outside of the tar"));
    }
    tar_entry.extents = {{0, offset, tar_entry.size, 1}};
  }
  return builder_.Add(tar_entry);
}

absl::StatusOr<TableLayer> ZtocReader::Read(const Digest& diff_id) {
  IMAGEFS_RETURN_IF_ERROR(ReadSizes());
  switch (ztoc_.spans()->compression()) {
    case zfb::Compression::kGzip:
      IMAGEFS_RETURN_IF_ERROR(ReadGzipSpans());
      break;
    case zfb::Compression::kUncompressed:
      IMAGEFS_RETURN_IF_ERROR(ReadStoredSpans());
      break;
    default:
      return absl::UnimplementedError(StrCat("zTOC: compression number ",
                                             static_cast<int>(ztoc_.spans()->compression()),
                                             " is not known; only gzip and none are"));
  }
  if (ztoc_.toc() != nullptr && ztoc_.toc()->files() != nullptr) {
    for (const zfb::File* file : *ztoc_.toc()->files()) {
      IMAGEFS_RETURN_IF_ERROR(AddFile(*file));
      IMAGEFS_RETURN_IF_ERROR(CheckMemory());
    }
  }
  TableLayer out;
  IMAGEFS_ASSIGN_OR_RETURN(out.layer, std::move(builder_).Finish(tar_size_));
  out.span_table = std::move(table_);
  out.span_table.blob_digest = blob_.digest;
  out.span_table.blob_size = blob_.size;
  out.span_table.diff_id = diff_id;
  out.span_table.layout = DataLayout::kTar;
  out.span_table.tar_bytes = tar_size_;
  out.span_table.data_bytes = out.layer.data_size;
  return out;
}

}  // namespace

absl::StatusOr<TableLayer> BuildFromZtoc(std::string_view bytes, const Descriptor& blob,
                                         const Digest& diff_id, uint64_t max_bytes) {
  if (bytes.size() > kMaxZtocBytes) {
    return absl::UnimplementedError(StrCat("zTOC: it is larger than ", kMaxZtocBytes, " bytes"));
  }
  // Its numbers are read in place and must be aligned.
  std::string copy;
  if (reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment != 0) {
    copy = bytes;
    bytes = copy;
  }
  const auto* const data = reinterpret_cast<const uint8_t*>(bytes.data());
  flatbuffers::Verifier::Options limits;
  limits.max_tables = static_cast<flatbuffers::uoffset_t>(bytes.size() / sizeof(uint32_t) + 1);
  flatbuffers::Verifier verifier(data, bytes.size(), limits);
  if (!zfb::VerifyZtocBuffer(verifier)) return Malformed("it is not a valid zTOC");
  return ZtocReader(*zfb::GetZtoc(data), bytes.size(), blob, max_bytes).Read(diff_id);
}

}  // namespace imagefs
