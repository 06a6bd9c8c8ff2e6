// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/image/toc_writer.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "absl/time/time.h"
#include "base/json.h"
#include "base/text.h"
#include "tests/fakes/image/tar_writer.h"

namespace imagefs {
namespace {

constexpr size_t kBlock = 512;

std::string LittleEndian32(size_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i, value >>= 8) out.push_back(static_cast<char>(value));
  return out;
}

std::string Skippable(std::string_view data) {
  return StrCat(std::string_view("\x50\x2a\x4d\x18"), LittleEndian32(data.size()), data);
}

char TarType(std::string_view type) {
  constexpr std::pair<std::string_view, char> kTypes[] = {
      {"reg", '0'},   {"hardlink", '1'}, {"symlink", '2'}, {"char", '3'},
      {"block", '4'}, {"dir", '5'},      {"fifo", '6'}};
  for (const auto& [name, letter] : kTypes) {
    if (name == type) return letter;
  }
  return '0';
}

std::string Headers(const TocWriter::Entry& entry) {
  TarWriter tar;
  TarWriter::Records records;
  for (const Xattr& xattr : entry.xattrs) {
    records.emplace_back(StrCat("SCHILY.xattr.", xattr.name), xattr.value);
  }
  if (!records.empty()) tar.Pax(records);
  tar.Add({.name = entry.name,
           .type = TarType(entry.type),
           .mode = entry.mode,
           .uid = entry.uid,
           .gid = entry.gid,
           .size = static_cast<int64_t>(entry.data.size()),
           .mtime = entry.mtime,
           .link = entry.link,
           .major = entry.major,
           .minor = entry.minor});
  return tar.bytes();
}

}  // namespace

std::string GzipMember(std::string_view data, std::string_view extra) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
  gz_header header = {};
  header.os = 255;
  std::string extra_bytes(extra);
  header.extra = reinterpret_cast<Bytef*>(extra_bytes.data());
  header.extra_len = static_cast<uInt>(extra.size());
  if (extra.empty()) header.extra = nullptr;
  deflateSetHeader(&stream, &header);
  std::string out(deflateBound(&stream, data.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string ZstdFrame(std::string_view data) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 3);
  EXPECT_FALSE(ZSTD_isError(size));
  out.resize(size);
  return out;
}

std::string EstargzFooter(uint64_t toc_offset, bool legacy) {
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(toc_offset));
  std::string out("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff", 10);
  out += legacy ? std::string("\x16\x00", 2) : std::string("\x1a\x00SG\x16\x00", 6);
  StrAppend(&out, digits, "STARGZ");
  out += std::string("\x01\x00\x00\xff\xff", 5) + std::string(8, '\0');
  return out;
}

struct TocWriter::Chunk {
  uint64_t file_offset = 0, size = 0;
  uint64_t offset = 0, inner = 0;
  Digest digest;
  bool zeros = false;
};

void TocWriter::EndMember() {
  if (!member_.empty()) {
    bytes_ += options_.kind == TocKind::kEstargz ? GzipMember(member_) : ZstdFrame(member_);
  }
  member_.clear();
  in_member_ = 0;
  member_begin_ = bytes_.size();
}

void TocWriter::AddData(const Entry& entry, std::vector<Chunk>& chunks) {
  for (size_t at = 0; at < entry.data.size(); at += options_.chunk_size) {
    const std::string_view data = std::string_view(entry.data).substr(at, options_.chunk_size);
    if (in_member_ == 0 || in_member_ == options_.chunks_a_member) EndMember();
    ++in_member_;
    chunks.push_back({at, data.size(), member_begin_, member_.size(), Sha256Of(data),
                      data.find_first_not_of('\0') == std::string_view::npos});
    member_ += data;
  }
}

