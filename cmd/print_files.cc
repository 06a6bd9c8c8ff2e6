// SPDX-License-Identifier: Apache-2.0
#include "cmd/print_files.h"

#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/json.h"
#include "base/text.h"
#include "cmd/print.h"
#include "cmd/print_parts.h"

namespace imagefs {
namespace {

using control::v1::FileChange;
using control::v1::FileEntry;

// A path has at most a few thousand bytes; nothing of it is left out.
constexpr size_t kWholePath = 1 << 20;

std::string Shown(const std::string& path, bool escape) {
  return escape ? PrintableName(path, kWholePath) : path;
}

char TypeLetter(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return 'd';
    case S_IFLNK:
      return 'l';
    case S_IFCHR:
      return 'c';
    case S_IFBLK:
      return 'b';
    case S_IFIFO:
      return 'p';
    case S_IFSOCK:
      return 's';
    default:
      return '-';
  }
}

std::string_view TypeName(uint32_t mode) {
  switch (TypeLetter(mode)) {
    case 'd':
      return "directory";
    case 'l':
      return "symlink";
    case 'c':
      return "character device";
    case 'b':
      return "block device";
    case 'p':
      return "fifo";
    case 's':
      return "socket";
    default:
      return "file";
  }
}

// As ls(1) shows it.
std::string ModeText(uint32_t mode) {
  std::string text(10, '-');
  text[0] = TypeLetter(mode);
  constexpr char kLetters[] = "rwxrwxrwx";
  for (size_t i = 0; i < 9; ++i) {
    if (mode >> (8 - i) & 1) text[i + 1] = kLetters[i];
  }
  const auto special = [&](uint32_t bit, size_t at, char with_x, char without) {
    if (mode & bit) text[at] = text[at] == 'x' ? with_x : without;
  };
  special(S_ISUID, 3, 's', 'S');
  special(S_ISGID, 6, 's', 'S');
  special(S_ISVTX, 9, 't', 'T');
  return text;
}

// ISO 8601, UTC, with nanoseconds if there are any.
std::string TimeText(const FileEntry& entry) {
  const time_t seconds = static_cast<time_t>(entry.mtime_seconds());
  tm parts{};
  char text[64];
  // Years beyond those of struct tm.
  if (gmtime_r(&seconds, &parts) == nullptr) return StrCat("@", entry.mtime_seconds());
  const size_t size = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  std::string out(text, size);
  if (entry.mtime_nanoseconds() != 0) {
    const std::string fraction = StrCat(entry.mtime_nanoseconds());
    StrAppend(&out, ".", std::string(9 - std::min<size_t>(9, fraction.size()), '0'), fraction);
  }
  return out + "Z";
}

bool IsDevice(const FileEntry& entry) { return S_ISCHR(entry.mode()) || S_ISBLK(entry.mode()); }

std::string DeviceText(const FileEntry& entry) {
  return StrCat(entry.rdev_major(), ",", entry.rdev_minor());
}

}  // namespace

std::string FileLine(const FileEntry& entry, const FileLineOptions& options) {
  std::string line;
  if (options.long_format) {
    char numbers[64];
    const std::string owner = StrCat(entry.uid(), "/", entry.gid());
    const std::string size = IsDevice(entry) ? DeviceText(entry) : StrCat(entry.size());
    snprintf(numbers, sizeof(numbers), " %-11s %10s ", owner.c_str(), size.c_str());
    StrAppend(&line, ModeText(entry.mode()), numbers, TimeText(entry), " ");
  }
  if (options.layer) {
    const std::string layer = entry.layer().empty() ? "-" : ShortDigest(entry.layer());
    StrAppend(&line, layer, std::string(13 - std::min<size_t>(12, layer.size()), ' '));
  }
  StrAppend(&line, Shown(entry.path(), options.escape));
  if (options.long_format && S_ISLNK(entry.mode())) {
    StrAppend(&line, " -> ", Shown(entry.target(), options.escape));
  }
  line += options.null ? '\0' : '\n';
  return line;
}

std::string ChangeLine(const FileChange& change, bool escape) {
  return StrCat(change.kind(), " ", Shown(change.path(), escape), "\n");
}

std::string FileEntryJson(const FileEntry& entry) {
  char mode[16];
  snprintf(mode, sizeof(mode), "%04o", entry.mode() & 07777U);
  JsonWriter json;
  json.BeginObject()
      .Member("path", entry.path())
      .Member("type", TypeName(entry.mode()))
      .Member("mode", mode)
      .Member("uid", uint64_t{entry.uid()})
      .Member("gid", uint64_t{entry.gid()})
      .Member("size", entry.size())
      .Member("mtime", TimeText(entry))
      .Member("links", uint64_t{entry.links()})
      .Member("device", IsDevice(entry) ? DeviceText(entry) : "")
      .Member("target", entry.target())
      .Member("hard_link_to", entry.hard_link_to())
      .Key("xattrs")
      .BeginArray();
  for (const FileEntry::Xattr& xattr : entry.xattrs()) {
    json.BeginObject()
        .Member("name", xattr.name())
        .Member("value", absl::Base64Escape(xattr.value()))
        .EndObject();
  }
  json.EndArray().Member("layer", entry.layer()).EndObject();
  return json.Take();
}

std::string FileChangeJson(const FileChange& change) {
  JsonWriter json;
  json.BeginObject().Member("kind", change.kind()).Member("path", change.path());
  json.Key("what").BeginArray();
  for (const std::string& what : change.what()) json.String(what);
  json.EndArray().EndObject();
  return json.Take();
}

std::string JsonList::Add(const std::string& element) {
  const bool first = !std::exchange(begun_, true);
  return StrCat(first ? StrCat("{\"", name_, "\":[") : ",", element);
}

std::string JsonList::End(const std::string& members) {
  const bool empty = !std::exchange(begun_, true);
  return StrCat(empty ? StrCat("{\"", name_, "\":[") : "", "]", members, "}\n");
}

std::string JsonList::EndWith(const absl::Status& error) {
  std::string object = ErrorJson(error);
  if (!begun_) return object;
  // "{"error":{...}}\n": its member goes on with the object that was begun.
  return StrCat("],", std::string_view(object).substr(1));
}

}  // namespace imagefs
