// SPDX-License-Identifier: Apache-2.0
// The span table of a layer: how to obtain the bytes of its data file from ranges of its blob.
//
// A span is a run of the data file that is decoded independently from a run of the blob and has its
// own digest; a large zstd frame is several spans, which are decoded in order. Spans are disjoint
// and in ascending order in the data file; gaps between them (and after the last one) are never
// fetched and read as zeros, except for the targets of `moves`. A table comes from a full pass over
// the blob (Decompressor::points), from a published index, or from a foreign table of contents
// (image/toc.h, image/ztoc.h). docs/formats/access.md specifies the format.
//
// Everything here is a pure function of bytes; a hostile table yields an error, never a crash, an
// endless loop or memory use beyond the limits below. Thread-safe once built.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "base/mapped_file.h"
#include "image/layer_builder.h"

namespace imagefs {

inline constexpr uint32_t kMaxSpanDataBytes = 64 << 20;  // decoded at once
inline constexpr uint32_t kMaxSpanBlobBytes = 64 << 20;  // fetched at once
inline constexpr uint32_t kMaxSpanSkip = 64 << 20;
inline constexpr uint32_t kMaxZstdPartBytes = 1 << 20;  // either, of a part of a zstd frame
inline constexpr uint32_t kDeflateWindowBytes = 32 << 10;
inline constexpr uint64_t kMaxSpans = 16 << 20;

enum class SpanCodec : uint8_t {
  kStored = 0,   // the blob's bytes, uncompressed
  kGzip = 1,     // starts at a gzip member header; may span several members
  kDeflate = 2,  // starts at a deflate block inside a gzip member (then further members)
  kZstd = 3,     // starts at a zstd frame; may span several frames
  // Parts of one zstd frame (image/zstd_parts.h), which are decoded one after another: the first,
  // with the frame's header, and each that goes on where the span before it ends.
  kZstdBegin = 4,
  kZstdNext = 5,
};

inline bool IsZstdPart(SpanCodec codec) { return codec >= SpanCodec::kZstdBegin; }

// What the digest of a span covers.
enum class SpanDigest : uint8_t {
  kOfData = 0,
  kOfBlob = 1,  // the range of the blob
  // There is none: nobody has seen all of the blob yet. Only spans that are stored may lack it, and
  // only in tables that were made locally; their bytes are proven with the whole layer.
  kNone = 2,
};

// A value type.
struct SpanEntry {
  uint64_t data_begin = 0;  // in the data file
  uint32_t data_bytes = 0;  // > 0
  uint64_t blob_begin = 0;  // the range to fetch
  uint32_t blob_bytes = 0;  // > 0
  SpanCodec codec = SpanCodec::kStored;
  uint8_t bit = 0;  // kDeflate: bits of the first byte that belong to the previous block
  SpanDigest digest_of = SpanDigest::kOfData;
  uint32_t skip = 0;  // decoded bytes to discard before the span
  Digest digest;
  // kDeflate: the 32 KiB of output before the span, packed by PackWindow, in the table's windows. 0
  // bytes: nothing refers to them.
  uint64_t window_offset = 0;
  uint32_t window_bytes = 0;

  uint64_t data_end() const { return data_begin + data_bytes; }
  uint64_t blob_end() const { return blob_begin + blob_bytes; }
  ByteRange window() const { return {window_offset, window_offset + window_bytes}; }
};

// Layout of the data file.
enum class DataLayout : uint8_t {
  kTar = 0,    // the tar, then the targets of `moves`: its SHA-256 can be checked
  kTable = 1,  // files in sequence, 512-aligned, as listed in a table of contents
  // Like kTar, but from a foreign table, which may omit the padding at the end of the tar.
  kForeignTar = 2,
};

// A table in memory, before it is written. A value type.
struct SpanTable {
  Digest blob_digest;
  uint64_t blob_size = 0;
  Digest diff_id;
  DataLayout layout = DataLayout::kTar;
  uint64_t tar_bytes = 0;   // kTar: size of the tar; else 0
  uint64_t data_bytes = 0;  // of the data file; a multiple of 512
  std::vector<SpanEntry> spans;
  std::vector<LayerBuilder::Move> moves;
  std::string windows;
};

// Returns the table of a blob that is itself the data: spans without digests that cover all of it.
// The bytes after it in the data file, and the moves, are up to the caller.
SpanTable StoredSpanTable(const Digest& blob, uint64_t bytes);

// Validates the table like SpanTableReader::FromBytes and returns its serialized form.
absl::StatusOr<std::string> WriteSpanTable(const SpanTable& table);

// Windows may come later than the rest of a table. Such a table (version 2 of the format) has a
// hole where they belong, and says of none of them that it is right.
// Returns the table up to its windows, with the header of one whose windows come later; all of it
// if it has none. REQUIRES: `table` is valid, and has its windows.
std::string SpanTableWithoutWindows(std::string_view table);
// Returns the header that replaces the one of a table whose windows have all come.
absl::StatusOr<std::string> HeaderOfCompleted(std::string_view table);

// A serialized table. Immutable, thread-safe.
class SpanTableReader {
 public:
  // Maps the file read-only. Copies the records, which are needed for every read, so that
  // truncating the file later does not affect them.
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> Open(const std::string& path);
  // Maps the whole of an open file; `name` is for errors. Callers must check CheckWhole after use.
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> OpenFd(int fd, std::string_view name);
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> FromBytes(std::string bytes);
  // Returns OK if FromBytes would succeed.
  static absl::Status Check(std::string_view bytes);
  SpanTableReader(const SpanTableReader&) = delete;
  SpanTableReader& operator=(const SpanTableReader&) = delete;

