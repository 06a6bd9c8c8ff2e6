// SPDX-License-Identifier: Apache-2.0
// Writes zTOCs like SOCI's own builder: takes the entries from the tar and the points from the gzip
// stream. The result is a value that tests can modify before writing it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace imagefs {

struct ZtocContent {
  struct File {
    std::string name, type, link, mtime;
    int64_t offset = 0, size = 0, mode = 0, major = 0, minor = 0;
    uint32_t uid = 0, gid = 0;
    std::vector<std::pair<std::string, std::string>> records;
  };
  struct Point {
    int64_t blob = 0, tar = 0;
    uint8_t bits = 0;
    std::string window;  // 32 KiB
  };
  int64_t blob_size = 0, tar_size = 0;
  std::vector<File> files;
  int8_t compression = 1;  // 2: none
  int32_t last = 0;
  std::vector<std::string> digests;
  std::vector<Point> points;  // gzip
  int64_t span_size = 0;
  bool share_texts = false;  // share equal texts, which the builder does not do

  // Version 1 omits the first point.
  std::string PackedPoints(bool version1 = false) const;
  std::string Write(bool version1 = false) const;
  // With arbitrary bytes as the points.
  std::string WriteWithPoints(const std::string& points) const;
};

// `blob`: the tar, or one or more gzip members that contain it.
ZtocContent ZtocOf(std::string_view tar, std::string_view blob, int64_t span_size);

}  // namespace imagefs
