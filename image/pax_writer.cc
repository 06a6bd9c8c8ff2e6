// SPDX-License-Identifier: Apache-2.0
#include "image/pax_writer.h"

#include <sys/stat.h>

#include <cstring>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// A header block of ustar: offsets and widths of its fields.
struct Field {
  size_t at, width;
};
constexpr Field kName = {0, 100}, kMode = {100, 8}, kUid = {108, 8}, kGid = {116, 8},
                kSize = {124, 12}, kMtime = {136, 12}, kChecksum = {148, 8}, kLink = {157, 100},
                kMajor = {329, 8}, kMinor = {337, 8};
constexpr size_t kTypeAt = 156, kMagicAt = 257;
constexpr char kMagic[] =
    "ustar\0"
    "00";  // two zeros: the version

constexpr char kRecordsName[] = "././@PaxHeader";

// Returns false if the number does not fit into the field's octal digits.
bool SetNumber(std::string& block, Field field, uint64_t value) {
  const size_t digits = field.width - 1;
  if (digits * 3 < 64 && value >> (digits * 3) != 0) return false;
  for (size_t i = digits; i-- > 0; value >>= 3) {
    block[field.at + i] = static_cast<char>('0' + (value & 7));
  }
  return true;
}

bool SetText(std::string& block, Field field, std::string_view text) {
  if (text.size() > field.width) return false;
  std::memcpy(block.data() + field.at, text.data(), text.size());
  return true;
}

void SetChecksum(std::string& block) {
  std::memset(block.data() + kChecksum.at, ' ', kChecksum.width);
  uint64_t sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  Field digits = kChecksum;
  digits.width = 7;  // six digits, a NUL, a blank
  SetNumber(block, digits, sum);
  block[kChecksum.at + 6] = '\0';
}

std::string EmptyBlock(char type) {
  std::string block(kTarBlockBytes, '\0');
  block[kTypeAt] = type;
  std::memcpy(block.data() + kMagicAt, kMagic, 8);
  for (const Field field : {kMode, kUid, kGid, kSize, kMtime, kMajor, kMinor}) {
    SetNumber(block, field, 0);
  }
  return block;
}

// "LENGTH KEY=VALUE\n", where LENGTH counts all of it.
void AppendRecord(std::string& out, std::string_view key, std::string_view value) {
  const size_t rest = key.size() + value.size() + 3;
  size_t length = rest + 1;
  while (StrCat(length).size() + rest != length) length = StrCat(length).size() + rest;
  StrAppend(&out, length, " ", key, "=", value, "\n");
}

// The reverse of image/pax_records.h's ParsePaxTime.
std::string PaxTimeText(int64_t seconds, uint32_t nanoseconds) {
  if (nanoseconds == 0) return StrCat(seconds);
  const bool negative = seconds < 0;
  if (negative) {
    ++seconds;
    nanoseconds = 1'000'000'000 - nanoseconds;
  }
  std::string fraction = StrCat(nanoseconds);
  fraction.insert(0, 9 - fraction.size(), '0');
  fraction.erase(fraction.find_last_not_of('0') + 1);
  const uint64_t whole =
      negative ? uint64_t{0} - static_cast<uint64_t>(seconds) : static_cast<uint64_t>(seconds);
  return StrCat(negative ? "-" : "", whole, ".", fraction);
}

std::optional<char> TypeOf(const PaxEntry& entry) {
  if (!entry.hard_link_to.empty()) return '1';
  switch (entry.mode & S_IFMT) {
    case S_IFREG:
      return '0';
    case S_IFLNK:
      return '2';
    case S_IFCHR:
      return '3';
    case S_IFBLK:
      return '4';
    case S_IFDIR:
      return '5';
    case S_IFIFO:
      return '6';
    default:
      return std::nullopt;
  }
}

std::string SparseMap(const PaxEntry& entry) {
  // A file that ends with a hole has an empty range at its end, as GNU tar writes it.
  const bool hole_at_end = entry.data.empty() || entry.data.back().end < entry.size;
  std::string map = StrCat(entry.data.size() + (hole_at_end ? 1 : 0), "\n");
  for (const ByteRange& range : entry.data) StrAppend(&map, range.begin, "\n", range.size(), "\n");
  if (hole_at_end) StrAppend(&map, entry.size, "\n0\n");
  return map + PaxPadding(map.size());
}

