// SPDX-License-Identifier: Apache-2.0
// Our own tar parser instead of libarchive; docs/adr/0002-tar-parser.md explains why. Where the
// formats are ambiguous, it follows Go's archive/tar, since the runtimes use it.
#include "image/tar.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "image/pax_records.h"

namespace imagefs {
namespace {

constexpr size_t kBlock = 512;
// Go's limit for data that precedes an entry: PAX records, a GNU long name, a sparse map.
constexpr uint64_t kMaxSpecialBytes = 1 << 20;
constexpr size_t kMaxSparseSegments = 1 << 16;

absl::Status Corrupt(uint64_t offset, std::string_view what) {
  return absl::DataLossError(
      StrCat("tar: ", what, " at byte ", offset,
             "; the layer is damaged or not a tar archive; build or push the "
             "image again"));
}

absl::Status Refuse(std::string_view path, std::string_view what) {
  return absl::InvalidArgumentError(StrCat("tar entry \"", Printable(path), "\": ", what));
}

// The archive's bytes, as the parser takes them.
class TarBytes {
 public:
  virtual ~TarBytes() = default;
  uint64_t position() const { return position_; }
  // Returns `n` bytes, or fewer at the end. Valid until the next call.
  virtual absl::StatusOr<std::string_view> Take(size_t n) = 0;
  // Returns the number of bytes skipped.
  virtual absl::StatusOr<uint64_t> Skip(uint64_t n) = 0;

 protected:
  uint64_t position_ = 0;
};

// The whole stream, in pieces of the requested size.
class StreamBytes final : public TarBytes {
 public:
  explicit StreamBytes(TarSource source) : source_(source) {}

  absl::StatusOr<std::string_view> Take(size_t n) override {
    IMAGEFS_RETURN_IF_ERROR(Fill());
    if (chunk_.size() >= n) return Consume(n);
    scratch_.clear();
    while (scratch_.size() < n) {
      IMAGEFS_RETURN_IF_ERROR(Fill());
      if (chunk_.empty()) break;
      scratch_.append(Consume(std::min(n - scratch_.size(), chunk_.size())));
    }
    return std::string_view(scratch_);
  }

  absl::StatusOr<uint64_t> Skip(uint64_t n) override {
    uint64_t done = 0;
    while (done < n) {
      IMAGEFS_RETURN_IF_ERROR(Fill());
      if (chunk_.empty()) break;
      done += Consume(std::min<uint64_t>(n - done, chunk_.size())).size();
    }
    return done;
  }

 private:
  absl::Status Fill() {
    if (!chunk_.empty() || ended_) return absl::OkStatus();
    IMAGEFS_ASSIGN_OR_RETURN(chunk_, source_());
    ended_ = chunk_.empty();
    return absl::OkStatus();
  }
  std::string_view Consume(size_t n) {
    const std::string_view taken = chunk_.substr(0, n);
    chunk_.remove_prefix(n);
    position_ += n;
    return taken;
  }

  TarSource source_;
  std::string_view chunk_;
  std::string scratch_;
  bool ended_ = false;
};

// A part of the stream. What is outside of it can be skipped, but not taken.
class PartBytes final : public TarBytes {
 public:
  PartBytes(uint64_t tar_bytes, uint64_t begin, std::string_view part, uint64_t position)
      : tar_bytes_(tar_bytes), begin_(begin), part_(part) {
    position_ = std::min(position, tar_bytes);
  }

  absl::StatusOr<std::string_view> Take(size_t n) override {
    const uint64_t end = position_ + std::min<uint64_t>(n, tar_bytes_ - position_);
    if (end > position_ && (position_ < begin_ || end > begin_ + part_.size())) {
      missing_ = end;
      return absl::OutOfRangeError("not at hand");
    }
    const std::string_view taken =
        end == position_ ? "" : part_.substr(position_ - begin_, end - position_);
    position_ = end;
    return taken;
  }
  absl::StatusOr<uint64_t> Skip(uint64_t n) override {
    const uint64_t skipped = std::min(n, tar_bytes_ - position_);
    position_ += skipped;
    return skipped;
  }

