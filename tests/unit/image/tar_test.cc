// SPDX-License-Identifier: Apache-2.0
#include "image/tar.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "tests/fakes/image/tar_writer.h"

namespace imagefs {
namespace {

constexpr size_t kWhole = 1 << 20;

struct Parsed {
  absl::Status status;
  std::vector<TarEntry> entries;
  size_t delivered = 0;  // bytes that the source delivered
};

// Reads the same by a scan, which is given what it asks for and `more` bytes, each time in another
// buffer.
Parsed Scan(const std::string& bytes, size_t more) {
  Parsed parsed;
  TarScan scan(bytes.size());
  std::string part;
  uint64_t begin = 0, asked = 0;
  while (true) {
    const uint64_t at = scan.position();
    const auto needed = scan.Continue(begin, std::exchange(part, ""), [&](TarEntry& entry) {
      parsed.entries.push_back(std::move(entry));
      return absl::OkStatus();
    });
    parsed.status = needed.status();
    if (!needed.ok() || !needed->has_value()) return parsed;
    EXPECT_TRUE(scan.position() > at || **needed > asked) << "it goes on";
    EXPECT_GT(**needed, scan.position());
    EXPECT_LE(**needed, bytes.size());
    if (::testing::Test::HasFailure()) return parsed;
    begin = scan.position();
    asked = **needed;
    part = bytes.substr(begin, asked + more - begin);
    parsed.delivered += part.size();
  }
}

void ExpectSame(const Parsed& scanned, const Parsed& read) {
  EXPECT_EQ(scanned.status, read.status);
  ASSERT_EQ(scanned.entries.size(), read.entries.size());
  for (size_t i = 0; i < read.entries.size(); ++i) {
    const TarEntry &a = scanned.entries[i], &b = read.entries[i];
    EXPECT_EQ(a.path, b.path);
    EXPECT_EQ(a.link, b.link);
    EXPECT_EQ(a.mode, b.mode);
    EXPECT_EQ(a.size, b.size);
    EXPECT_EQ(a.hard_link, b.hard_link);
    EXPECT_EQ(a.global, b.global);
    EXPECT_EQ(a.mtime_seconds, b.mtime_seconds);
    EXPECT_EQ(a.xattrs.size(), b.xattrs.size());
    ASSERT_EQ(a.extents.size(), b.extents.size());
    for (size_t k = 0; k < b.extents.size(); ++k) {
      EXPECT_EQ(a.extents[k].data_offset, b.extents[k].data_offset);
      EXPECT_EQ(a.extents[k].file_offset, b.extents[k].file_offset);
      EXPECT_EQ(a.extents[k].length, b.extents[k].length);
    }
  }
}

// Delivers the archive in pieces of `piece` bytes, each in a buffer that the next call overwrites.
// Of each archive, a scan must find the same.
Parsed Parse(const std::string& bytes, size_t piece = kWhole) {
  Parsed parsed;
  std::string buffer;
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    std::fill(buffer.begin(), buffer.end(), '\x55');
    buffer = bytes.substr(parsed.delivered, piece);
    parsed.delivered += buffer.size();
    return std::string_view(buffer);
  };
  parsed.status = ReadTar(source, [&](TarEntry& entry) {
    parsed.entries.push_back(std::move(entry));
    return absl::OkStatus();
  });
  for (const size_t more : {0, 700, 10'000}) ExpectSame(Scan(bytes, more), parsed);
  return parsed;
}

Parsed Parse(const TarWriter& tar) { return Parse(tar.bytes()); }

TEST(TarTest, KindsOfEntries) {
  TarWriter tar;
  tar.File("f", "hello", 04755).Dir("d/", 01777).Symlink("s", "f").HardLink("h", "f");
  tar.Add({.name = "c", .type = '3', .mode = 0600, .major = 5, .minor = 300});
  tar.Add({.name = "b", .type = '4', .mode = 0600, .major = 8, .minor = 1});
  tar.Add({.name = "p", .type = '6'}).End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  ASSERT_EQ(parsed.entries.size(), 7u);
  EXPECT_EQ(parsed.entries[0].mode, static_cast<uint32_t>(S_IFREG | 04755));
  EXPECT_EQ(parsed.entries[0].extents, (std::vector<Extent>{{0, 512, 5, 1}}));
  EXPECT_EQ(parsed.entries[1].mode, static_cast<uint32_t>(S_IFDIR | 01777));
  EXPECT_EQ(parsed.entries[2].link, "f");
  EXPECT_TRUE(S_ISLNK(parsed.entries[2].mode));
  EXPECT_TRUE(parsed.entries[3].hard_link);
  EXPECT_EQ(parsed.entries[3].link, "f");
  EXPECT_EQ(parsed.entries[4].rdev_minor, 300u);
  EXPECT_TRUE(S_ISBLK(parsed.entries[5].mode));
  EXPECT_EQ(parsed.entries[5].rdev_major, 8u);
  EXPECT_TRUE(S_ISFIFO(parsed.entries[6].mode));
}

TEST(TarTest, OffsetsDoNotDependOnThePieces) {
  TarWriter tar;
  tar.File("a", std::string(1000, 'a')).Pax({{"path", std::string(300, 'p')}});
  tar.File("x", std::string(513, 'b')).LongName(std::string(200, 'l')).File("y", "c").File("z", "");
  tar.End();
  for (size_t piece : {size_t{1}, size_t{7}, size_t{511}, size_t{512}, size_t{1000}, kWhole}) {
    const Parsed parsed = Parse(tar.bytes(), piece);
    ASSERT_TRUE(parsed.status.ok()) << parsed.status << " with pieces of " << piece;
    ASSERT_EQ(parsed.entries.size(), 4u);
    EXPECT_EQ(parsed.entries[1].path, std::string(300, 'p'));
    EXPECT_EQ(parsed.entries[2].path, std::string(200, 'l'));
    for (int i = 0; i < 3; ++i) {
      const Extent& extent = parsed.entries[i].extents.at(0);
      EXPECT_EQ(extent.data_offset % 512, 0u);
      EXPECT_EQ(tar.bytes().substr(extent.data_offset, extent.length),
                std::string(parsed.entries[i].size, static_cast<char>('a' + i)));
    }
    EXPECT_TRUE(parsed.entries[3].extents.empty());
    EXPECT_EQ(parsed.delivered, tar.size());
  }
}

TEST(TarTest, NamesAreBytes) {
  const std::string utf8 = "\xc3\xa4\xe2\x82\xac", invalid =
                                                       "\xff\xfe"
                                                       "a\n";
  TarWriter tar;
  tar.File(utf8, "").File(invalid, "");
  tar.Pax({{"path", utf8}}).File("x", "").Pax({{"path", invalid}}).File("x", "");
  tar.Pax({{"linkpath", invalid}}).Symlink("s", "x").Pax({{"linkpath", utf8}}).HardLink("h", "x");
  tar.LongName(invalid).LongName(utf8, 'K').Symlink("s", "x");
  tar.Add({.name = "name", .prefix = "pre/fix"}, "").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  ASSERT_EQ(parsed.entries.size(), 8u);
  EXPECT_EQ(parsed.entries[0].path, utf8);
  EXPECT_EQ(parsed.entries[1].path, invalid);
  EXPECT_EQ(parsed.entries[2].path, utf8);
  EXPECT_EQ(parsed.entries[3].path, invalid);
  EXPECT_EQ(parsed.entries[4].link, invalid);
  EXPECT_EQ(parsed.entries[5].link, utf8);
  EXPECT_EQ(parsed.entries[6].path, invalid);
  EXPECT_EQ(parsed.entries[6].link, utf8);
  EXPECT_EQ(parsed.entries[7].path, "pre/fix/name");
}

TEST(TarTest, Times) {
  const std::vector<std::pair<std::string, std::pair<int64_t, uint32_t>>> cases = {
      {"1.5", {1, 500'000'000}},    {"-1.5", {-2, 500'000'000}},
      {"-0.25", {-1, 750'000'000}}, {"-3", {-3, 0}},
      {"7.0000000019", {7, 1}},     {"1700000000.123456789", {1'700'000'000, 123'456'789}},
  };
  for (const auto& [text, want] : cases) {
    TarWriter tar;
    tar.Pax({{"mtime", text}}).File("f", "").End();
    const Parsed parsed = Parse(tar);
    ASSERT_TRUE(parsed.status.ok()) << parsed.status;
    EXPECT_EQ(parsed.entries.at(0).mtime_seconds, want.first) << text;
    EXPECT_EQ(parsed.entries.at(0).mtime_nanoseconds, want.second) << text;
  }
  TarWriter tar;
  tar.Add({.name = "f", .mtime = -5, .format = TarWriter::Format::kGnu}).End();
  EXPECT_EQ(Parse(tar).entries.at(0).mtime_seconds, -5);
}

TEST(TarTest, LargeOwners) {
  TarWriter tar;
  tar.Add({.name = "a", .uid = 3'000'000'000, .gid = 2'097'152, .format = TarWriter::Format::kGnu});
  tar.Pax({{"uid", "4000000000"}, {"gid", "7"}}).File("b", "").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_EQ(parsed.entries.at(0).uid, 3'000'000'000u);
  EXPECT_EQ(parsed.entries.at(0).gid, 2'097'152u);
  EXPECT_EQ(parsed.entries.at(1).uid, 4'000'000'000u);
  EXPECT_EQ(parsed.entries.at(1).gid, 7u);
  TarWriter bad;
  bad.Pax({{"uid", "5000000000"}}).File("b", "").End();
  EXPECT_EQ(Parse(bad).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(TarTest, XattrsAreBinaryAndComeOnce) {
  const std::string capability("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  TarWriter tar;
  tar.Pax({{"SCHILY.xattr.security.capability", capability},
           {"LIBARCHIVE.xattr.security.capability", "AQAAAgAgAAAAAAAAAAAAAAAAAAA"}});
  tar.File("f", "").File("g", "").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_EQ(parsed.entries.at(0).xattrs, (std::vector<Xattr>{{"security.capability", capability}}));
  EXPECT_TRUE(parsed.entries.at(1).xattrs.empty());
}

TEST(TarTest, OldAndOddTypesAreFiles) {
  TarWriter tar;
  tar.Add({.name = "nul", .type = '\0', .format = TarWriter::Format::kV7}, "1");
  tar.Add({.name = "seven", .type = '7'}, "2");
  tar.Add({.name = "dir/", .type = '\0', .format = TarWriter::Format::kV7}).End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_TRUE(S_ISREG(parsed.entries.at(0).mode));
  EXPECT_TRUE(S_ISREG(parsed.entries.at(1).mode));
  EXPECT_EQ(parsed.entries.at(1).size, 1u);
  EXPECT_TRUE(S_ISDIR(parsed.entries.at(2).mode));
}

TEST(TarTest, UnknownTypesAreRefused) {
  for (char type : {'8', 'V', 'M', 'N', 'Z', '\x01'}) {
    TarWriter tar;
    tar.Add({.name = "strange", .type = type}, "data").File("f", "").End();
    const Parsed parsed = Parse(tar);
    EXPECT_EQ(parsed.status.code(), absl::StatusCode::kInvalidArgument) << type;
    EXPECT_NE(parsed.status.message().find("strange"), std::string::npos) << parsed.status;
  }
}

TEST(TarTest, GlobalRecordsApplyToNothing) {
  TarWriter tar;
  tar.Pax({{"path", "evil"}, {"uid", "7"}, {"mtime", "9"}}, 'g').File("f", "x").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  ASSERT_EQ(parsed.entries.size(), 2u);
  EXPECT_TRUE(parsed.entries[0].global);
  EXPECT_EQ(parsed.entries[0].path, "evil");
  EXPECT_FALSE(parsed.entries[1].global);
  EXPECT_EQ(parsed.entries[1].path, "f");
  EXPECT_EQ(parsed.entries[1].uid, 0u);
  EXPECT_EQ(parsed.entries[1].mtime_seconds, 0);
}

// Returns the name of the entry after the headers.
std::string NameAfter(TarWriter& tar) {
  const Parsed parsed = Parse(tar.File("header", "x").End());
  return parsed.status.ok() ? parsed.entries.back().path : parsed.status.ToString();
}

TEST(TarTest, OnlyTheLastPaxHeaderCounts) {
  TarWriter tar;
  tar.Pax({{"path", "a"}, {"uid", "7"}, {"SCHILY.xattr.user.x", "1"}}).Pax({{"mtime", "5"}});
  tar.File("b", "x").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  const TarEntry& entry = parsed.entries.at(0);
  EXPECT_EQ(entry.path, "b");
  EXPECT_EQ(entry.uid, 0u);
  EXPECT_EQ(entry.mtime_seconds, 5);
  EXPECT_TRUE(entry.xattrs.empty());
  // Replaced headers need not be valid.
  EXPECT_EQ(NameAfter(TarWriter().Pax({{"size", "x"}}).Pax({{"path", "p"}})), "p");
}

TEST(TarTest, HeadersThatPrecedeAnEntry) {
  const auto pax = [](std::string_view path) {
    return TarWriter::Records{{"path", std::string(path)}};
  };
  EXPECT_EQ(NameAfter(TarWriter().Pax(pax("p")).LongName("l")), "l");
  EXPECT_EQ(NameAfter(TarWriter().LongName("l").Pax(pax("p"))), "l");
  EXPECT_EQ(NameAfter(TarWriter().LongName("l").LongName("m")), "m");
  EXPECT_EQ(NameAfter(TarWriter().LongName("l").LongName("")), "header");
  EXPECT_EQ(NameAfter(TarWriter().LongName("l").LongName("k", 'K')), "l");
  EXPECT_EQ(NameAfter(TarWriter().Pax(pax("p")).Pax(pax(""))), "header");
  EXPECT_EQ(NameAfter(TarWriter().Pax({{"path", "p"}, {"path", ""}})), "header");
  EXPECT_EQ(NameAfter(TarWriter().Pax(pax("p")).Pax({{"comment", "c"}}, 'g')), "header");
  EXPECT_EQ(NameAfter(TarWriter().LongName("l").Pax(pax("g"), 'g')), "header");
  EXPECT_EQ(NameAfter(TarWriter().Pax(pax("g"), 'g').Pax(pax("p"))), "p");
}

TEST(TarTest, MalformedNumbersAreRefusedInEveryHeader) {
  for (size_t at : {size_t{100}, size_t{108}, size_t{116}, size_t{124}, size_t{136}, size_t{329}}) {
    for (char type : {'0', 'x', 'g', 'L'}) {
      std::string block = TarWriter::Block({.name = "n", .type = type});
      block[at] = 'q';
      TarWriter::SetChecksum(block);
      TarWriter tar;
      tar.Raw(block).File("f", "").End();
      EXPECT_EQ(Parse(tar).status.code(), absl::StatusCode::kDataLoss) << at << type;
    }
  }
  // A v7 header has no device numbers, and a directory has no size.
  std::string v7 = TarWriter::Block({.name = "c", .type = '3', .format = TarWriter::Format::kV7});
  v7[329] = '5';
  TarWriter::SetChecksum(v7);
  TarWriter tar;
  tar.Raw(v7).Add({.name = "d", .type = '5', .size = -1}).File("f", "").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_EQ(parsed.entries.at(0).rdev_major, 0u);
  EXPECT_EQ(parsed.entries.size(), 3u);
}

TEST(TarTest, OldGnuHeadersWithAPrefix) {
  const auto path_of = [](size_t at, std::string_view text) {
    std::string block = TarWriter::Block({.name = "n", .format = TarWriter::Format::kGnu});
    block.replace(at, text.size(), text);
    TarWriter::SetChecksum(block);
    TarWriter tar;
    return Parse(tar.Raw(block).End()).entries.at(0).path;
  };
  EXPECT_EQ(path_of(345, "00000000001"), "n");
  EXPECT_EQ(path_of(345, "some/dir"), "some/dir/n");
  EXPECT_EQ(path_of(345, "\xc3\xa9x"), "n");
  EXPECT_EQ(path_of(346, "abc"), "n");  // not a time
  EXPECT_EQ(path_of(357, "zz"), "n");   // a malformed second time, and not a prefix either
  EXPECT_EQ(path_of(345, "000000000000zz"), "000000000000zz/n");
}

TEST(TarTest, HardLinkWithASize) {
  // With the size of the target, without and with data.
  TarWriter without, with;
  without.File("f", "data").Add({.name = "h", .type = '1', .size = 4, .link = "f"});
  without.File("g", "x").End();
  with.File("f", "data").Add({.name = "h", .type = '1', .link = "f"}, "data");
  with.File("g", "x").End();
  for (const TarWriter* tar : {&without, &with}) {
    const Parsed parsed = Parse(*tar);
    ASSERT_TRUE(parsed.status.ok()) << parsed.status;
    ASSERT_EQ(parsed.entries.size(), 3u);
    EXPECT_TRUE(parsed.entries[1].hard_link);
    EXPECT_TRUE(parsed.entries[1].extents.empty());
    EXPECT_EQ(tar->bytes()[parsed.entries[2].extents.at(0).data_offset], 'x');
  }
}

void ExpectSparse(const TarWriter& tar) {
  for (size_t piece : {size_t{100}, kWhole}) {
    const Parsed parsed = Parse(tar.bytes(), piece);
    ASSERT_TRUE(parsed.status.ok()) << parsed.status;
    ASSERT_EQ(parsed.entries.size(), 2u);
    const TarEntry& entry = parsed.entries[0];
    EXPECT_EQ(entry.path, "sparse");
    EXPECT_TRUE(S_ISREG(entry.mode));
    EXPECT_EQ(entry.size, 100'000u);
    ASSERT_EQ(entry.extents.size(), 2u);
    EXPECT_EQ(entry.extents[0].file_offset, 4096u);
    EXPECT_EQ(entry.extents[1].file_offset, 50'000u);
    EXPECT_EQ(tar.bytes().substr(entry.extents[0].data_offset, entry.extents[0].length), "first");
    EXPECT_EQ(tar.bytes().substr(entry.extents[1].data_offset, entry.extents[1].length), "second");
    EXPECT_EQ(parsed.entries[1].path, "after");
  }
}

TEST(TarTest, SparseInFourFormats) {
  TarWriter old, pax00, pax01, pax10;
  old.OldGnuSparse("sparse", 100'000, {{4096, 5}, {50'000, 6}, {100'000, 0}}, "firstsecond");
  ExpectSparse(old.File("after", "").End());
  pax00.Pax({{"GNU.sparse.size", "100000"},
             {"GNU.sparse.numblocks", "2"},
             {"GNU.sparse.offset", "4096"},
             {"GNU.sparse.numbytes", "5"},
             {"GNU.sparse.offset", "50000"},
             {"GNU.sparse.numbytes", "6"}});
  ExpectSparse(pax00.File("sparse", "firstsecond").File("after", "").End());
  pax01.Pax({{"GNU.sparse.size", "100000"},
             {"GNU.sparse.numblocks", "2"},
             {"GNU.sparse.name", "sparse"},
             {"GNU.sparse.map", "4096,5,50000,6"}});
  ExpectSparse(pax01.File("GNUSparseFile.0/sparse", "firstsecond").File("after", "").End());
  std::string data = "2\n4096\n5\n50000\n6\n";
  data.resize(512, '\0');
  pax10.Pax({{"GNU.sparse.major", "1"},
             {"GNU.sparse.minor", "0"},
             {"GNU.sparse.name", "sparse"},
             {"GNU.sparse.realsize", "100000"}});
  pax10.File("GNUSparseFile.0/sparse", data + "firstsecond").File("after", "").End();
  ExpectSparse(pax10);
}

TEST(TarTest, SparseRecordsAsGoReadsThem) {
  const auto entry_of = [](const TarWriter::Records& records, std::string_view data) {
    TarWriter tar;
    const Parsed parsed = Parse(tar.Pax(records).File("header", data).End());
    return parsed.status.ok() ? StrCat(parsed.entries.at(0).path, " ", parsed.entries.at(0).size)
                              : std::string(absl::StatusCodeToString(parsed.status.code()));
  };
  // The size takes precedence over the real size in any order, the listed segments over the map.
  EXPECT_EQ(entry_of({{"GNU.sparse.size", "4"},
                      {"GNU.sparse.realsize", "9"},
                      {"GNU.sparse.numblocks", "1"},
                      {"GNU.sparse.map", "0,1"}},
                     "x"),
            "header 4");
  EXPECT_EQ(entry_of({{"GNU.sparse.realsize", "9"},
                      {"GNU.sparse.numblocks", "1"},
                      {"GNU.sparse.offset", "2"},
                      {"GNU.sparse.numbytes", "1"},
                      {"GNU.sparse.map", "7,7"}},
                     "x"),
            "header 9");
  // With an unknown version, the file is not sparse, and its sparse name is not used.
  EXPECT_EQ(entry_of({{"GNU.sparse.major", "2"}, {"GNU.sparse.name", "n"}}, "x"), "header 1");
  EXPECT_EQ(entry_of({{"GNU.sparse.name", "n"}}, "x"), "header 1");
  // The number of segments is required and must be right.
  EXPECT_EQ(entry_of({{"GNU.sparse.map", "0,1"}, {"GNU.sparse.size", "1"}}, "x"), "DATA_LOSS");
  EXPECT_EQ(entry_of({{"GNU.sparse.map", "0,1"}, {"GNU.sparse.numblocks", "2"}}, "x"), "DATA_LOSS");
  TarWriter directory;
  directory.Pax({{"GNU.sparse.map", "0,0"}, {"GNU.sparse.numblocks", "1"}}).Dir("d").End();
  EXPECT_EQ(Parse(directory).status.code(), absl::StatusCode::kDataLoss);
}

TEST(TarTest, OldSparseMapOverSeveralBlocks) {
  std::vector<TarWriter::Segment> segments;
  std::string data;
  for (uint64_t i = 0; i < 60; ++i) {
    segments.push_back({i * 8192, 512});
    data += std::string(512, static_cast<char>('A' + i));
  }
  TarWriter tar;
  tar.OldGnuSparse("sparse", 60 * 8192, segments, data).File("after", "").End();
  const Parsed parsed = Parse(tar);
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  uint64_t covered = 0;
  for (const Extent& extent : parsed.entries.at(0).extents) {
    for (uint64_t i = 0; i < extent.length; ++i) {
      ASSERT_EQ(tar.bytes()[extent.data_offset + i], 'A' + (extent.file_offset + i) / 8192);
    }
    covered += extent.length;
  }
  EXPECT_EQ(covered, data.size());
  EXPECT_EQ(parsed.entries.at(1).path, "after");
}

TEST(TarTest, EmptyStreamsAndMissingEnds) {
  EXPECT_TRUE(Parse(std::string()).status.ok());
  EXPECT_TRUE(Parse(std::string(1024, '\0')).status.ok());
  EXPECT_TRUE(Parse(std::string(10'240, '\0')).status.ok());
  TarWriter tar;
  const Parsed parsed = Parse(tar.File("f", "x"));
  EXPECT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_EQ(parsed.entries.size(), 1u);
}

TEST(TarTest, TrailingBytesAreDrained) {
  TarWriter tar;
  tar.File("f", "x").End().Raw(std::string(100'001, 'g'));
  for (size_t piece : {size_t{333}, kWhole}) {
    const Parsed parsed = Parse(tar.bytes(), piece);
    EXPECT_TRUE(parsed.status.ok()) << parsed.status;
    EXPECT_EQ(parsed.entries.size(), 1u);
    EXPECT_EQ(parsed.delivered, tar.size());
  }
}

TEST(TarTest, TruncatedArchives) {
  TarWriter tar;
  tar.File("f", std::string(2000, 'x'));
  for (size_t size : {size_t{100}, size_t{511}, size_t{512}, size_t{513}, size_t{2511}}) {
    EXPECT_EQ(Parse(tar.bytes().substr(0, size)).status.code(), absl::StatusCode::kDataLoss)
        << size;
  }
  TarWriter pax;
  pax.Pax({{"path", "p"}});
  EXPECT_EQ(Parse(pax.bytes().substr(0, 515)).status.code(), absl::StatusCode::kDataLoss);
}

TEST(TarTest, GarbageAndWrongChecksums) {
  EXPECT_EQ(Parse(std::string(4096, 'g')).status.code(), absl::StatusCode::kDataLoss);
  TarWriter tar;
  std::string block = TarWriter::Block({.name = "f"});
  block[0] = 'g';
  tar.File("a", "").Raw(block).End();
  EXPECT_EQ(Parse(tar).status.code(), absl::StatusCode::kDataLoss);
}

TEST(TarTest, ANulInAPaxPathIsRefused) {
  TarWriter tar;
  tar.Pax({{"path", std::string("a\0b", 3)}}).File("f", "").End();
  EXPECT_EQ(Parse(tar).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(TarTest, HugeSpecialEntriesAreRefused) {
  TarWriter tar;
  tar.LongName(std::string(3 << 20, 'n')).File("f", "").End();
  EXPECT_FALSE(Parse(tar).status.ok());
}

TEST(TarTest, AScanSkipsTheDataOfFiles) {
  TarWriter tar;
  for (int i = 0; i < 20; ++i) {
    tar.File(StrCat("large", i), std::string(1 << 20, static_cast<char>('a' + i)));
  }
  tar.End();
  const Parsed scanned = Scan(tar.bytes(), 1024);
  ASSERT_TRUE(scanned.status.ok()) << scanned.status;
  EXPECT_EQ(scanned.entries.size(), 20u);
  EXPECT_LE(scanned.delivered, 22u * 1536);
}

TEST(TarTest, AScanKnowsWhereTheArchiveEnds) {
  TarWriter tar;
  const std::string header = TarWriter::Block({.name = "lie", .size = int64_t{1} << 40});
  for (const auto& bytes : {tar.Raw(header).bytes(), header + std::string(4096, 'x')}) {
    const Parsed scanned = Scan(bytes, 0);
    EXPECT_TRUE(absl::IsDataLoss(scanned.status)) << scanned.status;
    EXPECT_TRUE(scanned.entries.size() <= 1);
  }
}

TEST(TarTest, ErrorsOfTheCallersComeBackUnchanged) {
  const absl::Status want = absl::UnavailableError("cut");
  int calls = 0;
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    if (calls++ > 0) return want;
    static const std::string block = TarWriter::Block({.name = "f", .size = 1000});
    return std::string_view(block);
  };
  EXPECT_EQ(ReadTar(source, [](TarEntry&) { return absl::OkStatus(); }), want);
  TarWriter tar;
  tar.File("f", "").End();
  bool given = false;
  const auto whole = [&]() -> absl::StatusOr<std::string_view> {
    return std::exchange(given, true) ? std::string_view() : std::string_view(tar.bytes());
  };
  EXPECT_EQ(ReadTar(whole, [&](TarEntry&) { return want; }), want);
}

}  // namespace
}  // namespace imagefs