// The header of one entry: its block, and the records of what does not fit into it.
class Header {
 public:
  Header(const PaxEntry& entry, char type) : block_(EmptyBlock(type)) {
    std::string path = entry.path.empty() ? "./" : entry.path;
    if (type == '5' && path.back() != '/') path += '/';
    const std::string& link = type == '1' ? entry.hard_link_to : entry.target;
    if (!IsUtf8(path) || !IsUtf8(link)) AppendRecord(records_, "hdrcharset", "BINARY");
    Text(kName, "path", path);
    if (type == '1' || type == '2') Text(kLink, "linkpath", link);
    SetNumber(block_, kMode, entry.mode & 07777);
    Number(kUid, "uid", entry.uid);
    Number(kGid, "gid", entry.gid);
    Time(entry);
    if (type == '3' || type == '4') {
      Number(kMajor, "SCHILY.devmajor", entry.rdev_major);
      Number(kMinor, "SCHILY.devminor", entry.rdev_minor);
    }
    if (type == '1') return;  // a second name has the attributes of the first
    for (const Xattr& xattr : entry.xattrs) {
      AppendRecord(records_, StrCat("SCHILY.xattr.", xattr.name), xattr.value);
    }
    if (type != '0') return;
    if (entry.sparse) {
      AppendRecord(records_, "GNU.sparse.major", "1");
      AppendRecord(records_, "GNU.sparse.minor", "0");
      AppendRecord(records_, "GNU.sparse.name", path);
      AppendRecord(records_, "GNU.sparse.realsize", StrCat(entry.size));
      map_ = SparseMap(entry);
    }
    Number(kSize, "size", PaxDataBytes(entry) + map_.size());
  }

  std::string Take() {
    std::string out;
    if (!records_.empty()) {
      std::string records = EmptyBlock('x');
      SetText(records, kName, kRecordsName);
      SetNumber(records, kMode, 0644);
      SetNumber(records, kSize, records_.size());
      SetChecksum(records);
      out = records + records_ + PaxPadding(records_.size());
    }
    SetChecksum(block_);
    return out + block_ + map_;
  }

 private:
  void Text(Field field, std::string_view key, std::string_view text) {
    if (SetText(block_, field, text)) return;
    AppendRecord(records_, key, text);
    // For readers that do not know the record.
    SetText(block_, field, text.substr(0, field.width));
  }
  void Number(Field field, std::string_view key, uint64_t value) {
    if (!SetNumber(block_, field, value)) AppendRecord(records_, key, StrCat(value));
  }
  void Time(const PaxEntry& entry) {
    const bool fits = entry.mtime_seconds >= 0 && entry.mtime_nanoseconds == 0;
    if (entry.mtime_seconds >= 0) {
      const bool set = SetNumber(block_, kMtime, static_cast<uint64_t>(entry.mtime_seconds));
      if (fits && set) return;
    }
    AppendRecord(records_, "mtime", PaxTimeText(entry.mtime_seconds, entry.mtime_nanoseconds));
  }

  std::string block_, records_, map_;
};

}  // namespace

absl::StatusOr<std::string> PaxHeader(const PaxEntry& entry) {
  const std::optional<char> type = TypeOf(entry);
  if (!type.has_value()) {
    return absl::UnimplementedError(
        StrCat("/", PrintableName(entry.path), ": a tar has no place for a file of this type"));
  }
  for (const Xattr& xattr : entry.xattrs) {
    if (xattr.name.find_first_of(std::string_view("=\0", 2)) == std::string::npos) continue;
    return absl::UnimplementedError(StrCat("/", PrintableName(entry.path),
                                           ": a tar has no place for the extended attribute ",
                                           PrintableName(xattr.name)));
  }
  return Header(entry, *type).Take();
}

uint64_t PaxDataBytes(const PaxEntry& entry) {
  if (!S_ISREG(entry.mode) || !entry.hard_link_to.empty()) return 0;
  if (!entry.sparse) return entry.size;
  uint64_t bytes = 0;
  for (const ByteRange& range : entry.data) bytes += range.size();
  return bytes;
}

std::string PaxPadding(uint64_t size) {
  return std::string((kTarBlockBytes - size % kTarBlockBytes) % kTarBlockBytes, '\0');
}

std::string PaxEnd() { return std::string(2 * kTarBlockBytes, '\0'); }

}  // namespace imagefs