  // The end of what could not be taken.
  std::optional<uint64_t> missing() const { return missing_; }

 private:
  const uint64_t tar_bytes_, begin_;
  const std::string_view part_;
  std::optional<uint64_t> missing_;
};

// Returns the field up to the first NUL, or all of it.
std::string_view Text(std::string_view field) { return field.substr(0, field.find('\0')); }

// Parses octal digits surrounded by blanks and NULs.
std::optional<int64_t> Octal(std::string_view field) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\0'; };
  while (!field.empty() && is_blank(field.front())) field.remove_prefix(1);
  while (!field.empty() && is_blank(field.back())) field.remove_suffix(1);
  int64_t value = 0;
  for (char c : Text(field)) {
    if (c < '0' || c > '7' || value > (std::numeric_limits<int64_t>::max() >> 3)) {
      return std::nullopt;
    }
    value = value * 8 + (c - '0');
  }
  return value;
}

// Parses octal, or a signed base-256 number if the high bit is set.
std::optional<int64_t> Number(std::string_view field) {
  if (field.empty() || (static_cast<unsigned char>(field[0]) & 0x80) == 0) return Octal(field);
  const bool negative = (field[0] & 0x40) != 0;
  uint64_t value = negative ? ~uint64_t{0} : 0;
  for (size_t i = 0; i < field.size(); ++i) {
    uint64_t byte = static_cast<unsigned char>(field[i]);
    if (i == 0) byte = negative ? byte | 0x80 : byte & 0x7f;
    const uint64_t dropped = value >> 55;  // including the sign bit of the result
    if (i > 0 && dropped != (negative ? (uint64_t{1} << 9) - 1 : 0)) return std::nullopt;
    value = (value << 8) | byte;
  }
  if ((value >> 63 != 0) != negative) return std::nullopt;
  return static_cast<int64_t>(value);
}

// One header block; a value type.
class Header {
 public:
  explicit Header(std::string_view block) { std::memcpy(block_.data(), block.data(), kBlock); }

  // Parses the numbers. Returns false if any is malformed, even one that the type does not need:
  // the runtimes reject such a header.
  bool Parse() {
    const bool star = is_star(), devices = star || is_ustar() || is_gnu();
    bool good = true;
    const auto number = [&](size_t at, size_t size) {
      const std::optional<int64_t> value = Number(Field(at, size));
      good = good && value.has_value();
      return value.value_or(0);
    };
    mode = number(100, 8);
    uid = number(108, 8);
    gid = number(116, 8);
    size = number(124, 12);
    mtime = number(136, 12);
    if (devices) {
      major = number(329, 8);
      minor = number(337, 8);
    }
    if (star) {  // atime and ctime
      number(476, 12);
      number(488, 12);
    }
    return good;
  }
  int64_t mode = 0, uid = 0, gid = 0, size = 0, mtime = 0, major = 0, minor = 0;

  std::string_view Field(size_t at, size_t length) const { return {block_.data() + at, length}; }
  std::string_view name() const { return Text(Field(0, 100)); }
  char type() const { return block_[156]; }
  std::string_view link() const { return Text(Field(157, 100)); }
  bool is_gnu() const { return Field(257, 8) == std::string_view("ustar  \0", 8); }
  bool is_ustar() const { return Field(257, 6) == std::string_view("ustar\0", 6); }
  bool is_star() const { return is_ustar() && Field(508, 4) == std::string_view("tar\0", 4); }

  std::string_view prefix() const {
    if (is_star()) return Text(Field(345, 131));
    if (is_ustar()) return Text(Field(345, 155));
    // Old versions of Go wrote ustar's prefix into GNU headers, over the fields of two times.
    if (is_gnu() && !(IsGnuTime(Field(345, 12)) && IsGnuTime(Field(357, 12)))) {
      const std::string_view prefix = Text(Field(345, 155));
      const bool ascii = std::all_of(prefix.begin(), prefix.end(),
                                     [](char c) { return static_cast<signed char>(c) > 0; });
      if (ascii) return prefix;
    }
    return {};
  }

