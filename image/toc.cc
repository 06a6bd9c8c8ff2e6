// SPDX-License-Identifier: Apache-2.0
#include "image/toc.h"

#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/status.h"
#include "base/text.h"
#include "image/decompress.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr std::string_view kEstargzDigest = "containerd.io/snapshot/stargz/toc.digest";
// The second prefix is the older one.
constexpr std::string_view kZstdPrefixes[] = {"io.github.containers.zstd-chunked.",
                                              "io.containers.zstd-chunked."};
constexpr std::string_view kZstdDigest = "manifest-checksum";
constexpr std::string_view kZstdPosition = "manifest-position";
constexpr uint64_t kZstdTypeCrfs = 1;

constexpr std::string_view kTocName = "stargz.index.json";
constexpr std::string_view kPrefetchLandmark = ".prefetch.landmark";

constexpr size_t kLegacyFooterBytes = 47;
constexpr size_t kExternalFooterBytes = 46;
constexpr uint64_t kBlock = 512;
constexpr uint64_t kMaxDataBytes = kBlock << 32;  // like LayerBuilder
constexpr uint64_t kMaxTocTarSlack = 1 << 20;     // headers and padding around the JSON
constexpr size_t kOutputStep = 1 << 20;
// The table as a file: each piece is a span whose offset is the number of bytes to skip.
constexpr uint64_t kTocPieceBytes = 31 << 20;
constexpr uint64_t kMaxTocFileBytes = 3 * kTocPieceBytes;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

uint64_t RoundUp(uint64_t value) { return (value + kBlock - 1) / kBlock * kBlock; }

const std::string* Find(const Descriptor& layer, std::string_view key) {
  const auto it = layer.annotations.find(std::string(key));
  return it == layer.annotations.end() ? nullptr : &it->second;
}

std::optional<TocLocation> FindZstdChunked(const Descriptor& layer, std::string_view prefix) {
  const std::string* const digest = Find(layer, StrCat(prefix, kZstdDigest));
  const std::string* const position = Find(layer, StrCat(prefix, kZstdPosition));
  if (digest == nullptr || position == nullptr) return std::nullopt;
  const absl::StatusOr<Digest> parsed = Digest::Parse(*digest);
  const std::vector<std::string_view> parts = Split(*position, ':');
  if (!parsed.ok() || parts.size() != 4) return std::nullopt;
  uint64_t numbers[4] = {};
  for (size_t i = 0; i < 4; ++i) {
    const std::optional<uint64_t> number = ParseDecimal(parts[i]);
    if (!number.has_value()) return std::nullopt;
    numbers[i] = *number;
  }
  const auto [offset, length, json_bytes, type] = numbers;
  if (type != kZstdTypeCrfs || length == 0 || length > kMaxTocBlobBytes || json_bytes == 0 ||
      json_bytes > kMaxTocBytes || offset > layer.size || length > layer.size - offset) {
    return std::nullopt;
  }
  TocLocation location;
  location.kind = TocKind::kZstdChunked;
  location.digest = *parsed;
  location.range = {offset, offset + length};
  location.json_bytes = json_bytes;
  return location;
}

// Every kind of footer is an empty gzip member whose extra field is `extra`.
bool IsFooter(std::string_view bytes, std::string_view extra) {
  constexpr std::string_view kHead("\x1f\x8b\x08\x04", 4);
  constexpr std::string_view kEmptyBlock("\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00",
                                         13);
  constexpr size_t kHeader = 10, kLength = 2;
  const std::string length = {static_cast<char>(extra.size()), '\0'};
  return bytes.size() == kHeader + kLength + extra.size() + kEmptyBlock.size() &&
         bytes.starts_with(kHead) && bytes.ends_with(kEmptyBlock) &&
         bytes.substr(kHeader, kLength) == length &&
         bytes.substr(kHeader + kLength, extra.size()) == extra;
}

std::optional<uint64_t> ParseHex(std::string_view text) {
  uint64_t value = 0;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return value;
}

