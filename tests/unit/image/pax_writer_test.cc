// SPDX-License-Identifier: Apache-2.0
#include "image/pax_writer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include "image/tar.h"

namespace imagefs {
namespace {

// Reads an archive back with the project's own parser, which follows Go's.
std::vector<TarEntry> ReadBack(std::string_view tar) {
  std::vector<TarEntry> entries;
  bool given = false;
  const absl::Status status = ReadTar(
      [&]() -> absl::StatusOr<std::string_view> {
        return std::exchange(given, true) ? std::string_view() : tar;
      },
      [&](TarEntry& entry) {
        entries.push_back(entry);
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  return entries;
}

std::string Archive(const PaxEntry& entry, const std::string& data = "") {
  const absl::StatusOr<std::string> header = PaxHeader(entry);
  EXPECT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(data.size(), PaxDataBytes(entry));
  return *header + data + PaxPadding(data.size()) + PaxEnd();
}

TarEntry RoundTrip(const PaxEntry& entry, const std::string& data = "") {
  const std::vector<TarEntry> entries = ReadBack(Archive(entry, data));
  EXPECT_EQ(entries.size(), 1u);
  return entries.empty() ? TarEntry() : entries[0];
}

PaxEntry File(std::string path, uint64_t size = 0) {
  PaxEntry entry;
  entry.path = std::move(path);
  entry.mode = S_IFREG | 0644;
  entry.size = size;
  return entry;
}

TEST(PaxWriterTest, APlainFileIsOneBlock) {
  PaxEntry entry = File("etc/hosts", 3);
  entry.uid = 7;
  entry.gid = 8;
  entry.mtime_seconds = 1'700'000'000;
  entry.mode = S_IFREG | 04755;
  EXPECT_EQ(PaxHeader(entry)->size(), kTarBlockBytes);
  const TarEntry read = RoundTrip(entry, "abc");
  EXPECT_EQ(read.path, "etc/hosts");
  EXPECT_EQ(read.mode, entry.mode);
  EXPECT_EQ(read.uid, 7u);
  EXPECT_EQ(read.gid, 8u);
  EXPECT_EQ(read.mtime_seconds, entry.mtime_seconds);
  ASSERT_EQ(read.extents.size(), 1u);
  EXPECT_EQ(read.extents[0].data_offset, kTarBlockBytes);
}

TEST(PaxWriterTest, TypesOfFiles) {
  PaxEntry entry;
  entry.mode = S_IFDIR | 01777;
  EXPECT_EQ(RoundTrip(entry).path, "./");
  entry.path = "tmp";
  EXPECT_EQ(RoundTrip(entry).path, "tmp/");
  EXPECT_EQ(RoundTrip(entry).mode, entry.mode);
  for (const uint32_t type : {S_IFCHR, S_IFBLK}) {
    entry.mode = type | 0600;
    entry.rdev_major = 4095;
    entry.rdev_minor = (1 << 20) - 1;
    const TarEntry read = RoundTrip(entry);
    EXPECT_EQ(read.mode, entry.mode);
    EXPECT_EQ(read.rdev_major, entry.rdev_major);
    EXPECT_EQ(read.rdev_minor, entry.rdev_minor);
  }
  entry.mode = S_IFIFO | 0644;
  EXPECT_EQ(RoundTrip(entry).mode, entry.mode);
  entry.mode = S_IFLNK | 0777;
  entry.target = "../there";
  EXPECT_EQ(RoundTrip(entry).link, "../there");
  EXPECT_FALSE(RoundTrip(entry).hard_link);
  PaxEntry link = File("b", 100);
  link.hard_link_to = "a";
  EXPECT_EQ(PaxDataBytes(link), 0u);
  EXPECT_TRUE(RoundTrip(link).hard_link);
  EXPECT_EQ(RoundTrip(link).link, "a");
  entry.mode = S_IFSOCK;
  EXPECT_EQ(PaxHeader(entry).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(PaxWriterTest, WhatUstarCannotHold) {
  PaxEntry entry = File(std::string(300, 'p'), uint64_t{1} << 40);
  entry.uid = entry.gid = 4'000'000'000;
  PaxEntry small = entry;
  small.size = 0;
  const TarEntry back = RoundTrip(small);
  EXPECT_EQ(back.path, entry.path);
  EXPECT_EQ(back.uid, 4'000'000'000u);
  EXPECT_EQ(back.gid, 4'000'000'000u);
  EXPECT_NE(PaxHeader(entry)->find("22 size=1099511627776\n"), std::string::npos);
  PaxEntry hundred = File(std::string(100, 'n'));
  EXPECT_EQ(PaxHeader(hundred)->size(), kTarBlockBytes);
  EXPECT_EQ(RoundTrip(hundred).path, hundred.path);
  PaxEntry link;
  link.path = "l";
  link.mode = S_IFLNK;
  link.target = std::string(4000, 't');
  EXPECT_EQ(RoundTrip(link).link, link.target);
}

TEST(PaxWriterTest, TimesToTheNanosecond) {
  struct Case {
    int64_t seconds;
    uint32_t nanoseconds;
  };
  for (const Case time : {Case{0, 1}, Case{1'700'000'000, 999'999'999}, Case{-1, 0}, Case{-1, 500},
                          Case{-2, 500'000'000}, Case{int64_t{1} << 40, 0}, Case{5, 100'000'000}}) {
    PaxEntry entry = File("f");
    entry.mtime_seconds = time.seconds;
    entry.mtime_nanoseconds = time.nanoseconds;
    const TarEntry read = RoundTrip(entry);
    EXPECT_EQ(read.mtime_seconds, time.seconds);
    EXPECT_EQ(read.mtime_nanoseconds, time.nanoseconds);
  }
}

TEST(PaxWriterTest, AttributesAreBinary) {
  PaxEntry entry = File("f");
  entry.xattrs = {{"security.capability", std::string("\1\0\0\2\n=", 6)}, {"user.empty", ""}};
  EXPECT_EQ(RoundTrip(entry).xattrs, entry.xattrs);
  entry.xattrs = {{"user.a=b", "c"}};
  EXPECT_EQ(PaxHeader(entry).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(PaxWriterTest, NamesAreBytes) {
  PaxEntry entry = File("caf\xe9\n");
  EXPECT_EQ(RoundTrip(entry).path, entry.path);
  EXPECT_NE(PaxHeader(entry)->find("hdrcharset=BINARY"), std::string::npos);
  EXPECT_EQ(PaxHeader(File("caf\xc3\xa9"))->find("hdrcharset"), std::string::npos);
}

TEST(PaxWriterTest, LengthsOfRecordsCountThemselves) {
  // Around the lengths at which the number gets another digit.
  for (size_t size = 80; size < 1100; ++size) {
    PaxEntry entry = File("f");
    entry.xattrs = {{"user.a", std::string(size, 'v')}};
    if (size > 120 && size < 960) continue;
    ASSERT_EQ(RoundTrip(entry).xattrs, entry.xattrs) << size;
  }
}

TEST(PaxWriterTest, FilesWithHoles) {
  PaxEntry entry = File("sparse", 1 << 20);
  entry.sparse = true;
  entry.data = {{4096, 8192}, {65'536, 65'536 + 512}};
  const std::string data(4096 + 512, 'd');
  const TarEntry read = RoundTrip(entry, data);
  EXPECT_EQ(read.path, "sparse");
  EXPECT_EQ(read.size, entry.size);
  ASSERT_GE(read.extents.size(), 2u);
  EXPECT_EQ(read.extents[0].file_offset, 4096u);
  EXPECT_EQ(read.extents[0].length, 4096u);
  EXPECT_EQ(read.extents[1].file_offset, 65'536u);
  EXPECT_EQ(read.extents[1].length, 512u);
  entry.data.clear();
  EXPECT_EQ(RoundTrip(entry).size, entry.size);
  entry.size = 8192;
  entry.data = {{4096, 8192}};
  EXPECT_EQ(RoundTrip(entry, std::string(4096, 'd')).size, 8192u);
}

}  // namespace
}  // namespace imagefs