  std::string path() const {
    const std::string_view before = prefix();
    return before.empty() ? std::string(name()) : StrCat(before, "/", name());
  }

  bool IsZero() const {
    return std::all_of(block_.begin(), block_.end(), [](char c) { return c == 0; });
  }
  // The sum of the bytes, with the field itself as blanks; some writers summed signed bytes.
  bool ChecksumHolds() const {
    int64_t plain = 0, with_sign = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      const char c = i >= 148 && i < 156 ? ' ' : block_[i];
      plain += static_cast<unsigned char>(c);
      with_sign += static_cast<signed char>(c);
    }
    const std::optional<int64_t> sum = Octal(Field(148, 8));
    return sum.has_value() && (*sum == plain || *sum == with_sign);
  }

 private:
  static bool IsGnuTime(std::string_view field) {
    return field[0] == '\0' || Number(field).has_value();
  }

  std::array<char, kBlock> block_;
};

struct Segment {
  uint64_t offset = 0, length = 0;
};

// Headers that precede an entry and modify it.
struct Extensions {
  PaxRecords pax;                    // from the last PAX header only
  std::string long_name, long_link;  // GNU; "" = none

  void Clear() {
    pax.Clear();
    long_name.clear();
    long_link.clear();
  }
};

class TarParser {
 public:
  TarParser(TarBytes& bytes, absl::FunctionRef<absl::Status(TarEntry&)> entry)
      : reader_(bytes), entry_(entry) {}

  absl::Status Run();
  // Where what precedes the next entry begins; everything before was reported.
  uint64_t next_entry() const { return next_entry_; }

 private:
  // Returns nullopt at the end of the archive.
  absl::StatusOr<std::optional<Header>> NextHeader();
  absl::Status TakeBody(const Header& header, std::string& body);
  absl::Status TakePax(const Header& header, PaxRecords& pax);
  absl::Status HandleGlobal(const Header& header);
  absl::Status HandleEntry(Header& header);
  absl::Status MergePax(Header& header, TarEntry& entry);
  absl::Status SetAttributes(Header& header, TarEntry& entry);
  absl::Status HandleFile(const Header& header, TarEntry& entry);
  absl::Status SkipUnexpectedData(uint64_t size);
  absl::StatusOr<std::optional<std::vector<Segment>>> SparseMap(const Header& header,
                                                                TarEntry& entry, uint64_t& stored);
  absl::StatusOr<std::vector<Segment>> OldGnuMap(const Header& header, TarEntry& entry);
  absl::StatusOr<std::vector<Segment>> ListedMap() const;
  absl::StatusOr<std::vector<Segment>> EmbeddedMap(uint64_t& stored);
  absl::Status PlaceSegments(const std::vector<Segment>& segments, uint64_t stored,
                             TarEntry& entry) const;
  absl::Status SkipData(uint64_t size);
  absl::Status CorruptHere(std::string_view what) const { return Corrupt(header_at_, what); }

  TarBytes& reader_;
  absl::FunctionRef<absl::Status(TarEntry&)> entry_;
  uint64_t next_entry_ = 0;
  std::optional<Header> peeked_;
  uint64_t header_at_ = 0;
  Extensions extensions_;
  bool extended_ = false;  // extensions_ is not empty
};

// Each PAX header or long name replaces the previous one; a global header discards pending ones.
absl::Status TarParser::Run() {
  std::string body;
  while (true) {
    if (!extended_) next_entry_ = reader_.position() - (peeked_.has_value() ? kBlock : 0);
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<Header> header, NextHeader());
    if (!header.has_value()) break;
    switch (header->type()) {
      case 'x':
        extended_ = true;
        extensions_.pax.Clear();
        IMAGEFS_RETURN_IF_ERROR(TakePax(*header, extensions_.pax));
        continue;
      case 'L':
      case 'K':
        extended_ = true;
        IMAGEFS_RETURN_IF_ERROR(TakeBody(*header, body));
        (header->type() == 'L' ? extensions_.long_name : extensions_.long_link) = Text(body);
        continue;
      case 'g':
        IMAGEFS_RETURN_IF_ERROR(HandleGlobal(*header));
        break;
      default:
        IMAGEFS_RETURN_IF_ERROR(HandleEntry(*header));
    }
    if (std::exchange(extended_, false)) extensions_.Clear();
  }
  return reader_.Skip(std::numeric_limits<uint64_t>::max()).status();
}

