// An own reader of tar headers instead of libarchive: docs/adr/0002-tar-parser.md says why. Where
// the formats leave room, the answer is that of Go's archive/tar, since the runtimes use it.
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

namespace imagefs {
namespace {

constexpr size_t kBlock = 512;
// Go's limit for what precedes an entry: PAX records, a GNU long name, a map of a sparse file.
constexpr uint64_t kMaxSpecialBytes = 1 << 20;
constexpr size_t kMaxSparseSegments = 1 << 16;
constexpr size_t kMaxXattrName = 255;
constexpr size_t kMaxXattrValue = 65535;  // 65536 in Linux, one less in an index
constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";

absl::Status Corrupt(uint64_t offset, std::string_view what) {
  return absl::DataLossError(StrCat("tar: ", what, " at byte ", offset,
                                    "; the layer is damaged or no tar archive, build or push the "
                                    "image again"));
}

absl::Status Refuse(std::string_view path, std::string_view what) {
  return absl::InvalidArgumentError(StrCat("tar entry \"", Printable(path), "\": ", what));
}

// The stream in pieces of the size that the parser wants.
class BlockReader {
 public:
  explicit BlockReader(TarSource source) : source_(source) {}

  uint64_t position() const { return position_; }

  // Up to `n` bytes, fewer only at the end. Valid until the next call.
  absl::StatusOr<std::string_view> Take(size_t n) {
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

  // Returns how many bytes there were to skip.
  absl::StatusOr<uint64_t> Skip(uint64_t n) {
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
  uint64_t position_ = 0;
  bool ended_ = false;
};

// Up to the first NUL, or all of the field.
std::string_view Text(std::string_view field) { return field.substr(0, field.find('\0')); }

// Octal digits between blanks and NULs, or a signed base-256 number, which the high bit announces.
std::optional<int64_t> Number(std::string_view field) {
  if (!field.empty() && (static_cast<unsigned char>(field[0]) & 0x80) != 0) {
    const bool negative = (field[0] & 0x40) != 0;
    uint64_t value = negative ? ~uint64_t{0} : 0;
    for (size_t i = 0; i < field.size(); ++i) {
      uint64_t byte = static_cast<unsigned char>(field[i]);
      if (i == 0) byte = negative ? byte | 0x80 : byte & 0x7f;
      const uint64_t dropped = value >> 55;  // with the sign bit that the result will have
      if (i > 0 && dropped != (negative ? (uint64_t{1} << 9) - 1 : 0)) return std::nullopt;
      value = (value << 8) | byte;
    }
    if ((value >> 63 != 0) != negative) return std::nullopt;
    return static_cast<int64_t>(value);
  }
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

// One header block; a value.
class Header {
 public:
  explicit Header(std::string_view block) { std::memcpy(block_.data(), block.data(), kBlock); }

  std::string_view Field(size_t at, size_t size) const { return {block_.data() + at, size}; }
  std::string_view name() const { return Text(Field(0, 100)); }
  std::optional<int64_t> mode() const { return Number(Field(100, 8)); }
  std::optional<int64_t> uid() const { return Number(Field(108, 8)); }
  std::optional<int64_t> gid() const { return Number(Field(116, 8)); }
  std::optional<int64_t> size() const { return Number(Field(124, 12)); }
  std::optional<int64_t> mtime() const { return Number(Field(136, 12)); }
  char type() const { return block_[156]; }
  std::string_view link() const { return Text(Field(157, 100)); }
  std::optional<int64_t> major() const { return Number(Field(329, 8)); }
  std::optional<int64_t> minor() const { return Number(Field(337, 8)); }
  bool is_gnu() const { return Field(257, 8) == std::string_view("ustar  \0", 8); }
  bool is_ustar() const { return Field(257, 6) == std::string_view("ustar\0", 6); }
  bool is_star() const { return is_ustar() && Field(508, 4) == std::string_view("tar\0", 4); }

  std::string_view prefix() const {
    if (is_star()) return Text(Field(345, 131));
    if (is_ustar()) return Text(Field(345, 155));
    // Old versions of Go wrote ustar's prefix into GNU headers, where two times have their place.
    if (is_gnu() && !Number(Field(345, 12)).has_value()) {
      const std::string_view prefix = Text(Field(345, 155));
      const bool ascii = std::all_of(prefix.begin(), prefix.end(),
                                     [](char c) { return static_cast<signed char>(c) > 0; });
      if (ascii) return prefix;
    }
    return {};
  }

  bool IsZero() const {
    return std::all_of(block_.begin(), block_.end(), [](char c) { return c == 0; });
  }
  // The sum of the bytes with the field itself as blanks; some writers summed signed bytes.
  bool ChecksumHolds() const {
    int64_t plain = 0, with_sign = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      const char c = i >= 148 && i < 156 ? ' ' : block_[i];
      plain += static_cast<unsigned char>(c);
      with_sign += static_cast<signed char>(c);
    }
    const std::optional<int64_t> sum = Number(Field(148, 8));
    return sum.has_value() && (*sum == plain || *sum == with_sign);
  }

 private:
  std::array<char, kBlock> block_;
};

struct Time {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};

std::optional<int64_t> ParseSigned(std::string_view text) {
  const bool negative = ConsumePrefix(&text, "-");
  const std::optional<uint64_t> value = ParseDecimal(text);
  if (!value.has_value() || *value > std::numeric_limits<int64_t>::max()) return std::nullopt;
  return negative ? -static_cast<int64_t>(*value) : static_cast<int64_t>(*value);
}

// "-1.5" is one and a half seconds before 1970: -2 seconds and 500,000,000 ns.
std::optional<Time> ParsePaxTime(std::string_view text) {
  const size_t dot = text.find('.');
  const std::optional<int64_t> seconds = ParseSigned(text.substr(0, dot));
  if (!seconds.has_value()) return std::nullopt;
  uint32_t nanoseconds = 0;
  if (dot != std::string_view::npos) {
    std::string fraction(text.substr(dot + 1));
    if (!std::all_of(fraction.begin(), fraction.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return std::nullopt;
    fraction.resize(9, '0');
    nanoseconds = static_cast<uint32_t>(*ParseDecimal(fraction));
  }
  if (text.starts_with('-') && nanoseconds > 0) {
    return Time{*seconds - 1, 1'000'000'000 - nanoseconds};
  }
  return Time{*seconds, nanoseconds};
}

struct Segment {
  uint64_t offset = 0, length = 0;
};

// What precedes an entry and belongs to it.
struct Extensions {
  std::optional<std::string> path, link;            // PAX
  std::optional<std::string> long_name, long_link;  // GNU
  std::optional<int64_t> size, uid, gid;
  std::optional<Time> mtime;
  std::vector<Xattr> xattrs;
  std::optional<std::string> sparse_name, sparse_major, sparse_minor, sparse_map;
  std::optional<uint64_t> sparse_size;
  std::vector<uint64_t> sparse_pairs;  // version 0.0: offset, length, offset, ...
};

class TarParser {
 public:
  TarParser(TarSource source, absl::FunctionRef<absl::Status(TarEntry&)> entry)
      : reader_(source), entry_(entry) {}

  absl::Status Run();

 private:
  // Empty at the end of the archive.
  absl::StatusOr<std::optional<Header>> NextHeader();
  absl::StatusOr<std::string> TakeBody(const Header& header);
  absl::Status ParsePax(std::string_view body, uint64_t at);
  absl::Status ApplyPax(std::string_view key, std::string_view value, bool* valid);
  absl::Status HandleEntry(const Header& header);
  absl::Status SetAttributes(const Header& header, TarEntry& entry);
  absl::Status HandleFile(const Header& header, TarEntry& entry, uint64_t size);
  absl::Status SkipUnexpectedData(uint64_t size);
  absl::StatusOr<std::optional<std::vector<Segment>>> SparseMap(const Header& header,
                                                                TarEntry& entry, uint64_t& stored);
  absl::StatusOr<std::vector<Segment>> OldGnuMap(const Header& header, TarEntry& entry);
  absl::StatusOr<std::vector<Segment>> EmbeddedMap(uint64_t& stored);
  absl::Status PlaceSegments(const std::vector<Segment>& segments, uint64_t stored,
                             TarEntry& entry) const;
  absl::Status SkipData(uint64_t size);
  absl::Status CorruptHere(std::string_view what) const { return Corrupt(header_at_, what); }

  BlockReader reader_;
  absl::FunctionRef<absl::Status(TarEntry&)> entry_;
  std::optional<Header> peeked_;
  uint64_t header_at_ = 0;
  Extensions extensions_;
};

absl::Status TarParser::Run() {
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::optional<Header> header, NextHeader());
    if (!header.has_value()) break;
    switch (header->type()) {
      case 'x': {
        const uint64_t at = header_at_;
        IMAGEFS_ASSIGN_OR_RETURN(const std::string body, TakeBody(*header));
        IMAGEFS_RETURN_IF_ERROR(ParsePax(body, at));
        break;
      }
      case 'g':  // global records: ignored, as the runtimes do
        IMAGEFS_RETURN_IF_ERROR(TakeBody(*header).status());
        break;
      case 'L':
      case 'K': {
        IMAGEFS_ASSIGN_OR_RETURN(const std::string body, TakeBody(*header));
        (header->type() == 'L' ? extensions_.long_name : extensions_.long_link) =
            std::string(Text(body));
        break;
      }
      default:
        IMAGEFS_RETURN_IF_ERROR(HandleEntry(*header));
        extensions_ = Extensions();
    }
  }
  return reader_.Skip(std::numeric_limits<uint64_t>::max()).status();
}

absl::StatusOr<std::optional<Header>> TarParser::NextHeader() {
  if (peeked_.has_value()) {
    header_at_ = reader_.position() - kBlock;
    const Header header = *std::exchange(peeked_, std::nullopt);
    if (!header.IsZero()) return header;
  } else {
    header_at_ = reader_.position();
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
    if (block.empty()) return std::nullopt;
    if (block.size() < kBlock) return CorruptHere("the archive is truncated in a header");
    const Header header(block);
    if (!header.IsZero()) {
      if (!header.ChecksumHolds()) return CorruptHere("a header with a wrong checksum");
      return header;
    }
  }
  // Two blocks of zeros end the archive; the second one may be missing.
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view block, reader_.Take(kBlock));
  if (block.empty()) return std::nullopt;
  if (block.size() < kBlock || !Header(block).IsZero()) {
    return CorruptHere("a single block of zeros inside the archive");
  }
  return std::nullopt;
}

absl::StatusOr<std::string> TarParser::TakeBody(const Header& header) {
  const std::optional<int64_t> size = header.size();
  if (!size.has_value() || *size < 0 || static_cast<uint64_t>(*size) > kMaxSpecialBytes) {
    return CorruptHere("a name or a PAX header larger than 1 MiB");
  }
  const size_t padded = (static_cast<size_t>(*size) + kBlock - 1) / kBlock * kBlock;
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view body, reader_.Take(padded));
  if (body.size() < static_cast<size_t>(*size)) {
    return CorruptHere("the archive is truncated behind the header");
  }
  return std::string(body.substr(0, static_cast<size_t>(*size)));
}

// Records "<length> <key>=<value>\n", where the length counts the whole record.
absl::Status TarParser::ParsePax(std::string_view body, uint64_t at) {
  while (!body.empty()) {
    const size_t blank = body.find(' ');
    const std::optional<uint64_t> length = ParseDecimal(body.substr(0, blank));
    if (!length.has_value() || blank == std::string_view::npos || *length > body.size() ||
        *length < blank + 2 || body[*length - 1] != '\n') {
      return Corrupt(at, "a malformed PAX record");
    }
    const std::string_view record = body.substr(blank + 1, *length - blank - 2);
    body.remove_prefix(*length);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return Corrupt(at, "a malformed PAX record");
    }
    const std::string_view key = record.substr(0, equals);
    bool valid = key.find('\0') == std::string_view::npos;
    IMAGEFS_RETURN_IF_ERROR(ApplyPax(key, record.substr(equals + 1), &valid));
    if (!valid) {
      return Corrupt(at, StrCat("a PAX record \"", Printable(key), "\" of an impossible value"));
    }
  }
  if (extensions_.sparse_pairs.size() % 2 != 0) return Corrupt(at, "a map of an odd length");
  return absl::OkStatus();
}

// An empty value takes the record back: what the header says holds.
absl::Status TarParser::ApplyPax(std::string_view key, std::string_view value, bool* valid) {
  const auto set_text = [&](std::optional<std::string>& out) {
    out = value.empty() ? std::nullopt : std::optional<std::string>(value);
  };
  const auto set_number = [&](auto& out, auto parsed) {
    if (value.empty()) {
      out.reset();
      return;
    }
    out = parsed;
    *valid = *valid && out.has_value();
  };
  Extensions& to = extensions_;
  if (key == "path" || key == "linkpath" || key == "GNU.sparse.name") {
    if (value.find('\0') != std::string_view::npos) {
      return Refuse(value, StrCat("a NUL in the PAX record \"", key, "\"; no file can have it"));
    }
    set_text(key == "path" ? to.path : key == "linkpath" ? to.link : to.sparse_name);
  } else if (key == "size") {
    set_number(to.size, ParseSigned(value));
  } else if (key == "uid") {
    set_number(to.uid, ParseSigned(value));
  } else if (key == "gid") {
    set_number(to.gid, ParseSigned(value));
  } else if (key == "mtime") {
    set_number(to.mtime, ParsePaxTime(value));
  } else if (key == "GNU.sparse.major") {
    set_text(to.sparse_major);
  } else if (key == "GNU.sparse.minor") {
    set_text(to.sparse_minor);
  } else if (key == "GNU.sparse.map") {
    set_text(to.sparse_map);
  } else if (key == "GNU.sparse.size" || key == "GNU.sparse.realsize") {
    set_number(to.sparse_size, ParseDecimal(value));
  } else if (key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes") {
    const std::optional<uint64_t> number = ParseDecimal(value);
    const bool in_order = (to.sparse_pairs.size() % 2 == 0) == key.ends_with("offset");
    *valid = *valid && number.has_value() && in_order;
    if (*valid) to.sparse_pairs.push_back(*number);
  } else if (key.starts_with(kXattrPrefix)) {
    const std::string_view name = key.substr(kXattrPrefix.size());
    if (name.empty() || name.size() > kMaxXattrName || value.size() > kMaxXattrValue) {
      return absl::InvalidArgumentError(
          StrCat("tar: an xattr \"", Printable(name), "\" of ", value.size(),
                 " bytes is more than Linux has room for; remove it and build the image again"));
    }
    std::erase_if(to.xattrs, [&](const Xattr& xattr) { return xattr.name == name; });
    to.xattrs.push_back({std::string(name), std::string(value)});
  }
  return absl::OkStatus();
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

// chown(2) takes -1 as "leave it", which is root, and other negative ids modulo 2^32.
std::optional<uint32_t> OwnerId(int64_t id) {
  if (id == -1 || id == std::numeric_limits<uint32_t>::max()) return 0;
  if (id < std::numeric_limits<int32_t>::min() || id > std::numeric_limits<uint32_t>::max()) {
    return std::nullopt;
  }
  return static_cast<uint32_t>(id);
}

absl::Status TarParser::SetAttributes(const Header& header, TarEntry& entry) {
  const std::string_view prefix = header.prefix();
  entry.path = prefix.empty() ? std::string(header.name()) : StrCat(prefix, "/", header.name());
  entry.link = std::string(header.link());
  if (extensions_.path.has_value()) entry.path = *std::move(extensions_.path);
  if (extensions_.link.has_value()) entry.link = *std::move(extensions_.link);
  if (extensions_.long_name.has_value()) entry.path = *std::move(extensions_.long_name);
  if (extensions_.long_link.has_value()) entry.link = *std::move(extensions_.long_link);

  const std::optional<int64_t> mode = header.mode(), mtime = header.mtime();
  const std::optional<int64_t> uid = extensions_.uid.has_value() ? extensions_.uid : header.uid();
  const std::optional<int64_t> gid = extensions_.gid.has_value() ? extensions_.gid : header.gid();
  if (!mode || !uid || !gid || (!mtime && !extensions_.mtime)) {
    return CorruptHere("a header with a malformed number");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t type, FileType(header, entry));
  entry.mode = type | (static_cast<uint32_t>(*mode) & 07777);
  const std::optional<uint32_t> owner = OwnerId(*uid), group = OwnerId(*gid);
  if (!owner || !group) {
    return Refuse(entry.path, StrCat("owner ", *uid, ":", *gid, " does not fit into 32 bits"));
  }
  entry.uid = *owner;
  entry.gid = *group;
  if (extensions_.mtime.has_value()) {
    entry.mtime_seconds = extensions_.mtime->seconds;
    entry.mtime_nanoseconds = extensions_.mtime->nanoseconds;
  } else {
    entry.mtime_seconds = *mtime;
  }
  if (type == S_IFCHR || type == S_IFBLK) {
    const std::optional<int64_t> major = header.major(), minor = header.minor();
    if (!major || !minor || *major < 0 || *minor < 0 || *major >= 1 << 12 || *minor >= 1 << 20) {
      return Refuse(entry.path, "device numbers that Linux does not have");
    }
    entry.rdev_major = static_cast<uint32_t>(*major);
    entry.rdev_minor = static_cast<uint32_t>(*minor);
  }
  entry.hard_link = header.type() == '1';
  entry.xattrs = std::move(extensions_.xattrs);
  return absl::OkStatus();
}

absl::Status TarParser::HandleEntry(const Header& header) {
  TarEntry entry;
  IMAGEFS_RETURN_IF_ERROR(SetAttributes(header, entry));
  const std::optional<int64_t> size =
      extensions_.size.has_value() ? extensions_.size : header.size();
  if (!size.has_value() || *size < 0) return CorruptHere("a header with a malformed size");
  if (S_ISREG(entry.mode) && !entry.hard_link) {
    return HandleFile(header, entry, static_cast<uint64_t>(*size));
  }
  if (!entry.hard_link && !S_ISLNK(entry.mode)) entry.link.clear();
  IMAGEFS_RETURN_IF_ERROR(entry_(entry));
  return SkipUnexpectedData(static_cast<uint64_t>(*size));
}

// Only files have data, and yet some archives give a size to links and directories: most without
// any data (the size of the link's target file), some with. What follows tells which.
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

absl::Status TarParser::HandleFile(const Header& header, TarEntry& entry, uint64_t size) {
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

// The data itself must be there; the padding of the last file may be missing.
absl::Status TarParser::SkipData(uint64_t size) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t skipped, reader_.Skip(size));
  if (skipped < size) {
    return CorruptHere("the archive is truncated in the data of the entry whose header lies");
  }
  return reader_.Skip((kBlock - size % kBlock) % kBlock).status();
}

// Absent for a file that is not sparse. `stored` becomes the bytes of data behind the map.
absl::StatusOr<std::optional<std::vector<Segment>>> TarParser::SparseMap(const Header& header,
                                                                         TarEntry& entry,
                                                                         uint64_t& stored) {
  if (header.type() == 'S') return OldGnuMap(header, entry);
  Extensions& from = extensions_;
  const std::string major = from.sparse_major.value_or(""), minor = from.sparse_minor.value_or("");
  const bool is_1_0 = major == "1" && minor == "0";
  const bool has_map = from.sparse_map.has_value() || !from.sparse_pairs.empty();
  if (!is_1_0 && !(major == "0" && (minor == "0" || minor == "1")) &&
      !(major.empty() && minor.empty() && has_map)) {
    return std::nullopt;
  }
  if (from.sparse_name.has_value()) entry.path = *std::move(from.sparse_name);
  if (from.sparse_size.has_value()) entry.size = *from.sparse_size;
  if (is_1_0) return EmbeddedMap(stored);
  std::vector<uint64_t> numbers = std::move(from.sparse_pairs);
  if (from.sparse_map.has_value()) {
    numbers.clear();
    for (std::string_view text : Split(*from.sparse_map, ',')) {
      const std::optional<uint64_t> number = ParseDecimal(text);
      if (!number.has_value()) return CorruptHere("a malformed map of a sparse file");
      numbers.push_back(*number);
    }
  }
  if (numbers.size() % 2 != 0) return CorruptHere("a malformed map of a sparse file");
  std::vector<Segment> segments;
  for (size_t i = 0; i < numbers.size(); i += 2) segments.push_back({numbers[i], numbers[i + 1]});
  return segments;
}

// Four segments in the header, then blocks of 21 while a flag says so.
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

// Version 1.0: the data begins with the map, decimal numbers in lines: how many, then the pairs.
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
    const std::optional<uint64_t> number =
        ParseDecimal(std::string_view(text).substr(at, end - at));
    at = end + 1;
    if (!number.has_value()) return CorruptHere("a malformed map of a sparse file");
    return *number;
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

// The stored bytes are those of the segments, one after the other.
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
  return TarParser(source, entry).Run();
}

}  // namespace imagefs
