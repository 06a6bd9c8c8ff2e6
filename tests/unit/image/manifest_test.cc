// SPDX-License-Identifier: Apache-2.0
#include "image/manifest.h"

#include <string>
#include <vector>

#include "base/text.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

constexpr char kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kOciIndex[] = "application/vnd.oci.image.index.v1+json";
constexpr char kDockerManifest[] = "application/vnd.docker.distribution.manifest.v2+json";
constexpr char kDockerList[] = "application/vnd.docker.distribution.manifest.list.v2+json";
constexpr char kOciLayer[] = "application/vnd.oci.image.layer.v1.tar+gzip";
constexpr char kOciConfig[] = "application/vnd.oci.image.config.v1+json";

std::string Hex(char c) { return "sha256:" + std::string(64, c); }

std::string DescriptorJson(const std::string& type, const std::string& digest, uint64_t size,
                           const std::string& more = "") {
  return StrCat("{\"mediaType\":\"", type, "\",\"digest\":\"", digest, "\",\"size\":", size, more,
                "}");
}

std::string ManifestJson(const std::vector<std::string>& layers, const std::string& config,
                         const std::string& more = "") {
  std::string list;
  for (const std::string& layer : layers) StrAppend(&list, list.empty() ? "" : ",", layer);
  return StrCat("{\"schemaVersion\":2,", more, "\"config\":", config, ",\"layers\":[", list, "]}");
}

std::string SimpleManifest(const std::string& more = "") {
  return ManifestJson({DescriptorJson(kOciLayer, Hex('1'), 100)},
                      DescriptorJson(kOciConfig, Hex('2'), 10), more);
}

std::string IndexJson(const std::vector<std::string>& manifests, const std::string& more = "") {
  std::string list;
  for (const std::string& entry : manifests) StrAppend(&list, list.empty() ? "" : ",", entry);
  return StrCat("{\"schemaVersion\":2,", more, "\"manifests\":[", list, "]}");
}

std::string ForPlatform(char digest, const std::string& os, const std::string& architecture,
                        const std::string& variant = "") {
  return DescriptorJson(kOciManifest, Hex(digest), 500,
                        StrCat(",\"platform\":{\"os\":\"", os, "\",\"architecture\":\"",
                               architecture, "\",\"variant\":\"", variant, "\"}"));
}

bool Contains(const absl::Status& status, const std::string& part) {
  return std::string(status.message()).find(part) != std::string::npos;
}

absl::Status ParseError(const std::string& text, const std::string& type = "") {
  absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(text, type);
  EXPECT_FALSE(parsed.ok()) << text;
  return parsed.status();
}

Platform P(const std::string& text) {
  absl::StatusOr<Platform> platform = Platform::Parse(text);
  EXPECT_TRUE(platform.ok()) << platform.status();
  return platform.ok() ? *platform : Platform();
}

// ---- Platform ----