absl::StatusOr<std::optional<Header>> TarParser::NextHeader() {
  if (peeked_.has_value()) {
    header_at_ = reader_.position() - kBlock;
    Header header = *std::exchange(peeked_, std::nullopt);
    if (!header.IsZero()) {
      if (!header.Parse()) return CorruptHere("a header with a malformed number");
      return header;
    }
  } else {
    header_at_ = reader_.position();
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
    if (block.empty()) return std::nullopt;
    if (block.size() < kBlock) return CorruptHere("the archive is truncated in a header");
    Header header(block);
    if (!header.IsZero()) {
      if (!header.ChecksumHolds()) return CorruptHere("a header with a wrong checksum");
      if (!header.Parse()) return CorruptHere("a header with a malformed number");
      return header;
    }
  }
  // Two zero blocks end the archive; the second one is optional.
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
  if (block.empty()) return std::nullopt;
  if (block.size() < kBlock || !Header(block).IsZero()) {
    return CorruptHere("a single block of zeros inside the archive");
  }
  return std::nullopt;
}

absl::Status TarParser::TakeBody(const Header& header, std::string& body) {
  if (header.size < 0 || static_cast<uint64_t>(header.size) > kMaxSpecialBytes) {
    return CorruptHere("a name or a PAX header larger than 1 MiB");
  }
  const size_t size = static_cast<size_t>(header.size);
  const size_t padded = (size + kBlock - 1) / kBlock * kBlock;
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view bytes, reader_.Take(padded));
  if (bytes.size() < size) return CorruptHere("the archive is truncated behind the header");
  body = bytes.substr(0, size);
  return absl::OkStatus();
}

absl::Status TarParser::TakePax(const Header& header, PaxRecords& pax) {
  IMAGEFS_RETURN_IF_ERROR(TakeBody(header, pax.body));
  const absl::Status parsed = pax.Parse();
  return absl::IsDataLoss(parsed) ? CorruptHere(ToStd(parsed.message())) : parsed;
}

absl::StatusOr<uint32_t> FileType(const Header& header, const TarEntry& entry) {
  switch (header.type()) {
    case '\0':
      return entry.path.ends_with('/') ? S_IFDIR : S_IFREG;
    case '0':
    case '1':
    case '7':
    case 'S':
      return S_IFREG;
    case '2':
      return S_IFLNK;
    case '3':
      return S_IFCHR;
    case '4':
      return S_IFBLK;
    case '5':
      return S_IFDIR;
    case '6':
      return S_IFIFO;
    default:
      return Refuse(entry.path,
                    StrCat("unhandled tar header type '", Printable(std::string(1, header.type())),
                           "'; only files, links, directories, devices and FIFOs can be shown"));
  }
}

// chown(2) treats -1 as "do not change", so the owner is root; other negative ids wrap modulo 2^32.
std::optional<uint32_t> OwnerId(int64_t id) {
  if (id == -1 || id == std::numeric_limits<uint32_t>::max()) return 0;
  if (id < std::numeric_limits<int32_t>::min() || id > std::numeric_limits<uint32_t>::max()) {
    return std::nullopt;
  }
  return static_cast<uint32_t>(id);
}