  const Digest& blob_digest() const { return blob_digest_; }
  uint64_t blob_size() const { return blob_size_; }
  const Digest& diff_id() const { return diff_id_; }
  DataLayout layout() const { return layout_; }
  uint64_t tar_bytes() const { return tar_bytes_; }
  uint64_t data_bytes() const { return data_bytes_; }
  size_t span_count() const { return span_count_; }
  const std::vector<LayerBuilder::Move>& moves() const { return moves_; }
  // The runs of spans [first, second) that are parts of one zstd frame, ascending.
  using Frame = std::pair<uint32_t, uint32_t>;
  const std::vector<Frame>& frames() const { return frames_; }
  // False if a span has none.
  bool has_digests() const { return has_digests_; }
  // The data file begins with the very bytes of the blob, and spans cover all of it: the DiffID is
  // the digest of the blob.
  bool data_is_blob() const { return data_is_blob_; }
  // Where the windows are in the serialized table, and whether they came later than the rest.
  ByteRange windows() const { return {bytes_.size() - windows_.size(), bytes_.size()}; }
  bool late_windows() const { return late_windows_; }
  // The whole serialized table.
  std::string_view bytes() const { return bytes_; }

  SpanEntry span(size_t index) const;
  // Returns the first and one past the last span that overlaps `range`; equal if there is none.
  std::pair<size_t, size_t> SpansOf(ByteRange range) const;
  // Returns the packed window of a span; "" if it has none. Only valid if CheckWhole returns OK
  // after it has been read, and, with late_windows, once that window is in the file.
  std::string_view WindowOf(const SpanEntry& span) const;
  absl::Status CheckWhole() const { return file_.CheckWhole("the span table"); }

 private:
  SpanTableReader() = default;
  absl::Status Parse();
  std::string owned_;  // all bytes, or only the records
  MappedFile file_;    // empty: the bytes are in owned_
  std::string_view bytes_;
  Digest blob_digest_, diff_id_;
  uint64_t blob_size_ = 0, tar_bytes_ = 0, data_bytes_ = 0;
  DataLayout layout_ = DataLayout::kTar;
  bool has_digests_ = true, data_is_blob_ = false;
  size_t span_count_ = 0;
  bool late_windows_ = false;
  std::string_view records_, windows_;
  std::vector<LayerBuilder::Move> moves_;
  std::vector<Frame> frames_;
};

// Decodes one span from the blob's bytes [blob_begin, blob_end) and checks its digest, if it has
// one. `out` must have data_bytes. Returns kDataLoss if the bytes do not match the table. REQUIRES:
// it is no part of a frame.
absl::Status DecodeSpan(const SpanEntry& span, std::string_view packed_window,
                        std::string_view blob_bytes, absl::Span<char> out);
// The same for a stored span, without a copy: returns the part of `blob_bytes` that is its data.
absl::StatusOr<std::string_view> StoredData(const SpanEntry& span, std::string_view blob_bytes);
// Compares these bytes of the blob with the digest of a span that is of them.
absl::Status CheckBlobBytes(const SpanEntry& span, std::string_view blob_bytes);

// Returns which of the 32 KiB before a kDeflate span its decoding refers to. Pure. Returns
// kDataLoss if the bytes are not a deflate stream.
absl::StatusOr<std::vector<bool>> UsedWindow(const SpanEntry& span, std::string_view blob_bytes);

// Compresses a window of at most 32 KiB (the bytes just before a span). Bytes not marked in `used`
// (for the last 32 KiB before the span; empty = all are used) are replaced by zeros. Returns "" if
// nothing is used.
std::string PackWindow(std::string_view window, const std::vector<bool>& used);

}  // namespace imagefs
