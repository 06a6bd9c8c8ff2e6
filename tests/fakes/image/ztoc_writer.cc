// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/image/ztoc_writer.h"

#include <flatbuffers/flatbuffers.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>

#include "absl/time/time.h"
#include "base/digest.h"
#include "base/text.h"
#include "generated/ztoc_generated.h"
#include "image/tar.h"

namespace imagefs {
namespace {

constexpr size_t kWindow = 32 << 10;

std::string LittleEndian(int64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

std::string TypeName(const TarEntry& entry) {
  if (entry.hard_link) return "hardlink";
  switch (entry.mode & S_IFMT) {
    case S_IFDIR:
      return "dir";
    case S_IFLNK:
      return "symlink";
    case S_IFCHR:
      return "char";
    case S_IFBLK:
      return "block";
    case S_IFIFO:
      return "fifo";
    default:
      return "reg";
  }
}

void AddFiles(std::string_view tar, ZtocContent& out) {
  bool given = false;
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    return std::exchange(given, true) ? std::string_view() : tar;
  };
  const auto status = ReadTar(source, [&](TarEntry& entry) {
    ZtocContent::File file;
    file.name = entry.path;
    file.type = TypeName(entry);
    file.link = entry.link;
    const absl::Time time =
        absl::FromUnixSeconds(entry.mtime_seconds) + absl::Nanoseconds(entry.mtime_nanoseconds);
    file.mtime = absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", time, absl::UTCTimeZone());
    file.size = static_cast<int64_t>(entry.size);
    if (!entry.extents.empty()) file.offset = static_cast<int64_t>(entry.extents[0].data_offset);
    file.mode = entry.mode & 07777;
    file.uid = entry.uid;
    file.gid = entry.gid;
    file.major = entry.rdev_major;
    file.minor = entry.rdev_minor;
    for (const Xattr& xattr : entry.xattrs) {
      file.records.emplace_back(StrCat("SCHILY.xattr.", xattr.name), xattr.value);
    }
    out.files.push_back(std::move(file));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// zlib stops at every end of a deflate block and reports the number of unused bits in the last
// byte.
void AddPoints(std::string_view tar, std::string_view blob, ZtocContent& out) {
  z_stream stream = {};
  EXPECT_EQ(inflateInit2(&stream, 47), Z_OK);
  std::string bytes(tar.size() + 1, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(blob.data()));
  stream.avail_in = static_cast<uInt>(blob.size());
  stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_out = static_cast<uInt>(bytes.size());
  int64_t last = 0;
  while (true) {
    const int result = inflate(&stream, Z_BLOCK);
    const auto done = static_cast<int64_t>(bytes.size() - stream.avail_out);
    if (result == Z_STREAM_END) {
      if (stream.avail_in == 0) break;
      inflateReset2(&stream, 47);
      continue;
    }
    if (result != Z_OK) {
      ADD_FAILURE() << "zlib says " << result;
      break;
    }
    const bool between = (stream.data_type & 128) != 0 && (stream.data_type & 64) == 0;
    if (!between || (!out.points.empty() && done - last <= out.span_size)) continue;
    ZtocContent::Point point;
    point.blob = static_cast<int64_t>(blob.size() - stream.avail_in);
    point.tar = done;
    point.bits = static_cast<uint8_t>(stream.data_type & 7);
    const auto known = std::min<size_t>(kWindow, static_cast<size_t>(done));
    point.window =
        std::string(kWindow - known, '\0') + bytes.substr(static_cast<size_t>(done) - known, known);
    out.points.push_back(std::move(point));
    last = done;
  }
  inflateEnd(&stream);
}

}  // namespace

std::string ZtocContent::PackedPoints(bool version1) const {
  if (compression == 2) {
    flatbuffers::FlatBufferBuilder builder;
    builder.Finish(zfb::CreateTarSpans(builder, 2, span_size, blob_size));
    return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
  }
  std::string out = LittleEndian(static_cast<int64_t>(points.size()), 4);
  out += LittleEndian(span_size, 8);
  for (const Point& point : points) {
    if (version1 && &point == points.data()) continue;
    out += LittleEndian(point.blob, 8) + LittleEndian(point.tar, 8);
    out.push_back(static_cast<char>(point.bits));
    out += point.window;
  }
  return out;
}

std::string ZtocContent::Write(bool version1) const {
  return WriteWithPoints(PackedPoints(version1));
}

std::string ZtocContent::WriteWithPoints(const std::string& packed) const {
  flatbuffers::FlatBufferBuilder builder;
  const auto text = [&](const std::string& value) {
    return share_texts ? builder.CreateSharedString(value) : builder.CreateString(value);
  };
  std::vector<flatbuffers::Offset<zfb::File>> entries;
  for (const File& file : files) {
    std::vector<flatbuffers::Offset<zfb::PaxRecord>> records;
    for (const auto& [key, value] : file.records) {
      records.push_back(zfb::CreatePaxRecord(builder, text(key), text(value)));
    }
    const auto name = text(file.name), type = text(file.type);
    const auto link = text(file.link), mtime = text(file.mtime);
    const auto user = text(""), group = text("");
    const auto list = builder.CreateVector(records);
    entries.push_back(zfb::CreateFile(builder, name, type, file.offset, file.size, link, file.mode,
                                      file.uid, file.gid, user, group, mtime, file.major,
                                      file.minor, list));
  }
  const auto toc = zfb::CreateToc(builder, builder.CreateVector(entries));
  const auto texts = builder.CreateVectorOfStrings(digests);
  const auto bytes =
      builder.CreateVector(reinterpret_cast<const uint8_t*>(packed.data()), packed.size());
  const auto spans =
      zfb::CreateSpans(builder, static_cast<zfb::Compression>(compression), last, texts, bytes);
  const auto version = builder.CreateString("0.9"), tool = builder.CreateString("a test");
  builder.Finish(zfb::CreateZtoc(builder, version, tool, blob_size, tar_size, toc, spans));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

ZtocContent ZtocOf(std::string_view tar, std::string_view blob, int64_t span_size) {
  ZtocContent out;
  out.blob_size = static_cast<int64_t>(blob.size());
  out.tar_size = static_cast<int64_t>(tar.size());
  out.span_size = span_size;
  AddFiles(tar, out);
  std::vector<std::pair<int64_t, int64_t>> ranges;  // ranges of the blob
  if (blob == tar) {
    out.compression = 2;
    for (int64_t at = 0; at < out.blob_size; at += span_size) {
      ranges.emplace_back(at, std::min(at + span_size, out.blob_size));
    }
  } else {
    AddPoints(tar, blob, out);
    for (size_t i = 0; i < out.points.size(); ++i) {
      const ZtocContent::Point& point = out.points[i];
      ranges.emplace_back(point.blob - (point.bits > 0 ? 1 : 0),
                          i + 1 == out.points.size() ? out.blob_size : out.points[i + 1].blob);
    }
  }
  for (const auto& [begin, end] : ranges) {
    out.digests.push_back(
        Sha256Of(blob.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)))
            .ToString());
  }
  out.last = static_cast<int32_t>(ranges.size()) - 1;
  return out;
}

}  // namespace imagefs