// Overrides the header's values by those of the PAX records.
absl::Status TarParser::MergePax(Header& header, TarEntry& entry) {
  PaxRecords& pax = extensions_.pax;
  bool good = true;
  const auto number = [&](std::string_view text, int64_t& out) {
    if (text.empty()) return;
    const std::optional<int64_t> value = PaxNumber(text);
    good = good && value.has_value();
    out = value.value_or(0);
  };
  const auto time = [&](std::string_view text) {
    const std::optional<PaxTime> value = ParsePaxTime(text);
    good = good && value.has_value();
    return value.value_or(PaxTime());
  };
  number(pax.size, header.size);
  number(pax.uid, header.uid);
  number(pax.gid, header.gid);
  if (!pax.mtime.empty()) {
    const PaxTime mtime = time(pax.mtime);
    header.mtime = mtime.seconds;
    entry.mtime_nanoseconds = mtime.nanoseconds;
  }
  if (!pax.atime.empty()) time(pax.atime);
  if (!pax.ctime.empty()) time(pax.ctime);
  if (!good) return CorruptHere("a PAX header with a malformed number");
  if (!pax.path.empty()) entry.path = pax.path;
  if (!pax.link.empty()) entry.link = pax.link;
  IMAGEFS_ASSIGN_OR_RETURN(entry.xattrs, pax.Xattrs());
  return absl::OkStatus();
}

absl::Status TarParser::SetAttributes(Header& header, TarEntry& entry) {
  entry.path = header.path();
  entry.link = std::string(header.link());
  if (extended_) {
    IMAGEFS_RETURN_IF_ERROR(MergePax(header, entry));
    if (!extensions_.long_name.empty()) entry.path = std::move(extensions_.long_name);
    if (!extensions_.long_link.empty()) entry.link = std::move(extensions_.long_link);
  }
  entry.mtime_seconds = header.mtime;
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t type, FileType(header, entry));
  entry.mode = type | (static_cast<uint32_t>(header.mode) & 07777);
  const std::optional<uint32_t> owner = OwnerId(header.uid), group = OwnerId(header.gid);
  if (!owner || !group) {
    return Refuse(entry.path,
                  StrCat("owner ", header.uid, ":", header.gid, " does not fit into 32 bits"));
  }
  entry.uid = *owner;
  entry.gid = *group;
  if (type == S_IFCHR || type == S_IFBLK) {
    if (header.major < 0 || header.minor < 0 || header.major >= 1 << 12 ||
        header.minor >= 1 << 20) {
      return Refuse(entry.path, "device numbers that Linux does not support");
    }
    entry.rdev_major = static_cast<uint32_t>(header.major);
    entry.rdev_minor = static_cast<uint32_t>(header.minor);
  }
  entry.hard_link = header.type() == '1';
  return absl::OkStatus();
}

absl::Status TarParser::HandleGlobal(const Header& header) {
  PaxRecords records;
  IMAGEFS_RETURN_IF_ERROR(TakePax(header, records));
  TarEntry entry;
  entry.global = true;
  entry.path = records.path.empty() ? header.path() : std::string(records.path);
  return entry_(entry);
}

absl::Status TarParser::HandleEntry(Header& header) {
  TarEntry entry;
  IMAGEFS_RETURN_IF_ERROR(SetAttributes(header, entry));
  if (S_ISREG(entry.mode) && !entry.hard_link) return HandleFile(header, entry);
  if (extensions_.pax.IsSparse()) return CorruptHere("a sparse file that is not a regular file");
  if (!entry.hard_link && !S_ISLNK(entry.mode)) entry.link.clear();
  // Reported once nothing can be missing any more, since a scan reads again what it could not.
  IMAGEFS_RETURN_IF_ERROR(
      SkipUnexpectedData(header.size > 0 ? static_cast<uint64_t>(header.size) : 0));
  return entry_(entry);
}

// Only files have data, yet some archives declare a size for links and directories: mostly without
// any data (the size of the link's target file), some with. The next block tells which.
absl::Status TarParser::SkipUnexpectedData(uint64_t size) {
  if (size == 0) return absl::OkStatus();
  const uint64_t at = reader_.position();
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
  if (block.empty()) return absl::OkStatus();
  if (block.size() == kBlock) {
    const Header next(block);
    if (next.IsZero() || next.ChecksumHolds()) {
      peeked_ = next;
      return absl::OkStatus();
    }
  } else if (block.size() < size) {
    return Corrupt(at, "the archive is truncated in the data of a link");
  }
  return size <= kBlock ? absl::OkStatus() : SkipData(size - kBlock);
}