// Returns the offset of the table from a footer whose extra field is `head`, 16 hex digits,
// "STARGZ".
std::optional<uint64_t> FooterOffset(std::string_view footer, std::string_view head) {
  constexpr size_t kExtra = 12, kDigits = 16;
  if (footer.size() < kExtra + head.size() + kDigits) return std::nullopt;
  const std::string_view digits = footer.substr(kExtra + head.size(), kDigits);
  if (!IsFooter(footer, StrCat(head, digits, "STARGZ"))) return std::nullopt;
  return ParseHex(digits);
}

absl::Status TooLarge(uint64_t limit) {
  return absl::UnimplementedError(
      StrCat("the layer's table of contents is larger than ", limit, " bytes"));
}

// Unpacks into `out`. `bytes` itself declares the length of its content.
absl::Status UnpackGzip(std::string_view bytes, uint64_t limit, int out) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<Decompressor> decompressor,
                           Decompressor::Create(LayerCompression::kGzip));
  std::string buffer(kOutputStep, '\0');
  uint64_t written = 0;
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(const Decompressor::Step step,
                             decompressor->Run(bytes, absl::MakeSpan(buffer)));
    bytes.remove_prefix(step.consumed);
    if (step.produced > limit - written) return TooLarge(limit);
    IMAGEFS_RETURN_IF_ERROR(
        PwriteFull(out, std::string_view(buffer.data(), step.produced), written));
    written += step.produced;
    if (bytes.empty() && step.produced < buffer.size()) break;
    if (step.consumed == 0 && step.produced == 0) {
      return absl::DataLossError("the layer's table of contents does not decompress");
    }
  }
  return decompressor->Finish();
}

absl::Status UnpackZstd(std::string_view bytes, uint64_t limit, int out) {
  uint64_t written = 0;
  return DecompressZstdTo(bytes, limit, [&](std::string_view piece) {
    const absl::Status status = PwriteFull(out, piece, written);
    written += piece.size();
    return status;
  });
}

// Finds the only file of the tar that wraps an eStargz table.
absl::StatusOr<OpenedToc> FindInTar(std::string_view tar) {
  std::optional<TarEntry> found;
  bool given = false;
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    return std::exchange(given, true) ? std::string_view() : tar;
  };
  IMAGEFS_RETURN_IF_ERROR(ReadTar(source, [&](TarEntry& entry) {
    const bool whole = entry.extents.size() == 1 && entry.extents[0].length == entry.size;
    if (entry.path == kTocName && whole) found = std::move(entry);
    return absl::OkStatus();
  }));
  const Extent place = found.has_value() ? found->extents[0] : Extent{};
  if (place.length == 0 || place.length > kMaxTocBytes || place.data_offset > tar.size() ||
      place.length > tar.size() - place.data_offset) {
    return absl::DataLossError(
        StrCat("the layer's table of contents has no ", kTocName, " of a sensible size"));
  }
  return OpenedToc{{place.data_offset, place.data_offset + place.length}, std::move(found)};
}

// ---- Entries ----

struct TocEntry {
  std::string type, name, link, mtime, digest, chunk_digest, chunk_type;
  int64_t mode = 0, uid = 0, gid = 0, size = 0, major = 0, minor = 0;
  int64_t offset = 0, end_offset = 0, inner_offset = 0, chunk_offset = 0, chunk_size = 0;
  std::vector<Xattr> xattrs;
};

constexpr std::pair<std::string_view, std::string TocEntry::*> kTexts[] = {
    {"type", &TocEntry::type},
    {"name", &TocEntry::name},
    {"linkName", &TocEntry::link},
    {"modtime", &TocEntry::mtime},
    {"digest", &TocEntry::digest},
    {"chunkDigest", &TocEntry::chunk_digest},
    {"chunkType", &TocEntry::chunk_type},
};

constexpr std::pair<std::string_view, int64_t TocEntry::*> kNumbers[] = {
    {"mode", &TocEntry::mode},
    {"uid", &TocEntry::uid},
    {"gid", &TocEntry::gid},
    {"size", &TocEntry::size},
    {"devMajor", &TocEntry::major},
    {"devMinor", &TocEntry::minor},
    {"offset", &TocEntry::offset},
    {"endOffset", &TocEntry::end_offset},
    {"innerOffset", &TocEntry::inner_offset},
    {"chunkOffset", &TocEntry::chunk_offset},
    {"chunkSize", &TocEntry::chunk_size},
};

