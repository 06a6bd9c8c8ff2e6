// SPDX-License-Identifier: Apache-2.0
#include "image/ztoc.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "image/soci.h"
#include "tests/fakes/image/table_samples.h"
#include "tests/fakes/image/tar_writer.h"
#include "tests/fakes/image/ztoc_writer.h"

namespace imagefs {
namespace {

constexpr int64_t kSpan = 20'000;

std::string SampleTar() {
  TocWriter writer({});
  for (const TocWriter::Entry& entry : SampleEntries()) writer.Add(entry);
  return writer.Finish().tar;
}

Descriptor BlobOf(std::string_view bytes) {
  Descriptor blob;
  blob.digest = Sha256Of(bytes);
  blob.size = bytes.size();
  return blob;
}

// A valid layer, whose zTOC the tests modify.
struct Sample {
  std::string tar = SampleTar();
  std::string blob = GzipMember(tar);
  ZtocContent content = ZtocOf(tar, blob, kSpan);

  absl::StatusOr<TableLayer> Build(std::string_view ztoc) const {
    return BuildFromZtoc(ztoc, BlobOf(blob), Sha256Of(tar));
  }
};

TEST(ZtocTest, SameAsAFullPass) {
  const Sample sample;
  const auto table = sample.Build(sample.content.Write());
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_GT(table->span_table.spans.size(), 5u);
  EXPECT_EQ(TableText(*table, sample.blob), TarText(sample.tar));
  EXPECT_EQ(DataFileOf(table->span_table, sample.blob)->substr(0, sample.tar.size()), sample.tar);
  EXPECT_EQ(table->span_table.layout, DataLayout::kTar);
  EXPECT_EQ(table->span_table.tar_bytes, sample.tar.size());
  EXPECT_EQ(table->span_table.blob_digest, Sha256Of(sample.blob));
  EXPECT_EQ(table->span_table.diff_id, Sha256Of(sample.tar));
  bool any_bit = false;
  for (const SpanEntry& span : table->span_table.spans) {
    EXPECT_EQ(span.codec, SpanCodec::kDeflate);
    EXPECT_EQ(span.digest_of, SpanDigest::kOfBlob);
    any_bit = any_bit || span.bit > 0;
  }
  EXPECT_TRUE(any_bit) << "the sample has no point inside of a byte";
  EXPECT_EQ(table->span_table.spans[0].window_bytes, 0u);
}

TEST(ZtocTest, Version1LeavesTheFirstPointOut) {
  const Sample sample;
  const auto table = sample.Build(sample.content.Write(true));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(TableText(*table, sample.blob), TarText(sample.tar));
}

TEST(ZtocTest, HeadersWithOptionsAndSeveralMembers) {
  const std::string tar = SampleTar();
  const size_t third = tar.size() / 3;
  const std::string blob = GzipMember(tar.substr(0, third), "extra field") +
                           GzipMember(tar.substr(third, 100)) + GzipMember(tar.substr(third + 100));
  const ZtocContent content = ZtocOf(tar, blob, kSpan);
  ASSERT_GT(content.points[0].blob, 10);
  const auto table = BuildFromZtoc(content.Write(), BlobOf(blob), Digest());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(TableText(*table, blob), TarText(tar));
}

TEST(ZtocTest, Uncompressed) {
  const std::string tar = SampleTar();
  ZtocContent content = ZtocOf(tar, tar, kSpan);
  content.tar_size -= 512;  // the builder stops reading at the end of the archive
  const auto table = BuildFromZtoc(content.Write(), BlobOf(tar), Digest());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(TableText(*table, tar), TarText(tar));
  EXPECT_EQ(table->span_table.tar_bytes, tar.size());
  EXPECT_EQ(table->span_table.spans[0].codec, SpanCodec::kStored);
  const std::pair<std::string, std::function<void(ZtocContent&)>> lies[] = {
      {"another size", [](ZtocContent& z) { ++z.blob_size; }},
      {"a larger tar", [](ZtocContent& z) { z.tar_size = z.blob_size + 1; }},
      {"no span size", [](ZtocContent& z) { z.span_size = 0; }},
      {"a negative one", [](ZtocContent& z) { z.span_size = -1; }},
      {"fewer spans", [](ZtocContent& z) { z.span_size *= 2; }},
      {"more spans", [](ZtocContent& z) { z.span_size /= 2; }},
  };
  for (const auto& [what, change] : lies) {
    ZtocContent changed = content;
    change(changed);
    EXPECT_FALSE(BuildFromZtoc(changed.Write(), BlobOf(tar), Digest()).ok()) << what;
  }
  EXPECT_FALSE(BuildFromZtoc(content.WriteWithPoints(""), BlobOf(tar), Digest()).ok());
  EXPECT_FALSE(
      BuildFromZtoc(content.WriteWithPoints(std::string(40, '\x7f')), BlobOf(tar), Digest()).ok());
}

TEST(ZtocTest, UnalignedBytes) {
  const Sample sample;
  const std::string bytes = sample.content.Write();
  for (size_t shift = 0; shift < 8; ++shift) {
    const std::string moved = std::string(shift, 'x') + bytes;
    EXPECT_TRUE(sample.Build(std::string_view(moved).substr(shift)).ok()) << shift;
  }
}

TEST(ZtocTest, PaddingBehindTheArchive) {
  Sample sample;
  sample.blob = GzipMember(sample.tar + std::string(200'000, '\0'));
  sample.content = ZtocOf(sample.tar + std::string(200'000, '\0'), sample.blob, kSpan);
  sample.content.tar_size = static_cast<int64_t>(sample.tar.size());
  const auto table = sample.Build(sample.content.Write());
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->span_table.tar_bytes, sample.tar.size());
  EXPECT_EQ(TableText(*table, sample.blob), TarText(sample.tar));
}

TEST(ZtocTest, LyingPoints) {
  const Sample sample;
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const std::pair<std::string, std::function<void(ZtocContent&)>> lies[] = {
      {"size of the blob", [](ZtocContent& z) { ++z.blob_size; }},
      {"negative size", [](ZtocContent& z) { z.blob_size = -1; }},
      {"no tar", [](ZtocContent& z) { z.tar_size = 0; }},
      {"negative tar", [](ZtocContent& z) { z.tar_size = -1; }},
      {"huge tar", [](ZtocContent& z) { z.tar_size = kHuge; }},
      {"last span", [](ZtocContent& z) { ++z.last; }},
      {"negative last span", [](ZtocContent& z) { z.last = -1; }},
      {"a digest too few", [](ZtocContent& z) { z.digests.pop_back(), --z.last; }},
      {"no digests", [](ZtocContent& z) { z.digests.clear(), z.last = -1; }},
      {"a bad digest", [](ZtocContent& z) { z.digests[1] = "sha256:"; }},
      {"a point too many", [](ZtocContent& z) { z.points.push_back(z.points.back()); }},
      {"first not at 0", [](ZtocContent& z) { z.points[0].tar = 1; }},
      {"first before the blob", [](ZtocContent& z) { z.points[0].blob = 0; }},
      {"order in the tar", [](ZtocContent& z) { std::swap(z.points[1].tar, z.points[2].tar); }},
      {"order in the blob", [](ZtocContent& z) { std::swap(z.points[1].blob, z.points[2].blob); }},
      {"equal in the tar", [](ZtocContent& z) { z.points[2].tar = z.points[1].tar; }},
      {"equal in the blob", [](ZtocContent& z) { z.points[2].blob = z.points[1].blob; }},
      {"zero in the tar", [](ZtocContent& z) { z.points[1].tar = 0; }},
      {"negative in the tar", [](ZtocContent& z) { z.points[1].tar = -1; }},
      {"negative in the blob", [](ZtocContent& z) { z.points[1].blob = -1; }},
      {"last outside of the blob", [](ZtocContent& z) { z.points.back().blob = z.blob_size; }},
      {"huge in the blob", [](ZtocContent& z) { z.points.back().blob = kHuge; }},
      {"eight bits", [](ZtocContent& z) { z.points[1].bits = 8; }},
      {"255 bits", [](ZtocContent& z) { z.points[1].bits = 255; }},
      {"compression 0", [](ZtocContent& z) { z.compression = 0; }},
      {"compression 3", [](ZtocContent& z) { z.compression = 3; }},
      {"compression -1", [](ZtocContent& z) { z.compression = -1; }},
      {"compression none", [](ZtocContent& z) { z.compression = 2; }},
  };
  for (const auto& [what, change] : lies) {
    ZtocContent changed = sample.content;
    change(changed);
    EXPECT_FALSE(sample.Build(changed.Write()).ok()) << what;
  }
  const std::string packed = sample.content.PackedPoints();
  for (const size_t size : {size_t{0}, size_t{4}, size_t{12}, packed.size() - 1}) {
    EXPECT_FALSE(sample.Build(sample.content.WriteWithPoints(packed.substr(0, size))).ok());
  }
  EXPECT_FALSE(sample.Build(sample.content.WriteWithPoints(packed + "x")).ok());
  EXPECT_FALSE(
      sample.Build(sample.content.WriteWithPoints("\xff\xff\xff\xff" + packed.substr(4))).ok());
}

TEST(ZtocTest, ChangedBytesOfTheBlobAreSeen) {
  Sample sample;
  const auto table = sample.Build(sample.content.Write());
  ASSERT_TRUE(table.ok()) << table.status();
  for (const SpanEntry& span : table->span_table.spans) {
    std::string blob = sample.blob;
    blob[span.blob_begin + span.blob_bytes / 2] ^= 1;
    EXPECT_EQ(DataFileOf(table->span_table, blob).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(ZtocTest, SpansTooLargeToReadAtOnce) {
  const Sample sample;
  ZtocContent content = sample.content;
  content.points.resize(1);
  content.digests.resize(1);
  content.last = 0;
  content.tar_size = int64_t{kMaxSpanDataBytes} + 1;
  EXPECT_EQ(sample.Build(content.Write()).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ZtocTest, LyingEntries) {
  const Sample sample;
  using File = ZtocContent::File;
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const auto changed = [&](const std::function<void(File&)>& change) {
    ZtocContent content = sample.content;
    for (File& file : content.files) {
      if (file.name == "etc/hosts") change(file);
    }
    return sample.Build(content.Write()).status();
  };
  EXPECT_TRUE(changed([](File&) {}).ok());
  EXPECT_FALSE(changed([](File& f) { f.offset = -512; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.offset += 1; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.offset = int64_t{1} << 62; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.size = kHuge; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.size = -1; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.type = "chunk"; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.type = ""; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.name = "../hosts"; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.mtime = "soon"; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.type = "hardlink", f.link = "absent"; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.type = "char", f.major = -1; }).ok());
  EXPECT_EQ(changed([](File& f) {
              f.records = {{"GNU.sparse.major", "1"}};
            }).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(changed([](File& f) { f.records = {{"mtime", "1.5"}, {"comment", "x"}}; }).ok());
  EXPECT_FALSE(changed([](File& f) { f.records = {{"SCHILY.xattr.", "x"}}; }).ok());
}

TEST(ZtocTest, EntriesThatShareALongText) {
  const Sample sample;
  ZtocContent content = sample.content;
  for (int i = 0; i < 2000; ++i) {
    content.files.push_back(
        {.name = StrCat("link", i), .type = "symlink", .link = std::string(4000, 'x')});
  }
  EXPECT_TRUE(sample.Build(content.Write()).ok());
  content.share_texts = true;
  EXPECT_FALSE(sample.Build(content.Write()).ok());
}

TEST(ZtocTest, EveryTruncationIsAnErrorOrTheSame) {
  Sample sample;
  sample.tar = TarWriter().File("a", "1").Dir("b").End().bytes();
  sample.blob = GzipMember(sample.tar);
  const std::string bytes = ZtocOf(sample.tar, sample.blob, kSpan).Write(true);
  ASSERT_TRUE(sample.Build(bytes).ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto table = sample.Build(std::string_view(bytes).substr(0, size));
    if (table.ok()) {
      EXPECT_EQ(TableText(*table, sample.blob), TarText(sample.tar)) << size;
    }
  }
  // With any single byte changed, the result is an error or follows the rules.
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x81);
    const auto table = sample.Build(changed);
    if (table.ok()) {
      EXPECT_EQ(BrokenRule(*table), "") << i;
    }
  }
}

// ---- The index ----

std::string IndexJson(std::string_view type, std::string_view layers) {
  return StrCat(R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",)",
                R"("config":{"mediaType":")", type, R"(","digest":")", Sha256Of("{}").ToString(),
                R"(","size":2},"layers":[)", layers, "]}");
}

std::string IndexLayer(std::string_view layer, std::string_view ztoc,
                       std::string_view type = "application/octet-stream") {
  return StrCat(R"({"mediaType":")", type, R"(","digest":")", Sha256Of(ztoc).ToString(),
                R"(","size":100,"annotations":{"com.amazon.soci.image-layer-mediaType":)",
                R"("application/vnd.oci.image.layer.v1.tar+gzip",)",
                R"("com.amazon.soci.image-layer-digest":")", Sha256Of(layer).ToString(), "\"}}");
}

TEST(SociTest, IndexOfBothVersions) {
  for (const std::string_view type : kSociIndexTypes) {
    const auto index = ParseSociIndex(
        IndexJson(type, IndexLayer("l1", "z1") + "," + IndexLayer("l2", "z2") + "," +
                            IndexLayer("l1", "p", "application/vnd.amazon.soci.prefetch.v1+json")));
    ASSERT_TRUE(index.ok()) << index.status();
    ASSERT_EQ(index->size(), 2u);
    EXPECT_EQ(index->at(Sha256Of("l1")).digest, Sha256Of("z1"));
    EXPECT_EQ(index->at(Sha256Of("l2")).digest, Sha256Of("z2"));
    EXPECT_EQ(index->at(Sha256Of("l2")).size, 100u);
  }
}

TEST(SociTest, TypeAsArtifactType) {
  std::string json = IndexJson("application/vnd.oci.empty.v1+json", IndexLayer("l", "z"));
  EXPECT_FALSE(ParseSociIndex(json).ok());
  json.insert(1, StrCat(R"("artifactType":")", kSociIndexTypes[0], "\","));
  const auto index = ParseSociIndex(json);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->size(), 1u);
}

TEST(SociTest, BadIndexes) {
  const std::string_view type = kSociIndexTypes[0];
  EXPECT_TRUE(ParseSociIndex(IndexJson(type, "")).ok());
  EXPECT_TRUE(
      ParseSociIndex(IndexJson(type, IndexLayer("l", "z") + "," + IndexLayer("l", "z"))).ok());
  EXPECT_FALSE(
      ParseSociIndex(IndexJson(type, IndexLayer("l", "z") + "," + IndexLayer("l", "y"))).ok());
  EXPECT_FALSE(ParseSociIndex("").ok());
  EXPECT_FALSE(ParseSociIndex("{}").ok());
  std::string bad = IndexJson(type, IndexLayer("l", "z"));
  bad.replace(bad.find(Sha256Of("l").hex()), 64, "nothing");
  EXPECT_FALSE(ParseSociIndex(bad).ok());
}

TEST(SociTest, IndexThatAManifestNames) {
  Manifest manifest;
  EXPECT_EQ(SociIndexOf(manifest), std::nullopt);
  manifest.annotations["com.amazon.soci.index-digest"] = "sha256:no";
  EXPECT_EQ(SociIndexOf(manifest), std::nullopt);
  manifest.annotations["com.amazon.soci.index-digest"] = Sha256Of("i").ToString();
  EXPECT_EQ(SociIndexOf(manifest), Sha256Of("i"));
}

}  // namespace
}  // namespace imagefs