void TocWriter::AddJson(const Entry& entry, const std::vector<Chunk>& chunks, uint64_t end) {
  const bool zstd = options_.kind == TocKind::kZstdChunked;
  for (size_t i = 0; i < std::max<size_t>(1, chunks.size()); ++i) {
    JsonWriter json;
    json.BeginObject().Member("type", i == 0 ? entry.type : "chunk").Member("name", entry.name);
    if (i == 0) {
      json.Member("mode", int64_t{entry.mode}).Member("uid", int64_t{entry.uid});
      json.Member("gid", int64_t{entry.gid}).Member("linkName", entry.link);
      json.Member("size", uint64_t{entry.data.size()});
      json.Member("modtime",
                  absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(entry.mtime),
                                   absl::UTCTimeZone()));
      json.Member("devMajor", int64_t{entry.major}).Member("devMinor", int64_t{entry.minor});
      if (options_.digests && !chunks.empty()) {
        json.Member("digest", Sha256Of(entry.data).ToString());
      }
      if (!entry.xattrs.empty()) {
        json.Key("xattrs").BeginObject();
        for (const Xattr& xattr : entry.xattrs) {
          json.Member(xattr.name, absl::Base64Escape(xattr.value));
        }
        json.EndObject();
      }
    }
    if (!chunks.empty()) {
      const Chunk& chunk = chunks[i];
      json.Member("offset", chunk.offset);
      if (chunk.inner != 0) json.Member("innerOffset", chunk.inner);
      if (zstd && options_.end_offsets && i == 0) json.Member("endOffset", end);
      if (chunks.size() > 1) {
        // eStargz omits the size of the last chunk.
        if (zstd || i + 1 < chunks.size()) json.Member("chunkSize", chunk.size);
        json.Member("chunkOffset", chunk.file_offset);
        if (zstd && chunk.zeros) json.Member("chunkType", "zeros");
      }
      if (options_.digests && (!zstd || chunks.size() > 1)) {
        json.Member("chunkDigest", chunk.digest.ToString());
      }
    }
    json.EndObject();
    StrAppend(&entries_, entries_.empty() ? "" : ",", json.Take());
  }
}

void TocWriter::Add(const Entry& entry) {
  const std::string headers = Headers(entry);
  const std::string padding((kBlock - entry.data.size() % kBlock) % kBlock, '\0');
  std::vector<Chunk> chunks;
  member_ += headers;
  AddData(entry, chunks);
  // zstd:chunked ends the frame after the data, eStargz continues with the next header.
  if (options_.kind == TocKind::kZstdChunked && !chunks.empty()) EndMember();
  AddJson(entry, chunks, bytes_.size());
  member_ += padding;
  StrAppend(&tar_, headers, entry.data, padding);
}

TocWriter::Blob TocWriter::Finish() {
  Blob blob;
  blob.json = StrCat("{\"version\":1,\"entries\":[", entries_, "]}");
  auto& annotations = blob.descriptor.annotations;
  if (options_.kind == TocKind::kEstargz) {
    EndMember();
    const uint64_t toc_offset = bytes_.size();
    const std::string table = TarWriter().File("stargz.index.json", blob.json).End().bytes();
    bytes_ += GzipMember(table);
    blob.tar = tar_ + table;
    bytes_ += EstargzFooter(toc_offset);
    annotations["containerd.io/snapshot/stargz/toc.digest"] = Sha256Of(blob.json).ToString();
    blob.descriptor.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
  } else {
    member_ += std::string(2 * kBlock, '\0');
    blob.tar = tar_ + std::string(2 * kBlock, '\0');
    EndMember();
    const std::string manifest = ZstdFrame(blob.json);
    const std::string prefix = "io.github.containers.zstd-chunked.";
    annotations[prefix + "manifest-checksum"] = Sha256Of(manifest).ToString();
    annotations[prefix + "manifest-position"] =
        StrCat(bytes_.size() + 8, ":", manifest.size(), ":", blob.json.size(), ":1");
    bytes_ += Skippable(manifest) + Skippable("tar-split") + Skippable(std::string(64, 'f'));
    blob.descriptor.media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
  }
  blob.bytes = bytes_;
  blob.descriptor.digest = Sha256Of(blob.bytes);
  blob.descriptor.size = blob.bytes.size();
  return blob;
}

}  // namespace imagefs