// Parses {"version": 1, "entries": [{..., "xattrs": {...}}, ...]} and delivers one entry at a time,
// so that a table of a million entries is never in memory as a whole. Ignores unknown members.
class TocReader : public JsonVisitor {
 public:
  using OnEntry = absl::FunctionRef<absl::Status(TocEntry&)>;
  explicit TocReader(OnEntry on_entry) : on_entry_(on_entry) {}

  absl::Status Open(bool object) override {
    ++depth_;
    if (depth_ == kRoot && !object) return Malformed("it is not an object");
    if (depth_ == kEntries && key_ == "entries") {
      if (object || seen_entries_) return Malformed("it has no single list of entries");
      in_entries_ = seen_entries_ = true;
    }
    if (depth_ == kEntry && in_entries_) {
      if (!object) return Malformed("an entry is not an object");
      if (++count_ > kMaxTocEntries) {
        return absl::UnimplementedError(
            StrCat("the layer's table of contents has more than ", kMaxTocEntries, " entries"));
      }
      entry_ = TocEntry();
    }
    if (depth_ == kXattrs) in_xattrs_ = in_entries_ && object && entry_key_ == "xattrs";
    return absl::OkStatus();
  }

  absl::Status Close() override {
    const int depth = depth_--;
    if (depth == kXattrs) in_xattrs_ = false;
    if (depth == kEntries) in_entries_ = false;
    return depth == kEntry && in_entries_ ? on_entry_(entry_) : absl::OkStatus();
  }

  absl::Status Key(std::string_view key) override {
    if (depth_ == kRoot) key_ = key;
    if (depth_ == kEntry) entry_key_ = key;
    if (depth_ == kXattrs) xattr_key_ = key;
    return absl::OkStatus();
  }

  absl::Status String(std::string_view value) override {
    if (depth_ == kXattrs && in_xattrs_) {
      Xattr xattr{xattr_key_, ""};
      if (!absl::Base64Unescape(ToAbsl(value), &xattr.value)) {
        return Malformed("an xattr is not base64");
      }
      entry_.xattrs.push_back(std::move(xattr));
      return absl::OkStatus();
    }
    if (!InEntry()) return Other();
    for (const auto& [name, member] : kTexts) {
      if (entry_key_ == name) {
        entry_.*member = value;
        return absl::OkStatus();
      }
    }
    return Other();
  }

  absl::Status Int(int64_t value) override {
    if (depth_ == kRoot && key_ == "version") version_ = value;
    if (!InEntry()) return Other();
    for (const auto& [name, member] : kNumbers) {
      if (entry_key_ == name) {
        entry_.*member = value;
        return absl::OkStatus();
      }
    }
    return Other();
  }

  absl::Status Null() override {
    if (in_entries_ && depth_ == kEntries) return Malformed("an entry is not an object");
    return absl::OkStatus();
  }