absl::Status TarParser::HandleFile(const Header& header, TarEntry& entry) {
  if (header.size < 0) return CorruptHere("a header with a malformed size");
  const uint64_t size = static_cast<uint64_t>(header.size);
  entry.size = size;
  uint64_t stored = size;
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::vector<Segment>> segments,
                           SparseMap(header, entry, stored));
  entry.link.clear();
  if (segments.has_value()) {
    IMAGEFS_RETURN_IF_ERROR(PlaceSegments(*segments, stored, entry));
  } else if (size > 0) {
    entry.extents.push_back({0, reader_.position(), size, 1});
  }
  IMAGEFS_RETURN_IF_ERROR(entry_(entry));
  return SkipData(stored);
}

// The data itself must be complete; the padding of the last file is optional.
absl::Status TarParser::SkipData(uint64_t size) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t skipped, reader_.Skip(size));
  if (skipped < size) {
    return CorruptHere("the archive is truncated in the data of the entry whose header is");
  }
  return reader_.Skip((kBlock - size % kBlock) % kBlock).status();
}

// Returns nullopt if the file is not sparse. Sets `stored` to the bytes of data after the map.
absl::StatusOr<std::optional<std::vector<Segment>>> TarParser::SparseMap(const Header& header,
                                                                         TarEntry& entry,
                                                                         uint64_t& stored) {
  if (header.type() == 'S') return OldGnuMap(header, entry);
  const PaxRecords& pax = extensions_.pax;
  if (!pax.IsSparse()) return std::nullopt;
  if (!pax.sparse_name.empty()) {
    if (pax.sparse_name.find('\0') != std::string_view::npos) {
      return Refuse(pax.sparse_name, "a NUL in the name of a sparse file");
    }
    entry.path = pax.sparse_name;
  }
  const std::string_view size_text =
      pax.sparse_size.empty() ? pax.sparse_real_size : pax.sparse_size;
  if (!size_text.empty()) {
    const std::optional<int64_t> size = PaxNumber(size_text);
    if (!size.has_value() || *size < 0) return CorruptHere("a malformed size of a sparse file");
    entry.size = static_cast<uint64_t>(*size);
  }
  if (pax.sparse_major == "1") return EmbeddedMap(stored);
  return ListedMap();
}

// Versions 0.0 and 0.1.
absl::StatusOr<std::vector<Segment>> TarParser::ListedMap() const {
  const PaxRecords& pax = extensions_.pax;
  std::vector<std::string_view> numbers;
  if (!pax.sparse_map.empty()) numbers = Split(pax.sparse_map, ',');
  const std::optional<int64_t> count = PaxNumber(pax.sparse_count);
  if (!count.has_value() || numbers.size() % 2 != 0 ||
      *count != static_cast<int64_t>(numbers.size() / 2)) {
    return CorruptHere("a map of a sparse file with a wrong number of parts");
  }
  std::vector<Segment> segments;
  for (size_t i = 0; i < numbers.size(); i += 2) {
    const std::optional<int64_t> offset = PaxNumber(numbers[i]), length = PaxNumber(numbers[i + 1]);
    if (!offset || !length || *offset < 0 || *length < 0) {
      return CorruptHere("a malformed map of a sparse file");
    }
    segments.push_back({static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)});
  }
  return segments;
}

