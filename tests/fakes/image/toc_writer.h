// SPDX-License-Identifier: Apache-2.0
// Writes layers with an embedded table of contents: eStargz and zstd:chunked blobs like those of
// the original tools. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "image/manifest.h"
#include "image/toc.h"

namespace imagefs {

std::string GzipMember(std::string_view data, std::string_view extra = "");
std::string ZstdFrame(std::string_view data);
// The last bytes of an eStargz blob; `legacy`: in stargz's format.
std::string EstargzFooter(uint64_t toc_offset, bool legacy = false);

class TocWriter {
 public:
  struct Entry {
    std::string name;
    std::string type = "reg";  // as in the table
    std::string data;
    std::string link;
    uint32_t mode = 0644;
    uint32_t uid = 0, gid = 0;
    int64_t mtime = 1'600'000'000;
    uint32_t major = 0, minor = 0;
    std::vector<Xattr> xattrs;
  };
  struct Options {
    TocKind kind = TocKind::kEstargz;
    size_t chunk_size = 4 << 20;
    size_t chunks_a_member = 1;  // eStargz: more than one yields inner offsets
    bool end_offsets = true;     // zstd:chunked: written by the containers tools, not by stargz
    bool digests = true;
  };
  struct Blob {
    std::string bytes;
    std::string json;
    Descriptor descriptor;  // with the annotations that a manifest would have
    std::string tar;        // the whole uncompressed tar, for eStargz including the table
  };

  explicit TocWriter(const Options& options) : options_(options) {}
  void Add(const Entry& entry);
  Blob Finish();

 private:
  struct Chunk;
  void EndMember();
  void AddData(const Entry& entry, std::vector<Chunk>& chunks);
  void AddJson(const Entry& entry, const std::vector<Chunk>& chunks, uint64_t end);

  const Options options_;
  std::string bytes_;     // finished members
  std::string member_;    // contents of the next one, uncompressed
  size_t in_member_ = 0;  // number of chunks
  uint64_t member_begin_ = 0;
  std::string entries_;  // JSON, with commas
  std::string tar_;
};

}  // namespace imagefs