  absl::Status Other() override {
    if (depth_ == kXattrs && in_xattrs_) return Malformed("an xattr is not text");
    if (in_entries_ && depth_ == kEntries) return Malformed("an entry is not an object");
    if (!InEntry()) return absl::OkStatus();
    const auto is_key = [&](const auto& pair) { return pair.first == entry_key_; };
    if (std::any_of(std::begin(kTexts), std::end(kTexts), is_key) ||
        std::any_of(std::begin(kNumbers), std::end(kNumbers), is_key)) {
      return Malformed(StrCat("an entry's \"", entry_key_, "\" has the wrong type"));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() const {
    if (!seen_entries_) return Malformed("it has no list of entries");
    if (version_ == 1) return absl::OkStatus();
    return absl::UnimplementedError(
        StrCat("the layer's table of contents is of version ", version_, "; only 1 is known"));
  }

 private:
  static constexpr int kRoot = 1, kEntries = 2, kEntry = 3, kXattrs = 4;  // levels

  static absl::Status Malformed(std::string_view why) {
    return absl::InvalidArgumentError(StrCat("the layer's table of contents is malformed: ", why));
  }
  bool InEntry() const { return in_entries_ && depth_ == kEntry; }

  const OnEntry on_entry_;
  int depth_ = 0;
  std::string key_, entry_key_, xattr_key_;  // the current key on each level
  bool in_entries_ = false, seen_entries_ = false, in_xattrs_ = false;
  int64_t version_ = 0;
  size_t count_ = 0;
  TocEntry entry_;
};

// ---- The layer ----

class TocBuilder {
 public:
  explicit TocBuilder(const TocLocation& location) : location_(location) {}

  absl::Status Add(TocEntry& entry);
  // Adds the table itself, after all other entries.
  absl::Status AddTable(TarEntry entry, std::string_view json);
  // Approximate memory use, including what Finish and image/span_table.h build from it.
  uint64_t memory_bytes() const {
    return builder_.memory_bytes() + spans_.size() * kSpanBytes + offsets_.size() * kOffsetBytes;
  }
  absl::StatusOr<TableLayer> Finish(const Descriptor& blob, const Digest& diff_id) &&;

 private:
  // The regular file whose chunks are being listed.
  struct File {
    std::string name;
    uint64_t size = 0, covered = 0, place = 0;
    uint64_t end_offset = 0;  // of its last chunk; 0 = not given
  };
  // A span whose end in the blob is not yet known, but at most `limit`.
  struct Pending {
    SpanEntry span;
    uint64_t limit = 0;
  };

  // A span, both as pending and as returned.
  static constexpr uint64_t kSpanBytes = sizeof(Pending) + sizeof(SpanEntry);
  static constexpr uint64_t kOffsetBytes = 2 * sizeof(uint64_t);

  absl::Status FinishFile();
  absl::Status AddChunk(const TocEntry& entry);
  absl::Status Refuse(std::string_view why) const;
  absl::StatusOr<std::vector<SpanEntry>> EndSpans();

  const TocLocation& location_;
  LayerBuilder builder_;
  File file_;
  uint64_t data_end_ = 0;
  std::deque<Pending> spans_;      // a growing vector would take three times the memory
  std::vector<uint64_t> offsets_;  // offsets in the blob at which any chunk begins
  std::vector<SpanEntry> table_;   // spans of the table itself
  std::optional<ByteRange> prefetch_;
};

absl::Status TocBuilder::Refuse(std::string_view why) const {
  return absl::InvalidArgumentError(
      StrCat("table of contents, file \"", Printable(file_.name), "\": ", why));
}

absl::Status TocBuilder::FinishFile() {
  const absl::Status status =
      file_.covered == file_.size
          ? absl::OkStatus()
          : Refuse(StrCat("its chunks cover ", file_.covered, " of ", file_.size, " bytes"));
  if (file_.end_offset != 0 && !spans_.empty()) {
    Pending& last = spans_.back();
    if (last.span.data_begin >= file_.place) last.limit = file_.end_offset;
  }
  file_ = File();
  return status;
}

absl::Status TocBuilder::Add(TocEntry& entry) {
  if (entry.type == "chunk") return AddChunk(entry);
  IMAGEFS_RETURN_IF_ERROR(FinishFile());
  if (entry.name.find(kReplacement) != std::string::npos ||
      entry.link.find(kReplacement) != std::string::npos) {
    return absl::InvalidArgumentError(
        StrCat("table of contents, entry \"", Printable(entry.name),
               "\": its name may have been one that JSON cannot hold"));
  }
  std::string_view name = entry.name;
  while (ConsumePrefix(&name, "/") || ConsumePrefix(&name, "./")) continue;
  if (name == kPrefetchLandmark && !prefetch_) prefetch_ = ByteRange{0, data_end_};
  TableEntry attributes;
  attributes.type = entry.type;
  attributes.path = entry.name;
  attributes.link = std::move(entry.link);
  attributes.mode = entry.mode;
  attributes.uid = entry.uid;
  attributes.gid = entry.gid;
  attributes.size = entry.size;
  attributes.major = entry.major;
  attributes.minor = entry.minor;
  attributes.mtime = std::move(entry.mtime);
  attributes.xattrs = std::move(entry.xattrs);
  IMAGEFS_ASSIGN_OR_RETURN(TarEntry tar_entry, ToTarEntry(std::move(attributes)));
  if (tar_entry.size > 0) {
    if (tar_entry.size > kMaxDataBytes - data_end_) {
      return absl::InvalidArgumentError("table of contents: the layer is larger than 2 TiB");
    }
    tar_entry.extents = {{0, data_end_, tar_entry.size, 1}};
    file_.name = entry.name;
    file_.size = tar_entry.size;
    file_.place = data_end_;
    file_.end_offset = entry.end_offset > 0 ? static_cast<uint64_t>(entry.end_offset) : 0;
    data_end_ += RoundUp(tar_entry.size);
    IMAGEFS_RETURN_IF_ERROR(AddChunk(entry));
  }
  return builder_.Add(tar_entry);
}

absl::Status TocBuilder::AddChunk(const TocEntry& entry) {
  if (file_.covered == file_.size) return Refuse("a chunk follows that belongs to no file");
  const uint64_t rest = file_.size - file_.covered;
  if (entry.offset < 0 || entry.inner_offset < 0 || entry.chunk_size < 0 ||
      static_cast<uint64_t>(entry.chunk_size) > rest ||
      entry.chunk_offset != static_cast<int64_t>(file_.covered)) {
    return Refuse("its chunks do not lie one behind the other");
  }
  const uint64_t size = entry.chunk_size == 0 ? rest : static_cast<uint64_t>(entry.chunk_size);
  Pending pending;
  SpanEntry& span = pending.span;
  span.data_begin = file_.place + file_.covered;
  span.blob_begin = static_cast<uint64_t>(entry.offset);
  span.codec = location_.kind == TocKind::kEstargz ? SpanCodec::kGzip : SpanCodec::kZstd;
  offsets_.push_back(span.blob_begin);
  file_.covered += size;
  if (entry.chunk_type == "zeros") return absl::OkStatus();
  if (!entry.chunk_type.empty()) {
    return Refuse(StrCat("unknown type of chunk \"", Printable(entry.chunk_type, 40), "\""));
  }
  if (size > kMaxSpanDataBytes || static_cast<uint64_t>(entry.inner_offset) > kMaxSpanSkip) {
    return absl::UnimplementedError(
        StrCat("table of contents, file \"", Printable(file_.name), "\": a chunk of ", size,
               " bytes at ", entry.inner_offset, " of its stream is too large to be read at once"));
  }
  span.data_bytes = static_cast<uint32_t>(size);
  span.skip = static_cast<uint32_t>(entry.inner_offset);
  const bool whole = size == file_.size;
  const std::string& digest =
      entry.chunk_digest.empty() && whole ? entry.digest : entry.chunk_digest;
  const absl::StatusOr<Digest> parsed = Digest::Parse(digest);
  if (!parsed.ok()) return Refuse("a chunk has no digest that its bytes could be checked with");
  span.digest = *parsed;
  if (spans_.size() >= kMaxSpans) return absl::UnimplementedError("table of contents: too long");
  spans_.push_back(pending);
  return absl::OkStatus();
}

// Each piece is read by unpacking the table again from its first byte.
absl::Status TocBuilder::AddTable(TarEntry entry, std::string_view json) {
  IMAGEFS_RETURN_IF_ERROR(FinishFile());
  const uint64_t skip = entry.extents[0].data_offset;
  if (json.size() > kMaxTocFileBytes) return TooLarge(kMaxTocFileBytes);
  for (uint64_t at = 0; at < json.size(); at += kTocPieceBytes) {
    const uint64_t size = std::min<uint64_t>(kTocPieceBytes, json.size() - at);
    if (skip + at > kMaxSpanSkip) return TooLarge(kMaxTocFileBytes);
    SpanEntry span;
    span.data_begin = data_end_ + at;
    span.data_bytes = static_cast<uint32_t>(size);
    span.blob_begin = location_.range.begin;
    span.blob_bytes = static_cast<uint32_t>(location_.range.size());
    span.codec = SpanCodec::kGzip;
    span.skip = static_cast<uint32_t>(skip + at);
    span.digest = Sha256Of(json.substr(at, size));
    table_.push_back(span);
  }
  entry.extents[0].data_offset = data_end_;
  data_end_ += RoundUp(json.size());
  if (data_end_ > kMaxDataBytes) {
    return absl::InvalidArgumentError("table of contents: the layer is larger than 2 TiB");
  }
  return builder_.Add(entry);
}

// A chunk's bytes end at the next chunk, at the end that its file declares, or at the table.
absl::StatusOr<std::vector<SpanEntry>> TocBuilder::EndSpans() {
  std::sort(offsets_.begin(), offsets_.end());
  std::vector<SpanEntry> spans;
  spans.reserve(spans_.size() + table_.size());
  for (const Pending& pending : spans_) {
    SpanEntry span = pending.span;
    uint64_t end = location_.range.begin;
    const auto next = std::upper_bound(offsets_.begin(), offsets_.end(), span.blob_begin);
    if (next != offsets_.end()) end = std::min(end, *next);
    if (pending.limit != 0) end = std::min(end, pending.limit);
    if (end <= span.blob_begin) {
      return absl::InvalidArgumentError(StrCat("table of contents: a chunk begins at byte ",
                                               span.blob_begin, ", where no data can be"));
    }
    if (end - span.blob_begin > kMaxSpanBlobBytes) {
      return absl::UnimplementedError(StrCat("table of contents: the ", end - span.blob_begin,
                                             " bytes of a chunk are too many to be read at once"));
    }
    span.blob_bytes = static_cast<uint32_t>(end - span.blob_begin);
    spans.push_back(span);
  }
  spans.insert(spans.end(), table_.begin(), table_.end());
  return spans;
}

absl::StatusOr<TableLayer> TocBuilder::Finish(const Descriptor& blob, const Digest& diff_id) && {
  IMAGEFS_RETURN_IF_ERROR(FinishFile());
  TableLayer out;
  IMAGEFS_ASSIGN_OR_RETURN(out.span_table.spans, EndSpans());
  IMAGEFS_ASSIGN_OR_RETURN(out.layer, std::move(builder_).Finish(data_end_));
  out.span_table.blob_digest = blob.digest;
  out.span_table.blob_size = blob.size;
  out.span_table.diff_id = diff_id;
  out.span_table.layout = DataLayout::kTable;
  out.span_table.data_bytes = out.layer.data_size;
  if (prefetch_.has_value() && !prefetch_->empty()) out.prefetch = prefetch_;
  return out;
}

}  // namespace

std::optional<TocLocation> FindToc(const Descriptor& layer) {
  for (const std::string_view prefix : kZstdPrefixes) {
    if (std::optional<TocLocation> found = FindZstdChunked(layer, prefix)) return found;
  }
  const std::string* const digest = Find(layer, kEstargzDigest);
  if (digest == nullptr || layer.size <= kEstargzFooterBytes) return std::nullopt;
  const absl::StatusOr<Digest> parsed = Digest::Parse(*digest);
  if (!parsed.ok()) return std::nullopt;
  TocLocation location;
  location.digest = *parsed;
  return location;
}

absl::StatusOr<ByteRange> ParseEstargzFooter(std::string_view tail, uint64_t blob_size) {
  if (tail.size() != kEstargzFooterBytes || blob_size < kEstargzFooterBytes) {
    return absl::InvalidArgumentError("eStargz: the footer is cut off");
  }
  ByteRange range{0, blob_size - kEstargzFooterBytes};
  std::optional<uint64_t> offset = FooterOffset(tail, std::string_view("SG\x16\x00", 4));
  if (!offset.has_value()) {
    tail.remove_prefix(kEstargzFooterBytes - kLegacyFooterBytes);
    range.end = blob_size - kLegacyFooterBytes;
    offset = FooterOffset(tail, "");
  }
  if (!offset.has_value()) {
    tail.remove_prefix(kLegacyFooterBytes - kExternalFooterBytes);
    if (IsFooter(tail, std::string_view("SG\x11\x00STARGZEXTERNALTOC", 21))) {
      return absl::UnimplementedError("eStargz: the table of contents is in another image");
    }
    return absl::InvalidArgumentError("eStargz: the blob does not end with a footer");
  }
  range.begin = *offset;
  if (range.empty()) {
    return absl::InvalidArgumentError(
        StrCat("eStargz: the footer says that the table of contents is at byte ", *offset, " of ",
               blob_size));
  }
  if (range.size() > kMaxTocBlobBytes) return TooLarge(kMaxTocBlobBytes);
  return range;
}

uint64_t AnnouncedTocBytes(const TocLocation& location, std::string_view blob_bytes) {
  if (location.kind == TocKind::kZstdChunked) return location.json_bytes;
  // The last field of a gzip member (RFC 1952).
  constexpr size_t kLengthBytes = 4;
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes && i < blob_bytes.size(); ++i) {
    length = length << 8 | static_cast<uint8_t>(blob_bytes[blob_bytes.size() - 1 - i]);
  }
  return length;
}