TEST(PlatformTest, ParseAndToString) {
  EXPECT_EQ(P("linux/amd64").ToString(), "linux/amd64");
  EXPECT_EQ(P("linux/arm64/v8").ToString(), "linux/arm64/v8");
  EXPECT_EQ(P("Linux/x86_64").ToString(), "linux/amd64");
  EXPECT_EQ(P("linux/aarch64").ToString(), "linux/arm64");
  for (const char* text :
       {"", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "a//b"}) {
    EXPECT_EQ(Platform::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(PlatformTest, HostIsKnown) {
  EXPECT_EQ(Platform::Host().os, "linux");
  EXPECT_NE(Platform::Host().architecture, "");
  EXPECT_NE(Platform::Host().architecture, "x86_64") << "the names of images, not of the kernel";
}

// ---- Layer types ----

TEST(LayerTypeTest, Known) {
  const struct {
    const char* type;
    LayerCompression compression;
  } cases[] = {
      {"application/vnd.oci.image.layer.v1.tar", LayerCompression::kNone},
      {"application/vnd.oci.image.layer.v1.tar+gzip", LayerCompression::kGzip},
      {"application/vnd.oci.image.layer.v1.tar+zstd", LayerCompression::kZstd},
      {"application/vnd.oci.image.layer.nondistributable.v1.tar", LayerCompression::kNone},
      {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LayerCompression::kGzip},
      {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", LayerCompression::kZstd},
      {"application/vnd.docker.image.rootfs.diff.tar", LayerCompression::kNone},
      {"application/vnd.docker.image.rootfs.diff.tar.gzip", LayerCompression::kGzip},
      {"application/vnd.docker.image.rootfs.diff.tar.zstd", LayerCompression::kZstd},
      {"application/vnd.docker.image.rootfs.foreign.diff.tar", LayerCompression::kNone},
      {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LayerCompression::kGzip},
  };
  for (const auto& c : cases) {
    absl::StatusOr<LayerCompression> got = CompressionOfMediaType(c.type);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, c.compression) << c.type;
  }
}

TEST(LayerTypeTest, Refused) {
  EXPECT_TRUE(Contains(
      CompressionOfMediaType("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").status(),
      "encrypted"));
  EXPECT_TRUE(Contains(CompressionOfMediaType("application/vnd.oci.image.layer.v1.tar+xz").status(),
                       "compression"));
  EXPECT_TRUE(Contains(CompressionOfMediaType("text/plain").status(), "not a file-system layer"));
  EXPECT_FALSE(CompressionOfMediaType("").ok());
  EXPECT_FALSE(CompressionOfMediaType("application/vnd.oci.image.layer.v1.tarx").ok());
}

// ---- Manifests ----

TEST(ManifestTest, Oci) {
  const std::string text = ManifestJson(
      {DescriptorJson(kOciLayer, Hex('1'), 100, ",\"annotations\":{\"k\":\"v\",\"n\":7}"),
       DescriptorJson(kOciLayer, Hex('3'), 0)},
      DescriptorJson(kOciConfig, Hex('2'), 10),
      StrCat("\"mediaType\":\"", kOciManifest, "\",\"annotations\":{\"a\":\"b\"},"));
  absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(text, kOciManifest);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_TRUE(parsed->manifest.has_value());
  EXPECT_FALSE(parsed->index.has_value());
  const Manifest& manifest = *parsed->manifest;
  EXPECT_EQ(manifest.media_type, kOciManifest);
  EXPECT_EQ(manifest.config.digest.ToString(), Hex('2'));
  EXPECT_EQ(manifest.config.size, 10u);
  ASSERT_EQ(manifest.layers.size(), 2u);
  EXPECT_EQ(manifest.layers[0].digest.ToString(), Hex('1'));
  EXPECT_EQ(manifest.layers[0].media_type, kOciLayer);
  EXPECT_EQ(manifest.layers[0].annotations.at("k"), "v");
  EXPECT_EQ(manifest.layers[0].annotations.count("n"), 0u);
  EXPECT_EQ(manifest.layers[1].size, 0u);
  EXPECT_EQ(manifest.annotations.at("a"), "b");
}

TEST(ManifestTest, UrlsOfALayerAreKeptInOrderAndBounded) {
  const auto urls = [](const std::string& json) {
    const auto parsed = ParseManifest(
        ManifestJson({DescriptorJson(kOciLayer, Hex('1'), 100, StrCat(",\"urls\":", json))},
                     DescriptorJson(kOciConfig, Hex('2'), 10)),
        "");
    return parsed.ok() ? parsed->manifest->layers[0].urls : std::vector<std::string>{"refused"};
  };
  EXPECT_EQ(urls("[\"https://b/1\",7,null,\"a\"]"), (std::vector<std::string>{"https://b/1", "a"}));
  for (const char* none : {"null", "[]", "{}", "\"https://a\""}) EXPECT_TRUE(urls(none).empty());
  std::string many = "[\"u\"";
  for (int i = 0; i < 1000; ++i) many += ",\"u\"";
  EXPECT_EQ(urls(many + "]").size(), kMaxUrls);
}

TEST(ManifestTest, Artifact) {
  const std::string subject =
      StrCat("\"subject\":", DescriptorJson(kOciManifest, Hex('3'), 77), ",");
  const auto parsed =
      ParseManifest(ManifestJson({DescriptorJson("application/x.data", Hex('1'), 100,
                                                 ",\"annotations\":{\"part\":\"7\"}")},
                                 DescriptorJson("application/vnd.oci.empty.v1+json", Hex('2'), 2),
                                 StrCat("\"artifactType\":\"application/x\",", subject)),
                    kOciManifest);
  ASSERT_TRUE(parsed.ok() && parsed->manifest) << parsed.status();
  EXPECT_EQ(parsed->manifest->artifact_type, "application/x");
  ASSERT_TRUE(parsed->manifest->subject.has_value());
  EXPECT_EQ(parsed->manifest->subject->digest.ToString(), Hex('3'));
  EXPECT_EQ(parsed->manifest->subject->size, 77u);
  EXPECT_EQ(parsed->manifest->layers.at(0).media_type, "application/x.data");
  EXPECT_EQ(parsed->manifest->layers.at(0).annotations.at("part"), "7");
}

TEST(ManifestTest, ASubjectThatIsNoDescriptorIsAbsent) {
  EXPECT_FALSE(ParseManifest(SimpleManifest(), "")->manifest->subject.has_value());
  for (const char* subject : {"null", "7", "{}", "{\"mediaType\":\"x\",\"digest\":\"sha512:0\"}"}) {
    const auto parsed = ParseManifest(SimpleManifest(StrCat("\"subject\":", subject, ",")), "");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->manifest->subject.has_value()) << subject;
  }
}

TEST(ManifestTest, TypeComesFromHeaderFieldOrShape) {
  const auto type = [](const std::string& text, const std::string& content_type) {
    absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(text, content_type);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (!parsed.ok()) return std::string();
    return parsed->manifest ? parsed->manifest->media_type : parsed->index->media_type;
  };
  const std::string docker = StrCat("\"mediaType\":\"", kDockerManifest, "\",");
  EXPECT_EQ(type(SimpleManifest(docker), ""), kDockerManifest);
  EXPECT_EQ(type(SimpleManifest(docker), "application/json"), kDockerManifest);
  EXPECT_EQ(type(SimpleManifest(docker), kDockerManifest), kDockerManifest);
  EXPECT_EQ(type(SimpleManifest(), kDockerManifest), kDockerManifest);
  EXPECT_EQ(type(SimpleManifest(), ""), kOciManifest);
  EXPECT_EQ(type(IndexJson({}), ""), kOciIndex);
  EXPECT_EQ(type(IndexJson({}), kDockerList), kDockerList);
  // Docker and OCI types of the same kind: the document's type wins.
  EXPECT_EQ(type(SimpleManifest(docker), kOciManifest), kDockerManifest);
  const std::string index = StrCat("{\"mediaType\":\"", kOciIndex, "\",\"manifests\":[]}");
  EXPECT_EQ(type(index, kDockerList), kOciIndex);
}

TEST(ManifestTest, NullIsAnEmptyListOfManifests) {
  for (const char* text : {"{\"schemaVersion\":2,\"manifests\":null}", "{\"manifests\":[]}"}) {
    const absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(text, "");
    ASSERT_TRUE(parsed.ok() && parsed->index) << parsed.status();
    EXPECT_TRUE(parsed->index->manifests.empty());
  }
  EXPECT_TRUE(ParseManifest(SimpleManifest("\"manifests\":null,"), "").ok());
  EXPECT_FALSE(ParseManifest("{\"manifests\":7}", "").ok());
}

TEST(ManifestTest, WhatIsNoImage) {
  Descriptor descriptor;
  descriptor.media_type = std::string(kOciManifest);
  EXPECT_TRUE(MayBeImage(descriptor));
  for (const char* kind : {"sigs", "atts", "sboms"}) {
    descriptor.annotations["kind"] = StrCat("dev.cosignproject.cosign/", kind);
    EXPECT_FALSE(MayBeImage(descriptor)) << kind;
  }
  for (const char* kind :
       {"dev.cosignproject.cosign/image", "dev.cosignproject.cosign/imageIndex", "something"}) {
    descriptor.annotations["kind"] = kind;
    EXPECT_TRUE(MayBeImage(descriptor)) << kind;
  }
  descriptor.artifact_type = "application/spdx+json";
  EXPECT_FALSE(MayBeImage(descriptor));

  Manifest manifest;
  manifest.config.media_type = "application/vnd.oci.image.config.v1+json";
  manifest.layers.emplace_back().media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
  EXPECT_TRUE(MayBeImage(manifest));
  manifest.layers.emplace_back().media_type = "application/vnd.dev.cosign.simplesigning.v1+json";
  EXPECT_FALSE(MayBeImage(manifest));
  manifest.layers.pop_back();
  manifest.config.media_type = "application/vnd.oci.empty.v1+json";
  EXPECT_FALSE(MayBeImage(manifest));
}

TEST(ManifestTest, ConfusingDocumentsAreRefused) {
  const std::string docker = StrCat("\"mediaType\":\"", kDockerManifest, "\",");
  EXPECT_TRUE(Contains(ParseError(SimpleManifest(docker), kDockerList), "it was announced as"));
  EXPECT_TRUE(Contains(ParseError(SimpleManifest(docker), kOciIndex), "it was announced as"));
  const std::string index = StrCat("{\"mediaType\":\"", kOciIndex, "\",\"manifests\":[]}");
  EXPECT_TRUE(Contains(ParseError(index, kOciManifest), "it was announced as"));
  EXPECT_TRUE(Contains(ParseError(index, kDockerManifest), "it was announced as"));
  EXPECT_FALSE(ParseManifest(SimpleManifest("\"mediaType\":\"text/x\","), kOciManifest).ok());
  EXPECT_FALSE(ParseManifest(SimpleManifest(), kOciIndex).ok());
  EXPECT_FALSE(ParseManifest(IndexJson({}), kOciManifest).ok());
  EXPECT_FALSE(ParseManifest(SimpleManifest("\"manifests\":[],"), "").ok());
  EXPECT_FALSE(ParseManifest(SimpleManifest("\"manifests\":[],"), kOciManifest).ok());
  EXPECT_TRUE(Contains(ParseError(SimpleManifest(), "text/html"), "text/html"));
  EXPECT_TRUE(Contains(ParseError(SimpleManifest("\"mediaType\":\"text/x\","), ""), "text/x"));
  EXPECT_FALSE(ParseManifest("{\"schemaVersion\":2}", "").ok());
  EXPECT_FALSE(ParseManifest("{\"schemaVersion\":2}", kOciManifest).ok());
}

TEST(ManifestTest, Schema1IsRefusedWithARemedy) {
  for (const char* text :
       {"{\"schemaVersion\":1,\"fsLayers\":[]}", "{\"fsLayers\":[]}", "{\"schemaVersion\":1}"}) {
    EXPECT_TRUE(Contains(ParseError(text), "push the image again")) << text;
  }
  EXPECT_TRUE(Contains(
      ParseError("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"));
  EXPECT_FALSE(ParseManifest("{\"schemaVersion\":3,\"manifests\":[]}", "").ok());
}

TEST(ManifestTest, GarbageIsRefused) {
  for (const char* text : {"", "[]", "null", "7", "<html>", "{\"a\":", "\xff\xfe"}) {
    EXPECT_EQ(ParseError(text).code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_TRUE(Contains(ParseError(std::string(kMaxManifestBytes + 1, ' ')), "at most"));
}

TEST(ManifestTest, BadDescriptorsAreRefusedByPlace) {
  const auto with_layer = [](const std::string& layer) {
    return ManifestJson({DescriptorJson(kOciLayer, Hex('1'), 1), layer},
                        DescriptorJson(kOciConfig, Hex('2'), 10));
  };
  for (const std::string& layer :
       {std::string("7"), std::string("{}"), StrCat("{\"mediaType\":\"x\",\"size\":1}"),
        StrCat("{\"mediaType\":\"x\",\"digest\":\"", Hex('1'), "\"}"),
        StrCat("{\"mediaType\":\"x\",\"size\":-1,\"digest\":\"", Hex('1'), "\"}"),
        StrCat("{\"mediaType\":\"x\",\"size\":1.5,\"digest\":\"", Hex('1'), "\"}"),
        StrCat("{\"mediaType\":\"x\",\"size\":\"1\",\"digest\":\"", Hex('1'), "\"}"),
        StrCat("{\"mediaType\":\"x\",\"size\":18446744073709551615,\"digest\":\"", Hex('1'), "\"}"),
        StrCat("{\"mediaType\":\"x\",\"size\":9223372036854775807,\"digest\":\"", Hex('1'), "\"}"),
        DescriptorJson("", Hex('1'), 1), DescriptorJson(kOciLayer, "sha256:../../etc/passwd", 1),
        DescriptorJson(kOciLayer, Hex('A'), 1), DescriptorJson(kOciLayer, "", 1)}) {
    EXPECT_TRUE(Contains(ParseError(with_layer(layer)), "layer 2")) << layer;
  }
  EXPECT_TRUE(Contains(ParseError("{\"layers\":[]}"), "config"));
  EXPECT_FALSE(
      ParseManifest(StrCat("{\"config\":", DescriptorJson(kOciConfig, Hex('2'), 1), "}"), "").ok());
}

TEST(ManifestTest, NumberOfLayersIsBounded) {
  const std::string layer = DescriptorJson(kOciLayer, Hex('1'), 1);
  const std::string config = DescriptorJson(kOciConfig, Hex('2'), 10);
  EXPECT_TRUE(
      ParseManifest(ManifestJson(std::vector<std::string>(kMaxLayers, layer), config), "").ok());
  EXPECT_FALSE(
      ParseManifest(ManifestJson(std::vector<std::string>(kMaxLayers + 1, layer), config), "")
          .ok());
}

// ---- Platform choice ----

std::string Choose(const std::vector<std::string>& entries, const std::string& want) {
  absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(IndexJson(entries), "");
  if (!parsed.ok()) return std::string(parsed.status().message());
  absl::StatusOr<Descriptor> chosen = ChoosePlatform(*parsed->index, P(want));
  if (!chosen.ok()) return std::string(chosen.status().message());
  return chosen->digest.hex().substr(0, 1);
}

TEST(ChoosePlatformTest, Exact) {
  const std::vector<std::string> entries = {
      ForPlatform('1', "linux", "386"), ForPlatform('2', "linux", "amd64"),
      ForPlatform('3', "windows", "amd64"), ForPlatform('4', "linux", "arm64", "v8")};
  EXPECT_EQ(Choose(entries, "linux/amd64"), "2");
  EXPECT_EQ(Choose(entries, "linux/386"), "1");
  EXPECT_EQ(Choose(entries, "windows/amd64"), "3");
  EXPECT_EQ(Choose(entries, "linux/arm64"), "4") << "arm64 means v8";
  EXPECT_EQ(Choose(entries, "linux/arm64/v8"), "4");
  EXPECT_EQ(Choose(entries, "linux/s390x"),
            "there is no image for linux/s390x; choose one with --platform: linux/386, "
            "linux/amd64, linux/arm64/v8, windows/amd64");
}

TEST(ChoosePlatformTest, VariantsFallBack) {
  const std::vector<std::string> arm = {ForPlatform('5', "linux", "arm", "v5"),
                                        ForPlatform('6', "linux", "arm", "v6"),
                                        ForPlatform('7', "linux", "arm", "v7")};
  EXPECT_EQ(Choose(arm, "linux/arm"), "7") << "arm means v7";
  EXPECT_EQ(Choose(arm, "linux/arm/v7"), "7");
  EXPECT_EQ(Choose(arm, "linux/arm/v8"), "7");
  EXPECT_EQ(Choose(arm, "linux/arm/v6"), "6");
  EXPECT_EQ(Choose(arm, "linux/arm/6"), "6");
  EXPECT_EQ(Choose({arm[0]}, "linux/arm/v7"), "5");
  EXPECT_NE(Choose({arm[2]}, "linux/arm/v6").find("no image"), std::string::npos);

  const std::vector<std::string> amd = {
      ForPlatform('3', "linux", "amd64", "v3"), ForPlatform('1', "linux", "amd64"),
      ForPlatform('2', "linux", "amd64", "v2"), ForPlatform('4', "linux", "amd64", "v4")};
  EXPECT_EQ(Choose(amd, "linux/amd64"), "1");
  EXPECT_EQ(Choose(amd, "linux/amd64/v2"), "2");
  EXPECT_EQ(Choose(amd, "linux/amd64/v3"), "3");
  EXPECT_EQ(Choose({amd[0], amd[1]}, "linux/amd64/v4"), "3");
  EXPECT_NE(Choose({amd[0]}, "linux/amd64").find("no image"), std::string::npos);
  EXPECT_EQ(Choose({ForPlatform('8', "linux", "arm64"), ForPlatform('9', "linux", "arm64", "v9")},
                   "linux/arm64/v9.2"),
            "9");
}

TEST(ChoosePlatformTest, FirstOfEquals) {
  EXPECT_EQ(Choose({ForPlatform('1', "linux", "amd64"), ForPlatform('2', "linux", "amd64")},
                   "linux/amd64"),
            "1");
}

TEST(ChoosePlatformTest, AttestationsNeverMatchAndArtifactsOnlyWithoutImages) {
  const std::string attestation = ForPlatform('1', "unknown", "unknown");
  const std::string artifact =
      DescriptorJson(kOciManifest, Hex('2'), 5, ",\"artifactType\":\"application/x\"");
  const std::string other = DescriptorJson("application/x", Hex('3'), 5);
  const std::string referrer =
      DescriptorJson(kOciManifest, Hex('4'), 5,
                     ",\"annotations\":{\"vnd.docker.reference.type\":\"attestation-manifest\"}");
  EXPECT_EQ(Choose({attestation, other, referrer}, "linux/amd64"), "the index lists no image");
  EXPECT_EQ(Choose({attestation, artifact, other, referrer, ForPlatform('5', "linux", "amd64")},
                   "linux/amd64"),
            "5");
  EXPECT_EQ(Choose({attestation, artifact, other, referrer}, "linux/amd64"), "2");
  // An artifact does not stand for an image of another platform.
  EXPECT_TRUE(Choose({artifact, ForPlatform('5', "linux", "arm64")}, "linux/amd64")
                  .starts_with("there is no image for linux/amd64"));
}

TEST(ChoosePlatformTest, OfSeveralArtifactsNoneIsGuessed) {
  const auto artifact = [](char digit, const std::string& architecture = "") {
    std::string more = ",\"artifactType\":\"application/x\"";
    if (!architecture.empty()) {
      more += ",\"platform\":{\"os\":\"linux\",\"architecture\":\"" + architecture + "\"}";
    }
    return DescriptorJson(kOciManifest, Hex(digit), 5, more);
  };
  const std::string refused = Choose({artifact('1'), artifact('2')}, "linux/amd64");
  EXPECT_TRUE(refused.starts_with("the index lists 2 artifacts; name one by its digest"))
      << refused;
  EXPECT_EQ(Choose({artifact('1', "arm64"), artifact('2', "amd64")}, "linux/amd64"), "2");
}

TEST(ChoosePlatformTest, TarsComeBeforeLayersThatNeedAFeature) {
  const auto erofs = [](char digit) {
    return DescriptorJson(kOciManifest, Hex(digit), 5,
                          ",\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\","
                          "\"os.features\":[\"erofs\"]}");
  };
  const std::string tars = ForPlatform('2', "linux", "amd64");
  EXPECT_EQ(Choose({erofs('1'), tars}, "linux/amd64"), "2");
  EXPECT_EQ(Choose({tars, erofs('1')}, "linux/amd64"), "2");
  EXPECT_EQ(Choose({erofs('1'), ForPlatform('2', "linux", "arm64")}, "linux/amd64"), "1");
}

TEST(ChoosePlatformTest, UnlabelledIsALastResort) {
  const std::string unlabelled = DescriptorJson(kOciManifest, Hex('9'), 5);
  EXPECT_EQ(Choose({unlabelled, ForPlatform('1', "linux", "amd64")}, "linux/amd64"), "1");
  EXPECT_EQ(Choose({ForPlatform('1', "linux", "amd64"), unlabelled}, "linux/arm64"), "9");
}

TEST(ChoosePlatformTest, NestedIndexesComeBeforeUnlabelledManifests) {
  const std::string nested = DescriptorJson(kOciIndex, Hex('8'), 5);
  const std::string unlabelled = DescriptorJson(kOciManifest, Hex('9'), 5);
  for (const char* want : {"linux/amd64", "linux/amd64/v3", "linux/arm64"}) {
    EXPECT_EQ(Choose({nested}, want), "8");
    EXPECT_EQ(Choose({unlabelled, nested, ForPlatform('1', "linux", "s390x")}, want), "8");
  }
  EXPECT_EQ(Choose({nested, ForPlatform('1', "linux", "amd64")}, "linux/amd64/v3"), "1");
}

TEST(ChoosePlatformTest, OnlyANestedIndexWithoutPlatformMayHoldAny) {
  const auto may = [](const std::string& entry) {
    absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(IndexJson({entry}), "");
    return parsed.ok() && MayHoldAnyPlatform(parsed->index->manifests.at(0));
  };
  EXPECT_TRUE(may(DescriptorJson(kOciIndex, Hex('1'), 5)));
  EXPECT_TRUE(may(DescriptorJson(kDockerList, Hex('1'), 5)));
  EXPECT_FALSE(may(DescriptorJson(kOciManifest, Hex('1'), 5)));
  EXPECT_FALSE(may(DescriptorJson(kOciIndex, Hex('1'), 5, ",\"artifactType\":\"a/b\"")));
  EXPECT_FALSE(may(DescriptorJson(kOciIndex, Hex('1'), 5,
                                  ",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\"}")));
}

TEST(ChoosePlatformTest, WithoutAWishTheFirstImage) {
  absl::StatusOr<ManifestOrIndex> parsed = ParseManifest(
      IndexJson({ForPlatform('1', "unknown", "unknown"), ForPlatform('2', "linux", "s390x")}), "");
  ASSERT_TRUE(parsed.ok());
  absl::StatusOr<Descriptor> chosen = ChoosePlatform(*parsed->index, Platform());
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->digest.ToString(), Hex('2'));
}

// ---- Configuration ----

std::string ConfigJson(const std::vector<std::string>& diff_ids, const std::string& os = "linux",
                       const std::string& architecture = "amd64", const std::string& more = "") {
  std::string list;
  for (const std::string& id : diff_ids) StrAppend(&list, list.empty() ? "" : ",", "\"", id, "\"");
  return StrCat("{\"os\":\"", os, "\",\"architecture\":\"", architecture, "\",", more,
                "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[", list, "]}}");
}

TEST(ImageConfigTest, Full) {
  absl::StatusOr<ImageConfig> config = ParseImageConfig(ConfigJson(
      {Hex('1'), Hex('2')}, "linux", "arm",
      "\"variant\":\"v7\",\"created\":\"2020-01-02T03:04:05.678Z\",\"config\":{\"Env\":[\"A=b\"],"
      "\"Entrypoint\":[\"/e\",\"x\"],\"Cmd\":null,\"WorkingDir\":\"/w\",\"User\":\"1:2\"},"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->platform.ToString(), "linux/arm/v7");
  ASSERT_EQ(config->diff_ids.size(), 2u);
  EXPECT_EQ(config->diff_ids[1].ToString(), Hex('2'));
  EXPECT_EQ(config->created, "2020-01-02T03:04:05.678Z");
  EXPECT_EQ(config->env, std::vector<std::string>{"A=b"});
  EXPECT_EQ(config->entrypoint, (std::vector<std::string>{"/e", "x"}));
  EXPECT_TRUE(config->cmd.empty());
  EXPECT_EQ(config->working_dir, "/w");
  EXPECT_EQ(config->user, "1:2");
}

TEST(ImageConfigTest, Refused) {
  for (const std::string& text :
       {std::string(""), std::string("[]"), std::string("{}"), std::string("{\"rootfs\":7}"),
        std::string("{\"rootfs\":{\"type\":\"layers+base\",\"diff_ids\":[]}}"),
        ConfigJson({"sha256:1"}), ConfigJson(std::vector<std::string>(kMaxLayers + 1, Hex('1'))),
        std::string("{\"rootfs\":{\"diff_ids\":[7]}}")}) {
    EXPECT_EQ(ParseImageConfig(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 100);
  }
  EXPECT_FALSE(ParseImageConfig(std::string(kMaxConfigBytes + 1, ' ')).ok());
}

TEST(ChainIdTest, IsTheHashOfTheTextOfBoth) {
  const Digest a = *Digest::Parse(Hex('a'));
  const Digest b = *Digest::Parse(Hex('b'));
  const std::vector<Digest> chain = ChainIds({a, b, a});
  ASSERT_EQ(chain.size(), 3u);
  EXPECT_EQ(chain[0], a);
  EXPECT_EQ(chain[1], Sha256Of(StrCat(Hex('a'), " ", Hex('b'))));
  EXPECT_EQ(chain[2], Sha256Of(StrCat(chain[1].ToString(), " ", Hex('a'))));
  EXPECT_TRUE(ChainIds({}).empty());
}

TEST(ChainIdTest, KnownValue) {
  // printf '%s %s' sha256:aa.. sha256:bb.. | sha256sum
  const std::vector<Digest> chain = ChainIds({*Digest::Parse(Hex('a')), *Digest::Parse(Hex('b'))});
  EXPECT_EQ(chain[1].ToString(),
            "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c");
}

// ---- Whole images ----

struct Image {
  std::string config = ConfigJson({Hex('1')});
  std::string manifest;
  Platform want{"linux", "amd64", ""};
  std::string layer_type = kOciLayer;
  std::string config_type = kOciConfig;
  int layers = 1;

  absl::StatusOr<ResolvedImage> Resolve() {
    if (manifest.empty()) {
      manifest =
          ManifestJson(std::vector<std::string>(layers, DescriptorJson(layer_type, Hex('7'), 100)),
                       DescriptorJson(config_type, Sha256Of(config).ToString(), config.size()));
    }
    return MakeResolvedImage("q.io/x:1", Digest(), manifest, "", config, want);
  }
};

TEST(ResolvedImageTest, Good) {
  Image image;
  absl::StatusOr<ResolvedImage> resolved = image.Resolve();
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->reference, "q.io/x:1");
  EXPECT_EQ(resolved->manifest_digest, Sha256Of(image.manifest));
  EXPECT_TRUE(resolved->index_digest.empty());
  EXPECT_EQ(resolved->content_type, kOciManifest);
  EXPECT_EQ(resolved->manifest_json, image.manifest);
  EXPECT_EQ(resolved->config_json, image.config);
  EXPECT_EQ(resolved->chain_id().ToString(), Hex('1'));
}

TEST(ResolvedImageTest, ConfigMustBeTheOneOfTheManifest) {
  Image image;
  image.manifest = SimpleManifest();
  EXPECT_EQ(image.Resolve().status().code(), absl::StatusCode::kDataLoss);
  Image other;
  other.manifest = ManifestJson({DescriptorJson(kOciLayer, Hex('7'), 1)},
                                DescriptorJson(kOciConfig, Hex('2'), other.config.size()));
  EXPECT_EQ(other.Resolve().status().code(), absl::StatusCode::kDataLoss);
}

TEST(ResolvedImageTest, LayersAndDiffIdsMustAgree) {
  Image more;
  more.layers = 2;
  EXPECT_TRUE(Contains(more.Resolve().status(), "2 layers"));
  Image none;
  none.layers = 0;
  none.config = ConfigJson({});
  EXPECT_TRUE(Contains(none.Resolve().status(), "no layers"));
}

TEST(ResolvedImageTest, WrongKindsOfContent) {
  Image layer;
  layer.layer_type = "application/x";
  EXPECT_TRUE(Contains(layer.Resolve().status(), "q.io/x:1: layer 1"));
  Image role;
  role.manifest = ManifestJson(
      {DescriptorJson("application/vnd.erofs", Hex('7'), 1,
                      ",\"annotations\":{\"org.erofs.role\":\"device\"}")},
      DescriptorJson(kOciConfig, Sha256Of(role.config).ToString(), role.config.size()));
  EXPECT_TRUE(Contains(role.Resolve().status(), "layer 1: it is an EROFS image in the role"));
  Image index;
  index.manifest = IndexJson({});
  EXPECT_TRUE(Contains(index.Resolve().status(), "index"));
}

TEST(ResolvedImageTest, AnArtifactHasTheLayersThatItShows) {
  Image artifact;
  artifact.config_type = "application/vnd.oci.empty.v1+json";
  artifact.config = "{}";
  artifact.layer_type = "application/x";
  const absl::StatusOr<ResolvedImage> resolved = artifact.Resolve();
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->artifact_type, "application/vnd.oci.empty.v1+json");
  EXPECT_EQ(resolved->config.platform.ToString(), "");
  EXPECT_TRUE(artifact.want.Matches(resolved->config.platform));
  ASSERT_EQ(resolved->forms.size(), 1u);
  EXPECT_EQ(resolved->FormOf(0).kind, LayerForm::Kind::kFile);
  EXPECT_EQ(resolved->config.diff_ids[0], NameOfForm(resolved->forms[0], *Digest::Parse(Hex('7'))));
  Image false_config;
  false_config.manifest =
      ManifestJson({DescriptorJson("application/x", Hex('7'), 1)},
                   DescriptorJson("application/vnd.oci.empty.v1+json", Hex('2'), 2));
  EXPECT_EQ(false_config.Resolve().status().code(), absl::StatusCode::kDataLoss);
  // Without blobs that are shown.
  Image empty;
  empty.config_type = empty.layer_type = "application/vnd.oci.empty.v1+json";
  empty.config = "{}";
  EXPECT_TRUE(Contains(empty.Resolve().status(), "q.io/x:1: the artifact has no files to mount"));
}

// Runtimes compute the ChainID from what the configuration says.
TEST(ResolvedImageTest, AnErofsLayerHasANameOfItsOwn) {
  for (const char* type : {"application/vnd.erofs.layer.v1", "application/vnd.erofs.layer.v1+zstd",
                           "application/vnd.erofs", "application/vnd.erofs+zstd"}) {
    Image image;
    image.layer_type = type;
    const absl::StatusOr<ResolvedImage> resolved = image.Resolve();
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(resolved->artifact_type, "");
    EXPECT_EQ(resolved->FormOf(0).kind, LayerForm::Kind::kErofs);
    EXPECT_EQ(resolved->FormOf(0).content.ToString(), Hex('1'));
    EXPECT_EQ(resolved->chain_id().ToString(), Hex('1'));
    EXPECT_NE(resolved->config.diff_ids[0].ToString(), Hex('1'));
  }
  EXPECT_FALSE(IsErofsLayerType("application/vnd.erofs.layer.v1+gzip"));
  EXPECT_FALSE(IsErofsLayerType("application/vnd.erofs.chunk-index.v1"));
}

TEST(ResolvedImageTest, Platform) {
  Image other;
  other.want = P("linux/arm64");
  const absl::Status status = other.Resolve().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()),
            "q.io/x:1: the image is for linux/amd64, not for linux/arm64; ask for it with "
            "--platform linux/amd64");
  Image unchecked;
  unchecked.want = {};
  unchecked.config = ConfigJson({Hex('1')}, "plan9", "mips");
  EXPECT_TRUE(unchecked.Resolve().ok());
  Image silent;
  silent.config = ConfigJson({Hex('1')}, "", "");
  EXPECT_TRUE(silent.Resolve().ok());
  Image lesser;
  lesser.want = P("linux/amd64/v3");
  EXPECT_TRUE(lesser.Resolve().ok());
  Image no_variant;
  no_variant.config = ConfigJson({Hex('1')}, "linux", "arm");
  no_variant.want = P("linux/arm/v6");
  EXPECT_TRUE(no_variant.Resolve().ok()) << "old images name the variant in the index only";
}

}  // namespace
}  // namespace imagefs
