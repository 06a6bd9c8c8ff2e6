// SPDX-License-Identifier: Apache-2.0
#include "image/toc.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/image/table_samples.h"
#include "tests/fakes/image/tar_writer.h"
#include "tests/fakes/image/toc_writer.h"

namespace imagefs {
namespace {

constexpr std::string_view kZstdPrefix = "io.github.containers.zstd-chunked.";

TocWriter::Blob Write(const TocWriter::Options& options,
                      const std::vector<TocWriter::Entry>& entries = SampleEntries()) {
  TocWriter writer(options);
  for (const TocWriter::Entry& entry : entries) writer.Add(entry);
  return writer.Finish();
}

struct Opened {
  std::string json;
  std::optional<TarEntry> entry;
};

absl::StatusOr<Opened> Open(const TocLocation& location, std::string_view bytes) {
  const Fd file(memfd_create("toc", MFD_CLOEXEC));
  absl::StatusOr<OpenedToc> toc = OpenToc(location, bytes, file.get());
  if (!toc.ok()) return toc.status();
  Opened out{std::string(toc->json.size(), '\0'), std::move(toc->entry)};
  const absl::Status status =
      PreadExact(file.get(), absl::MakeSpan(out.json), toc->json.begin, "JSON");
  if (!status.ok()) return status;
  return out;
}

// The JSON of a table.
absl::StatusOr<std::string> Json(const TocLocation& location, std::string_view bytes) {
  absl::StatusOr<Opened> opened = Open(location, bytes);
  if (!opened.ok()) return opened.status();
  return std::move(opened->json);
}

// Follows the steps from a manifest to a layer.
absl::StatusOr<TableLayer> Load(const TocWriter::Blob& blob) {
  std::optional<TocLocation> location = FindToc(blob.descriptor);
  if (!location.has_value()) return absl::NotFoundError("no table of contents");
  const std::string_view bytes(blob.bytes);
  if (location->kind == TocKind::kEstargz) {
    const auto range =
        ParseEstargzFooter(bytes.substr(bytes.size() - kEstargzFooterBytes), bytes.size());
    if (!range.ok()) return range.status();
    location->range = *range;
  }
  auto opened = Open(*location, bytes.substr(location->range.begin, location->range.size()));
  if (!opened.ok()) return opened.status();
  EXPECT_EQ(opened->json, blob.json);
  return BuildFromToc(*location, opened->json, std::move(opened->entry), blob.descriptor,
                      Sha256Of(blob.tar));
}

// The location for JSON written by a test: 1,000 bytes of data, then the table.
TocLocation Place(TocKind kind) {
  TocLocation location;
  location.kind = kind;
  location.range = {1000, 1100};
  return location;
}

absl::StatusOr<TableLayer> FromEntries(std::string_view entries,
                                       TocKind kind = TocKind::kZstdChunked) {
  Descriptor blob;
  blob.size = 1200;
  return BuildFromToc(Place(kind), StrCat("{\"version\":1,\"entries\":[", entries, "]}"),
                      std::nullopt, blob, Digest());
}

// The entry of a regular file with the members `more`.
std::string File(std::string_view more) {
  return StrCat("{\"type\":\"reg\",\"name\":\"f\",", more, "}");
}

std::string SomeDigest() { return Sha256Of("x").ToString(); }

class TocKindTest : public testing::TestWithParam<TocWriter::Options> {};

TEST_P(TocKindTest, SameAsAFullPass) {
  const TocWriter::Blob blob = Write(GetParam());
  const auto table = Load(blob);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(TableText(*table, blob.bytes), TarText(blob.tar));
  EXPECT_EQ(table->span_table.layout, DataLayout::kTable);
  EXPECT_EQ(table->span_table.blob_digest, blob.descriptor.digest);
  EXPECT_EQ(table->span_table.blob_size, blob.bytes.size());
  EXPECT_EQ(table->span_table.diff_id, Sha256Of(blob.tar));
  EXPECT_TRUE(table->layer.moves.empty());
  EXPECT_FALSE(table->prefetch.has_value());
}

INSTANTIATE_TEST_SUITE_P(
    Writers, TocKindTest,
    testing::Values(TocWriter::Options{}, TocWriter::Options{.chunk_size = 10'000},
                    TocWriter::Options{.chunk_size = 10'000, .chunks_a_member = 7},
                    TocWriter::Options{.chunk_size = 512},
                    TocWriter::Options{.kind = TocKind::kZstdChunked},
                    TocWriter::Options{.kind = TocKind::kZstdChunked, .chunk_size = 10'000},
                    TocWriter::Options{.kind = TocKind::kZstdChunked,
                                       .chunk_size = 10'000,
                                       .end_offsets = false}));

TEST(TocTest, ZerosAreAHole) {
  const TocWriter::Blob blob =
      Write({.kind = TocKind::kZstdChunked, .chunk_size = 10'000},
            {{.name = "f", .data = "a" + std::string(39'999, '\0') + "b"}});
  const auto table = Load(blob);
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->span_table.spans.size(), 2u);
  EXPECT_EQ(table->span_table.spans[0].data_bytes, 10'000u);
  EXPECT_EQ(table->span_table.spans[1].data_begin, 40'000u);
  EXPECT_EQ(TableText(*table, blob.bytes), TarText(blob.tar));
}

TEST(TocTest, EndsOfChunks) {
  const TocWriter::Blob estargz = Write(
      {}, {{.name = "a", .data = "1"}, {.name = "d/", .type = "dir"}, {.name = "b", .data = "2"}});
  const auto table = Load(estargz);
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->span_table.spans.size(), 3u);  // the third is the table
  // A file's gzip member continues with the headers up to the next file.
  EXPECT_EQ(table->span_table.spans[0].blob_end(), table->span_table.spans[1].blob_begin);
  EXPECT_EQ(table->span_table.spans[0].codec, SpanCodec::kGzip);

  const TocWriter::Blob zstd = Write({.kind = TocKind::kZstdChunked},
                                     {{.name = "a", .data = "1"}, {.name = "b", .data = "2"}});
  const auto frames = Load(zstd);
  ASSERT_TRUE(frames.ok()) << frames.status();
  // The end of the file is given, so the frame of the next header is not fetched.
  EXPECT_LT(frames->span_table.spans[0].blob_end(), frames->span_table.spans[1].blob_begin);
  EXPECT_EQ(frames->span_table.spans[0].codec, SpanCodec::kZstd);
}

TEST(TocTest, PrefetchLandmark) {
  const std::string sign = "\xf";
  const TocWriter::Blob blob = Write({}, {{.name = "first", .data = std::string(600, 'a')},
                                          {.name = "second", .data = "b"},
                                          {.name = ".prefetch.landmark", .data = sign},
                                          {.name = "third", .data = "c"},
                                          {.name = "sub/.prefetch.landmark.not", .data = "d"}});
  const auto table = Load(blob);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->prefetch, (ByteRange{0, 1536}));
  EXPECT_EQ(TableText(*table, blob.bytes), TarText(blob.tar));
  EXPECT_EQ(table->span_table.spans.size(), 6u);  // the landmark and the table are files too

  const auto none = Load(
      Write({}, {{.name = ".no.prefetch.landmark", .data = sign}, {.name = "third", .data = "c"}}));
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->prefetch.has_value());
  EXPECT_NE(none->layer.tree.Find(Tree::kRoot, ".no.prefetch.landmark"), kNoId);
  EXPECT_NE(none->layer.tree.Find(Tree::kRoot, "third"), kNoId);
}

// The table is a file of the layer's tar and covered by the DiffID, so it must be in the tree.
TEST(TocTest, TheTableOfEstargzIsAFile) {
  const TocWriter::Blob blob = Write({}, {{.name = "first", .data = "a"}});
  const auto table = Load(blob);
  ASSERT_TRUE(table.ok()) << table.status();
  const DirentId found = table->layer.tree.Find(Tree::kRoot, "stargz.index.json");
  ASSERT_NE(found, kNoId);
  const Inode& inode = table->layer.tree.inode(table->layer.tree.dirent(found).inode);
  EXPECT_EQ(inode.size, blob.json.size());
  EXPECT_EQ(TableText(*table, blob.bytes), TarText(blob.tar));

  const auto chunked = Load(Write({.kind = TocKind::kZstdChunked}, {{.name = "a", .data = "1"}}));
  ASSERT_TRUE(chunked.ok()) << chunked.status();
  EXPECT_EQ(chunked->layer.tree.Find(Tree::kRoot, "stargz.index.json"), kNoId);
}

TEST(TocTest, ALargeTableIsReadInPieces) {
  TocLocation location;
  location.range = {1000, 5000};
  Descriptor blob;
  blob.size = 6000;
  TarEntry entry;
  entry.path = "stargz.index.json";
  entry.mode = S_IFREG;
  const auto build = [&](size_t size) {
    std::string json = "{\"version\":1,\"entries\":[]}";
    json.resize(size, ' ');
    entry.size = size;
    entry.extents = {{0, 512, size, 1}};
    return BuildFromToc(location, json, entry, blob, Digest());
  };
  const auto table = build(size_t{70} << 20);
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->span_table.spans.size(), 3u);
  EXPECT_EQ(table->span_table.spans[1].skip, (31u << 20) + 512);
  EXPECT_EQ(table->span_table.spans[2].data_bytes, 8u << 20);
  EXPECT_TRUE(WriteSpanTable(table->span_table).ok());
  EXPECT_EQ(build(size_t{97} << 20).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(TocTest, LandmarksOfZstdChunkedAreFiles) {
  const TocWriter::Blob blob =
      Write({.kind = TocKind::kZstdChunked},
            {{.name = "first", .data = "a"}, {.name = ".prefetch.landmark", .data = "x"}});
  const auto table = Load(blob);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->prefetch, (ByteRange{0, 512}));
  EXPECT_NE(table->layer.tree.Find(Tree::kRoot, ".prefetch.landmark"), kNoId);
}

TEST(TocTest, Times) {
  const std::pair<std::string, std::pair<int64_t, uint32_t>> cases[] = {
      {"", {0, 0}},
      {"0001-01-01T00:00:00Z", {0, 0}},
      {"2020-09-13T12:26:40Z", {1'600'000'000, 0}},
      {"2020-09-13T14:26:40.5+02:00", {1'600'000'000, 500'000'000}},
      {"2020-09-13T12:26:40.123456789Z", {1'600'000'000, 123'456'789}},
      {"1969-12-31T23:59:58.25Z", {-2, 250'000'000}},
  };
  for (const auto& [text, want] : cases) {
    const auto table = FromEntries(StrCat(R"({"type":"dir","name":"d","modtime":")", text, "\"}"));
    ASSERT_TRUE(table.ok()) << table.status();
    const Tree& tree = table->layer.tree;
    const Inode& inode = tree.inode(tree.dirent(tree.Find(Tree::kRoot, "d")).inode);
    EXPECT_EQ(inode.mtime_seconds, want.first) << text;
    EXPECT_EQ(inode.mtime_nanoseconds, want.second) << text;
  }
  for (const std::string_view text : {"yesterday", "infinite-future", "2020-13-01T00:00:00Z"}) {
    EXPECT_FALSE(FromEntries(StrCat(R"({"type":"dir","name":"d","modtime":")", text, "\"}")).ok())
        << text;
  }
}

TEST(TocTest, FindsNothing) {
  Descriptor layer;
  layer.size = 10'000;
  EXPECT_FALSE(FindToc(layer).has_value());
  layer.annotations["containerd.io/snapshot/stargz/toc.digest"] = "sha256:short";
  EXPECT_FALSE(FindToc(layer).has_value());
  layer.annotations["containerd.io/snapshot/stargz/toc.digest"] = SomeDigest();
  EXPECT_TRUE(FindToc(layer).has_value());
  layer.size = kEstargzFooterBytes;
  EXPECT_FALSE(FindToc(layer).has_value());
}

TEST(TocTest, PositionsOfZstdChunked) {
  const auto find = [](std::string_view position) {
    Descriptor layer;
    layer.size = 10'000;
    layer.annotations[StrCat(kZstdPrefix, "manifest-checksum")] = SomeDigest();
    layer.annotations[StrCat(kZstdPrefix, "manifest-position")] = position;
    return FindToc(layer);
  };
  const auto found = find("9000:1000:5000:1");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->kind, TocKind::kZstdChunked);
  EXPECT_EQ(found->range, (ByteRange{9000, 10'000}));
  EXPECT_EQ(found->json_bytes, 5000u);
  for (const std::string_view bad :
       {"", "9000:1000:5000", "9000:1000:5000:2", "9000:1001:5000:1", "10001:1:1:1", "0:0:1:1",
        "9000:1000:0:1", "-1:1:1:1", "9000:18446744073709551615:1:1", "9000:1000:5000:1:1",
        "18446744073709551615:1:1:1", "9000:1000:99999999999:1"}) {
    EXPECT_FALSE(find(bad).has_value()) << bad;
  }
  Descriptor old;
  old.size = 10'000;
  old.annotations["io.containers.zstd-chunked.manifest-checksum"] = SomeDigest();
  old.annotations["io.containers.zstd-chunked.manifest-position"] = "9000:1000:5000:1";
  EXPECT_TRUE(FindToc(old).has_value());
}

TEST(TocTest, Footers) {
  EXPECT_EQ(*ParseEstargzFooter(EstargzFooter(1000), 2000), (ByteRange{1000, 1949}));
  EXPECT_EQ(*ParseEstargzFooter("tail" + EstargzFooter(1000, true), 2000), (ByteRange{1000, 1953}));
  const std::string good = EstargzFooter(1000);
  for (size_t i = 0; i < good.size(); ++i) {
    const bool ignored = i >= 4 && i < 10;  // time, level and system of the gzip header
    if (ignored) continue;
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    EXPECT_FALSE(ParseEstargzFooter(bad, 2000).ok()) << i;
  }
  EXPECT_FALSE(ParseEstargzFooter(good.substr(1), 2000).ok());
  EXPECT_FALSE(ParseEstargzFooter(good, 50).ok());
  EXPECT_FALSE(ParseEstargzFooter(EstargzFooter(1949), 2000).ok());
  EXPECT_FALSE(ParseEstargzFooter(EstargzFooter(UINT64_MAX), 2000).ok());
  EXPECT_EQ(ParseEstargzFooter(EstargzFooter(0), uint64_t{1} << 40).status().code(),
            absl::StatusCode::kUnimplemented);
  std::string external("12345\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x15\x00SG\x11\x00", 21);
  external += "STARGZEXTERNALTOC" + good.substr(good.size() - 13);
  EXPECT_EQ(ParseEstargzFooter(external, 2000).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(TocTest, WrongBytesOfTheTable) {
  for (const TocKind kind : {TocKind::kEstargz, TocKind::kZstdChunked}) {
    TocWriter::Blob blob = Write({.kind = kind});
    blob.bytes[blob.bytes.size() - 400] ^= 1;
    EXPECT_FALSE(Load(blob).ok());
  }
  TocLocation location;
  const std::string json = "{}";
  const auto open = [&](const std::string& bytes) {
    location.range = {0, bytes.size()};
    return Json(location, bytes).status().code();
  };
  location.digest = Sha256Of(json);
  const auto wrap = [](std::string_view name, std::string_view data) {
    return GzipMember(TarWriter().File(name, data).End().bytes());
  };
  EXPECT_EQ(open(wrap("stargz.index.json", json)), absl::StatusCode::kOk);
  EXPECT_EQ(open(wrap("stargz.index.json", "{ }")), absl::StatusCode::kDataLoss);
  EXPECT_EQ(open(wrap("other.json", json)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(open(GzipMember("no tar")), absl::StatusCode::kDataLoss);
  EXPECT_EQ(open("no gzip"), absl::StatusCode::kDataLoss);
  const std::string whole = wrap("stargz.index.json", json);
  for (size_t size = 1; size < whole.size(); ++size) {
    EXPECT_NE(open(whole.substr(0, size)), absl::StatusCode::kOk) << size;
  }
  EXPECT_FALSE(Json(location, "").ok());
  EXPECT_FALSE(Json(location, whole.substr(1)).ok());
}

TEST(TocTest, TablesLargerThanAnnounced) {
  const std::string frame = ZstdFrame(std::string(5000, 'x'));
  TocLocation location;
  location.kind = TocKind::kZstdChunked;
  location.digest = Sha256Of(frame);
  location.range = {0, frame.size()};
  location.json_bytes = 4999;
  EXPECT_FALSE(Json(location, frame).ok());
  location.json_bytes = 5000;
  EXPECT_TRUE(Json(location, frame).ok());
}

TEST(TocTest, AGzipTableHasNoMoreThanItsTrailerSays) {
  std::string bytes = GzipMember(TarWriter().File("stargz.index.json", "{}").End().bytes());
  TocLocation location;
  location.digest = Sha256Of("{}");
  location.range = {0, bytes.size()};
  EXPECT_GE(AnnouncedTocBytes(location, bytes), 1024U);
  EXPECT_TRUE(Json(location, bytes).ok());
  // Two members: the last one claims to be empty.
  bytes += GzipMember("");
  location.range = {0, bytes.size()};
  EXPECT_EQ(AnnouncedTocBytes(location, bytes), 0U);
  EXPECT_FALSE(Json(location, bytes).ok());
}

TEST(TocTest, MemoryIsBounded) {
  // Little text, many directories.
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "d/";
  std::string entries;
  for (int i = 0; i < 100; ++i) {
    StrAppend(&entries, i > 0 ? "," : "", "{\"type\":\"dir\",\"name\":\"", i, "/", deep, "\"}");
  }
  const std::string json = StrCat("{\"version\":1,\"entries\":[", entries, "]}");
  Descriptor blob;
  blob.size = 1200;
  EXPECT_TRUE(BuildFromToc(Place(TocKind::kZstdChunked), json, std::nullopt, blob, Digest()).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(BuildFromToc(Place(TocKind::kZstdChunked), json,
                                                     std::nullopt, blob, Digest(), 4 * json.size())
                                            .status()));
}

TEST(TocTest, LyingChunks) {
  const std::string digest = StrCat("\"digest\":\"", SomeDigest(), "\"");
  EXPECT_TRUE(FromEntries(File("\"size\":5,\"offset\":999," + digest)).ok());
  EXPECT_TRUE(FromEntries(File("\"size\":5,\"offset\":10,\"endOffset\":20," + digest)).ok());
  for (const std::string_view bad : {
           "\"size\":5,\"offset\":1000,",                       // in the table
           "\"size\":5,\"offset\":-1,",                         //
           "\"size\":5,\"offset\":9223372036854775807,",        //
           "\"size\":5,\"offset\":18446744073709551615,",       //
           "\"size\":5,\"offset\":\"10\",",                     //
           "\"size\":5,\"offset\":1.5,",                        //
           "\"size\":5,\"offset\":20,\"endOffset\":20,",        // ends before it begins
           "\"size\":5,\"offset\":20,\"endOffset\":10,",        //
           "\"size\":-5,\"offset\":20,",                        //
           "\"size\":5,\"offset\":20,\"chunkSize\":4,",         // a byte missing
           "\"size\":5,\"offset\":20,\"chunkSize\":6,",         // a byte too many
           "\"size\":5,\"offset\":20,\"chunkSize\":-5,",        //
           "\"size\":5,\"offset\":20,\"chunkOffset\":1,",       //
           "\"size\":5,\"offset\":20,\"chunkOffset\":-1,",      //
           "\"size\":5,\"offset\":20,\"innerOffset\":-1,",      //
           "\"size\":5,\"offset\":20,\"chunkType\":\"ones\",",  //
           "\"size\":9223372036854775807,\"offset\":20,",       //
           "\"size\":2199023255553,\"offset\":20,",             // over 2 TiB
       }) {
    EXPECT_FALSE(FromEntries(File(StrCat(bad, digest))).ok()) << bad;
  }
  EXPECT_FALSE(FromEntries(File("\"size\":5,\"offset\":20")).ok()) << "no digest";
  EXPECT_FALSE(FromEntries(File("\"size\":5,\"offset\":20,\"digest\":\"md5:00\"")).ok());
}

TEST(TocTest, ChunksMustFollowTheirFile) {
  const std::string digest = StrCat("\"chunkDigest\":\"", SomeDigest(), "\"");
  const auto chunk = [&](std::string_view more) {
    return StrCat(",{\"type\":\"chunk\",\"name\":\"f\",", more, digest, "}");
  };
  const std::string first = File("\"size\":10,\"offset\":20,\"chunkSize\":5," + digest);
  EXPECT_TRUE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":5,")).ok());
  EXPECT_TRUE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":5,\"chunkSize\":5,")).ok());
  EXPECT_FALSE(FromEntries(first).ok()) << "the second half is missing";
  EXPECT_FALSE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":4,")).ok()) << "overlap";
  EXPECT_FALSE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":6,")).ok()) << "gap";
  EXPECT_FALSE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":5,\"chunkSize\":6,")).ok());
  EXPECT_FALSE(FromEntries(first + ",{\"type\":\"dir\",\"name\":\"d\"}" +
                           chunk("\"offset\":30,\"chunkOffset\":5,"))
                   .ok());
  EXPECT_FALSE(FromEntries(chunk("\"offset\":30,").substr(1)).ok()) << "no file at all";
  EXPECT_FALSE(FromEntries(first + chunk("\"offset\":30,\"chunkOffset\":5,") +
                           chunk("\"offset\":40,\"chunkOffset\":10,"))
                   .ok())
      << "one too many";
  // The digest of a whole file cannot verify one of its chunks.
  EXPECT_FALSE(FromEntries(File(StrCat("\"size\":10,\"offset\":20,\"chunkSize\":5,\"digest\":\"",
                                       SomeDigest(), "\"")) +
                           chunk("\"offset\":30,\"chunkOffset\":5,"))
                   .ok());
}

TEST(TocTest, ChunksTooLargeToReadAtOnce) {
  const std::string digest = StrCat("\"digest\":\"", SomeDigest(), "\"");
  for (const std::string_view more :
       {"\"size\":67108865,\"offset\":20,", "\"size\":5,\"offset\":20,\"innerOffset\":67108865,"}) {
    EXPECT_EQ(FromEntries(File(StrCat(more, digest))).status().code(),
              absl::StatusCode::kUnimplemented)
        << more;
  }
  TocLocation location = Place(TocKind::kEstargz);
  location.range = {uint64_t{1} << 30, (uint64_t{1} << 30) + 100};
  Descriptor blob;
  blob.size = location.range.end + 51;
  const std::string json =
      StrCat("{\"version\":1,\"entries\":[", File("\"size\":5,\"offset\":20," + digest), "]}");
  EXPECT_EQ(BuildFromToc(location, json, std::nullopt, blob, Digest()).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(TocTest, LyingEntries) {
  const auto entry = [](std::string_view type, std::string_view more) {
    return FromEntries(StrCat("{\"name\":\"n\",\"type\":\"", type, "\"", more, "}"));
  };
  EXPECT_TRUE(entry("dir", "").ok());
  EXPECT_TRUE(entry("dir", ",\"uid\":-1,\"unknown\":[{\"a\":[1.5,null,true]}]").ok());
  EXPECT_TRUE(entry("dir", ",\"xattrs\":null,\"modtime\":null").ok());
  EXPECT_FALSE(entry("", "").ok());
  EXPECT_FALSE(entry("socket", "").ok());
  EXPECT_FALSE(entry("symlink", "").ok()) << "no target";
  EXPECT_FALSE(entry("hardlink", ",\"linkName\":\"n\"").ok()) << "of itself";
  EXPECT_FALSE(entry("hardlink", ",\"linkName\":\"absent\"").ok());
  EXPECT_FALSE(entry("char", ",\"devMajor\":4096").ok());
  EXPECT_FALSE(entry("block", ",\"devMinor\":-1").ok());
  EXPECT_FALSE(entry("dir", ",\"uid\":4294967296").ok());
  EXPECT_FALSE(entry("dir", ",\"gid\":true").ok());
  EXPECT_FALSE(entry("dir", ",\"xattrs\":{\"user.a\":\"%\"}").ok());
  EXPECT_FALSE(entry("dir", ",\"xattrs\":{\"user.a\":5}").ok());
  EXPECT_FALSE(entry("dir", ",\"xattrs\":{\"\":\"AA==\"}").ok());
  EXPECT_FALSE(entry("dir", ",\"linkName\":\"a\xef\xbf\xbd\"").ok());
  EXPECT_FALSE(FromEntries(R"({"type":"dir","name":"../x"})").ok());
  EXPECT_FALSE(FromEntries(R"({"type":"dir","name":"a\ufffdb"})").ok());
  // Two links that refer to each other.
  EXPECT_FALSE(FromEntries(R"({"type":"hardlink","name":"a","linkName":"b"},)"
                           R"({"type":"hardlink","name":"b","linkName":"a"})")
                   .ok());
  // A path through a loop of symbolic links.
  EXPECT_FALSE(FromEntries(R"({"type":"symlink","name":"a","linkName":"b"},)"
                           R"({"type":"symlink","name":"b","linkName":"a"},)"
                           R"({"type":"dir","name":"a/x"})")
                   .ok());
}

TEST(TocTest, OfSeveralXattrsTheLastCounts) {
  const auto table = FromEntries(
      R"({"type":"dir","name":"d","xattrs":{"user.a":"MQ==","user.b":"Mg==","user.a":"Mw=="}})");
  ASSERT_TRUE(table.ok()) << table.status();
  const Tree& tree = table->layer.tree;
  const auto xattrs = tree.Xattrs(tree.dirent(tree.Find(Tree::kRoot, "d")).inode);
  ASSERT_EQ(xattrs.size(), 2u);
  EXPECT_EQ(xattrs[0].value, "3");
}

TEST(TocTest, LyingDocuments) {
  Descriptor blob;
  blob.size = 1200;
  const auto build = [&](std::string_view json) {
    return BuildFromToc(Place(TocKind::kEstargz), json, std::nullopt, blob, Digest())
        .status()
        .code();
  };
  EXPECT_EQ(build(R"({"version":1,"entries":[]})"), absl::StatusCode::kOk);
  EXPECT_EQ(build(R"({"entries":[],"version":1,"x":{"entries":[7]}})"), absl::StatusCode::kOk);
  EXPECT_EQ(build(R"({"version":2,"entries":[]})"), absl::StatusCode::kUnimplemented);
  for (const std::string_view bad :
       {"", "[]", "7", "{}", R"({"version":1})", R"({"version":1,"entries":{}})",
        R"({"version":1,"entries":7})", R"({"version":1,"entries":[7]})",
        R"({"version":1,"entries":[null]})", R"({"version":1,"entries":["x"]})",
        R"({"version":1,"entries":[[]]})", R"({"version":1,"entries":[],"entries":[]})",
        R"({"version":1,"entries":[]} x)", R"({"version":1,"entries":[)",
        R"({"version":1,"entries":[{"name":{"a":1}}]})"}) {
    EXPECT_NE(build(bad), absl::StatusCode::kOk) << bad;
  }
  TocLocation nowhere = Place(TocKind::kEstargz);
  nowhere.range = {};
  const std::string empty = R"({"version":1,"entries":[]})";
  EXPECT_FALSE(BuildFromToc(nowhere, empty, std::nullopt, blob, Digest()).ok());
  nowhere.range = {1100, 1201};
  EXPECT_FALSE(BuildFromToc(nowhere, empty, std::nullopt, blob, Digest()).ok());
}

TEST(TocTest, EveryTruncationIsAnError) {
  const TocWriter::Blob blob = Write({.chunk_size = 50'000});
  std::optional<TocLocation> location = FindToc(blob.descriptor);
  ASSERT_TRUE(location.has_value());
  location->range = {blob.bytes.size() - 100, blob.bytes.size()};
  for (size_t size = 0; size < blob.json.size(); ++size) {
    ASSERT_FALSE(
        BuildFromToc(*location, blob.json.substr(0, size), std::nullopt, blob.descriptor, Digest())
            .ok());
  }
  EXPECT_TRUE(BuildFromToc(*location, blob.json, std::nullopt, blob.descriptor, Digest()).ok());
}

TEST(TocTest, ALongTable) {
  std::string entries;
  const std::string digest = SomeDigest();
  constexpr int kEntries = 100'000;
  for (int i = 0; i < kEntries; ++i) {
    StrAppend(&entries, i == 0 ? "" : ",", R"({"type":"reg","name":"usr/share/doc/)", i % 1000, "/",
              i, R"(","mode":420,"size":1000,"modtime":"2024-01-02T03:04:05Z","digest":")", digest,
              R"(","offset":)", i * 100, R"(,"endOffset":)", i * 100 + 90, "}");
  }
  TocLocation location;
  location.kind = TocKind::kZstdChunked;
  location.range = {kEntries * 100, kEntries * 100 + 10};
  Descriptor blob;
  blob.size = location.range.end;
  const auto table = BuildFromToc(location, StrCat("{\"version\":1,\"entries\":[", entries, "]}"),
                                  std::nullopt, blob, Digest());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->span_table.spans.size(), size_t{kEntries});
  EXPECT_EQ(BrokenRule(*table), "");
}

}  // namespace
}  // namespace imagefs