absl::StatusOr<OpenedToc> OpenToc(const TocLocation& location, std::string_view blob_bytes,
                                  int out) {
  if (blob_bytes.size() != location.range.size() || location.range.empty()) {
    return absl::InvalidArgumentError("these are not the bytes of the table of contents");
  }
  if (blob_bytes.size() > kMaxTocBlobBytes) return TooLarge(kMaxTocBlobBytes);
  const bool zstd = location.kind == TocKind::kZstdChunked;
  const absl::Status wrong =
      absl::DataLossError(StrCat("the layer's table of contents does not have the digest ",
                                 location.digest.ToString(), " that the manifest says"));
  if (zstd && Sha256Of(blob_bytes) != location.digest) return wrong;
  const uint64_t limit = std::min(AnnouncedTocBytes(location, blob_bytes),
                                  kMaxTocBytes + (zstd ? 0 : kMaxTocTarSlack));
  IMAGEFS_RETURN_IF_ERROR(zstd ? UnpackZstd(blob_bytes, limit, out)
                               : UnpackGzip(blob_bytes, limit, out));
  IMAGEFS_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Map(out, "table of contents"));
  if (zstd) return OpenedToc{{0, file.bytes().size()}, std::nullopt};
  absl::StatusOr<OpenedToc> toc = FindInTar(file.bytes());
  IMAGEFS_RETURN_IF_ERROR(file.CheckWhole("table of contents"));
  if (!toc.ok()) return toc;
  const std::string_view json = file.bytes().substr(toc->json.begin, toc->json.size());
  if (Sha256Of(json) != location.digest) return wrong;
  return toc;
}

absl::StatusOr<TableLayer> BuildFromToc(const TocLocation& location, std::string_view json,
                                        std::optional<TarEntry> entry, const Descriptor& blob,
                                        const Digest& diff_id, uint64_t max_bytes) {
  if (location.range.empty() || location.range.end > blob.size) {
    return absl::InvalidArgumentError("the place of the table of contents is not in the blob");
  }
  if (json.size() > kMaxTocBytes) return TooLarge(kMaxTocBytes);
  TocBuilder builder(location);
  const auto on_entry = [&](TocEntry& listed) -> absl::Status {
    IMAGEFS_RETURN_IF_ERROR(builder.Add(listed));
    if (builder.memory_bytes() <= max_bytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(StrCat("the layer's table of contents takes more than the ",
                                               max_bytes, " bytes of memory that it may"));
  };
  TocReader reader(on_entry);
  IMAGEFS_RETURN_IF_ERROR(VisitJson(json, reader));
  IMAGEFS_RETURN_IF_ERROR(reader.Finish());
  if (entry.has_value()) IMAGEFS_RETURN_IF_ERROR(builder.AddTable(*std::move(entry), json));
  return std::move(builder).Finish(blob, diff_id);
}

}  // namespace imagefs