// Four segments in the header, then blocks of 21 while a flag indicates more.
absl::StatusOr<std::vector<Segment>> TarParser::OldGnuMap(const Header& header, TarEntry& entry) {
  const std::optional<int64_t> real_size = Number(header.Field(483, 12));
  if (!header.is_gnu() || !real_size.has_value() || *real_size < 0) {
    return CorruptHere("a malformed header of a sparse file");
  }
  entry.size = static_cast<uint64_t>(*real_size);
  std::vector<Segment> segments;
  Header block = header;
  size_t at = 386, count = 4;
  while (true) {
    for (size_t i = 0; i < count; ++i) {
      const std::string_view pair = block.Field(at + 24 * i, 24);
      if (pair[0] == '\0') break;
      const std::optional<int64_t> offset = Number(pair.substr(0, 12));
      const std::optional<int64_t> length = Number(pair.substr(12));
      if (!offset || !length || *offset < 0 || *length < 0) {
        return CorruptHere("a malformed map of a sparse file");
      }
      segments.push_back({static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)});
    }
    if (block.Field(at + 24 * count, 1)[0] == '\0') return segments;
    if (segments.size() > kMaxSparseSegments) return CorruptHere("a sparse file of too many parts");
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view next, reader_.Take(kBlock));
    if (next.size() < kBlock) return CorruptHere("the archive is truncated in a sparse file's map");
    block = Header(next);
    at = 0;
    count = 21;
  }
}

// Version 1.0: the data begins with the map, as lines of decimal numbers: a count, then the pairs.
absl::StatusOr<std::vector<Segment>> TarParser::EmbeddedMap(uint64_t& stored) {
  std::string text;
  size_t at = 0;
  const auto next_number = [&]() -> absl::StatusOr<uint64_t> {
    size_t end;
    while ((end = text.find('\n', at)) == std::string::npos) {
      if (stored < kBlock || text.size() - at > 64 || text.size() >= kMaxSpecialBytes) {
        return CorruptHere("a malformed map of a sparse file");
      }
      IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
      if (block.size() < kBlock) {
        return CorruptHere("the archive is truncated in a sparse file's map");
      }
      text.append(block);
      stored -= kBlock;
    }
    const std::optional<int64_t> number = PaxNumber(std::string_view(text).substr(at, end - at));
    at = end + 1;
    if (!number.has_value() || *number < 0) {
      return CorruptHere("a malformed map of a sparse file");
    }
    return static_cast<uint64_t>(*number);
  };
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t count, next_number());
  if (count > kMaxSparseSegments) return CorruptHere("a sparse file of too many parts");
  std::vector<Segment> segments;
  for (uint64_t i = 0; i < count; ++i) {
    Segment segment;
    IMAGEFS_ASSIGN_OR_RETURN(segment.offset, next_number());
    IMAGEFS_ASSIGN_OR_RETURN(segment.length, next_number());
    segments.push_back(segment);
  }
  return segments;
}

// The stored bytes are the segments in sequence.
absl::Status TarParser::PlaceSegments(const std::vector<Segment>& segments, uint64_t stored,
                                      TarEntry& entry) const {
  uint64_t end = 0, used = 0;
  for (const Segment& segment : segments) {
    if (segment.offset < end || segment.length > entry.size ||
        segment.offset > entry.size - segment.length || segment.length > stored - used) {
      return CorruptHere("an impossible map of a sparse file");
    }
    if (segment.length > 0) {
      entry.extents.push_back({segment.offset, reader_.position() + used, segment.length, 1});
    }
    end = segment.offset + segment.length;
    used += segment.length;
  }
  if (used != stored) return CorruptHere("a sparse file with data outside of its map");
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTar(TarSource source, absl::FunctionRef<absl::Status(TarEntry&)> entry) {
  StreamBytes bytes(source);
  return TarParser(bytes, entry).Run();
}

absl::StatusOr<std::optional<uint64_t>> TarScan::Continue(
    uint64_t begin, std::string_view bytes, absl::FunctionRef<absl::Status(TarEntry&)> entry) {
  PartBytes part(tar_bytes_, begin, bytes, position_);
  TarParser parser(part, entry);
  const absl::Status status = parser.Run();
  if (status.ok()) {
    position_ = tar_bytes_;
    return std::nullopt;
  }
  if (!part.missing().has_value()) return status;
  position_ = parser.next_entry();
  return part.missing();
}

}  // namespace imagefs
