// How the bytes of a layer's data file are had from ranges of its blob: the span table of a layer.
//
// A span is a run of the data file that is decoded by itself from a run of the blob and has a
// digest of its own. Spans are disjoint and ascend in the data file; what lies between them (and
// behind the last one) is never fetched and reads as zeros, except the targets of `moves`. A table
// comes from a full pass over the blob (image/gzip_points.h), from a published index, or from a
// foreign table of contents (image/toc.h, image/ztoc.h). Its bytes are specified in
// docs/formats/access.md.
//
// Everything here is a pure function of bytes; a hostile table gives an error, never a crash, an
// endless loop or more memory than the limits below allow. Thread-safe once built.
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
inline constexpr uint32_t kDeflateWindowBytes = 32 << 10;
inline constexpr uint64_t kMaxSpans = 16 << 20;

enum class SpanCodec : uint8_t {
  kStored = 0,   // the blob's bytes themselves
  kGzip = 1,     // from the header of a gzip member on; may run over several members
  kDeflate = 2,  // from a deflate block inside a gzip member on (then further members)
  kZstd = 3,     // from a zstd frame on; may run over several frames
};

// A value.
struct SpanEntry {
  uint64_t data_begin = 0;  // in the data file
  uint32_t data_bytes = 0;  // > 0
  uint64_t blob_begin = 0;  // what has to be fetched
  uint32_t blob_bytes = 0;  // > 0
  SpanCodec codec = SpanCodec::kStored;
  uint8_t bit = 0;              // kDeflate: bits of the first byte that belong to the block before
  bool digest_of_blob = false;  // `digest` is that of the blob's bytes, else of the data's bytes
  uint32_t skip = 0;            // decoded bytes in front of the span's own
  Digest digest;
  // kDeflate: the 32 KiB of output in front of the span, as PackWindow made it, in the table's
  // windows. 0 bytes: nothing refers to it.
  uint64_t window_offset = 0;
  uint32_t window_bytes = 0;

  uint64_t data_end() const { return data_begin + data_bytes; }
  uint64_t blob_end() const { return blob_begin + blob_bytes; }
};

// What the data file is.
enum class DataLayout : uint8_t {
  kTar = 0,    // the tar itself, then the targets of `moves`: its SHA-256 can be checked
  kTable = 1,  // files one after the other, 512-aligned, as a table of contents lists them
  // As kTar, out of a foreign table, which may know nothing of the padding at the tar's end.
  kForeignTar = 2,
};

// A table in memory, before it is written. A value.
struct SpanTable {
  Digest blob_digest;
  uint64_t blob_size = 0;
  Digest diff_id;
  DataLayout layout = DataLayout::kTar;
  uint64_t tar_bytes = 0;   // kTar: of the tar; else 0
  uint64_t data_bytes = 0;  // of the data file; a multiple of 512
  std::vector<SpanEntry> spans;
  std::vector<LayerBuilder::Move> moves;
  std::string windows;
};

// Checks the table as SpanTableReader::FromBytes does and gives its bytes.
absl::StatusOr<std::string> WriteSpanTable(const SpanTable& table);

// A table as it lies on disk. Immutable, thread-safe.
class SpanTableReader {
 public:
  // Maps the file read-only. What says where bytes are is copied: it is asked for with every read,
  // and a file that is cut later does not change it.
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> Open(const std::string& path);
  // Maps all of a file that is open; `name` is for errors. To be asked CheckWhole after use.
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> OpenFd(int fd, std::string_view name);
  static absl::StatusOr<std::unique_ptr<SpanTableReader>> FromBytes(std::string bytes);
  // OK when FromBytes would give a table.
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
  // The whole file as it was given.
  std::string_view bytes() const { return bytes_; }

  SpanEntry span(size_t index) const;
  // The first and one past the last span that has a byte of `range`; equal when none has.
  std::pair<size_t, size_t> SpansOf(ByteRange range) const;
  // The packed window of a span; "" when it has none. Worth something when CheckWhole says OK after
  // it was read.
  std::string_view WindowOf(const SpanEntry& span) const;
  absl::Status CheckWhole() const { return file_.CheckWhole("the span table"); }

 private:
  SpanTableReader() = default;
  absl::Status Parse();
  std::string owned_;  // all bytes, or the records
  MappedFile file_;    // of no bytes: owned
  std::string_view bytes_;
  Digest blob_digest_, diff_id_;
  uint64_t blob_size_ = 0, tar_bytes_ = 0, data_bytes_ = 0;
  DataLayout layout_ = DataLayout::kTar;
  size_t span_count_ = 0;
  std::string_view records_, windows_;
  std::vector<LayerBuilder::Move> moves_;
};

// Decodes one span out of the blob's bytes [blob_begin, blob_end) and checks its digest. `out` has
// data_bytes. kDataLoss when the bytes are not what the table says.
absl::Status DecodeSpan(const SpanEntry& span, std::string_view packed_window,
                        std::string_view blob_bytes, absl::Span<char> out);

// Which of the 32 KiB in front of a kDeflate span its decoding looks at. Pure; kDataLoss when the
// bytes are no deflate stream.
absl::StatusOr<std::vector<bool>> UsedWindow(const SpanEntry& span, std::string_view blob_bytes);

// A window of at most 32 KiB (the bytes just in front of a span), compressed. Bytes that `used`
// (of the last 32 KiB in front of the span, or empty: all) does not name are taken as zeros. ""
// when nothing is used.
std::string PackWindow(std::string_view window, const std::vector<bool>& used);

}  // namespace imagefs
