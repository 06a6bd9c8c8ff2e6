// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_images.h"

#include <gtest/gtest.h>

#include <set>

#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"

namespace imagefs {
namespace {

std::shared_ptr<const ResolvedImage> Image(std::string_view word,
                                           std::string created = "2020-02-03T04:05:06.5Z") {
  auto image = std::make_shared<ResolvedImage>();
  image->reference = StrCat("registry.test/", word, ":1");
  image->manifest_json = StrCat("{\"manifest\": \"", word, "\"}");
  image->manifest_digest = Sha256Of(image->manifest_json);
  image->config_json = StrCat("{\"config\": \"", word, "\"}");
  image->config.created = std::move(created);
  image->manifest.config.digest = Sha256Of(image->config_json);
  image->chain_ids = {Sha256Of("bottom"), Sha256Of(StrCat("top of ", word))};
  return image;
}

PodmanImage One(std::string_view word) {
  PodmanImage image;
  image.names = {StrCat("registry.test/", word, ":1")};
  image.manifests = {Image(word)};
  image.added_unix = 1'700'000'000;
  image.layer_bytes = {12345, 678};
  return image;
}

std::string NameOf(std::string_view text) {
  const absl::StatusOr<Reference> reference = Reference::Parse(text);
  EXPECT_TRUE(reference.ok()) << text;
  const absl::StatusOr<std::string> name = PodmanName(*reference);
  return name.ok() ? *name : std::string(name.status().message());
}

TEST(PodmanNameTest, AsPodmanWritesThem) {
  EXPECT_EQ(NameOf("alpine"), "docker.io/library/alpine:latest");
  EXPECT_EQ(NameOf("localhost:5000/app:1"), "localhost:5000/app:1");
  const std::string digest = Sha256Of("m").ToString();
  EXPECT_EQ(NameOf("quay.io/a/b@" + digest), "quay.io/a/b@" + digest);
  EXPECT_EQ(NameOf("quay.io/a/b:7@" + digest), "quay.io/a/b@" + digest) << "podman drops the tag";
}

TEST(PodmanNameTest, WhatPodmanDoesNotParseIsRefused) {
  const std::string host = "registry.example:5000/";
  EXPECT_EQ(NameOf(host + std::string(255 - host.size(), 'a') + ":1").size(), 257u);
  for (const std::string& text :
       {host + std::string(256 - host.size(), 'a') + ":1", std::string("[::1]:5000/app:1")}) {
    const absl::StatusOr<Reference> reference = Reference::Parse(text);
    ASSERT_TRUE(reference.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(PodmanName(*reference).status())) << text;
  }
}

TEST(PodmanNameTest, LocalImagesNeedOne) {
  const absl::StatusOr<Reference> reference = Reference::Parse("oci:/srv/layout:1");
  ASSERT_TRUE(reference.ok());
  const absl::StatusOr<std::string> name = PodmanName(*reference);
  EXPECT_TRUE(absl::IsInvalidArgument(name.status()));
  EXPECT_NE(name.status().message().find("--name"), std::string::npos);
}

TEST(PodmanFileNameTest, OnlyWhatIsPlainStaysAsItIs) {
  EXPECT_EQ(PodmanFileName("manifest"), "manifest");
  EXPECT_EQ(PodmanFileName("a.b.0"), "a.b.0");
  EXPECT_EQ(PodmanFileName("sha256:00"), "=c2hhMjU2OjAw");
  EXPECT_EQ(PodmanFileName("manifest-x"), "=bWFuaWZlc3QteA==");
}

TEST(PodmanImagesTest, OneImage) {
  const PodmanImage image = One("app");
  const absl::StatusOr<Json> json = Json::Parse(PodmanImagesJson({&image, 1}));
  ASSERT_TRUE(json.ok()) << json.status();
  ASSERT_EQ(json->size(), 1u);
  const Json record = json->at(0);
  EXPECT_EQ(record.StringOr("id"), image.first().manifest.config.digest.hex());
  EXPECT_EQ(record.StringOr("digest"), image.first().manifest_digest.ToString());
  EXPECT_EQ(record["names"].at(0).string(), "registry.test/app:1");
  EXPECT_EQ(record.StringOr("layer"), PodmanLayers(image.first()).back().id);
  EXPECT_EQ(record.StringOr("created"), "2020-02-03T04:05:06.5+00:00");
  // Every document has a name, a size and a digest.
  const auto documents = PodmanDocuments(image);
  ASSERT_EQ(documents.size(), 3u);
  ASSERT_EQ(record["big-data-names"].size(), 3u);
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto& [key, bytes] = documents[i];
    EXPECT_EQ(record["big-data-names"].at(i).string(), key);
    EXPECT_EQ(record["big-data-sizes"].IntOr(key, -1), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(record["big-data-digests"].StringOr(key), Sha256Of(bytes).ToString());
  }
  EXPECT_EQ(documents[0].first, "manifest");
  EXPECT_EQ(documents[1].first, "manifest-" + image.first().manifest_digest.ToString());
  EXPECT_EQ(documents[2].first, image.first().manifest.config.digest.ToString());
}

TEST(PodmanImagesTest, ManifestsOfOneConfiguration) {
  PodmanImage image = One("app");
  auto other = std::make_shared<ResolvedImage>(image.first());
  other->manifest_json += " ";
  other->manifest_digest = Sha256Of(other->manifest_json);
  image.manifests.push_back(other);
  image.names.push_back("registry.test/other:1");
  const absl::StatusOr<Json> json = Json::Parse(PodmanImagesJson({&image, 1}));
  ASSERT_TRUE(json.ok());
  const Json record = json->at(0);
  EXPECT_EQ(record["names"].size(), 2u);
  EXPECT_EQ(record["big-data-names"].size(), 4u);
  EXPECT_EQ(record["big-data-digests"].StringOr("manifest"),
            image.first().manifest_digest.ToString());
  EXPECT_EQ(record["big-data-digests"].StringOr("manifest-" + other->manifest_digest.ToString()),
            other->manifest_digest.ToString());
}

TEST(PodmanImagesTest, ATimeThatGoCannotReadIsReplaced) {
  for (const char* created :
       {"", "yesterday", "0000-00-00", "-0001-01-01T00:00:00Z", "99999-01-01T00:00:00Z",
        "2020-02-03 04:05:06", "infinite-future", "2020-02-03T04:05:06Z\", \"x\": \""}) {
    PodmanImage image = One("app");
    image.manifests = {Image("app", created)};
    const absl::StatusOr<Json> json = Json::Parse(PodmanImagesJson({&image, 1}));
    ASSERT_TRUE(json.ok());
    EXPECT_EQ(json->at(0).StringOr("created"), "2023-11-14T22:13:20+00:00") << created;
  }
}

TEST(PodmanLayersTest, AsManyRecordsAsTheImageHasLayers) {
  const std::vector<PodmanImage> images = {One("app"), One("other"), One("app")};
  const absl::StatusOr<Json> json = Json::Parse(PodmanLayersJson(images));
  ASSERT_TRUE(json.ok());
  ASSERT_EQ(json->size(), 4u) << "the first and the last image are the same tree";
  EXPECT_FALSE(json->at(0)["parent"].exists());
  EXPECT_EQ(json->at(1).StringOr("parent"), json->at(0).StringOr("id"));
  EXPECT_EQ(json->at(1).StringOr("id"), PodmanLayers(images[0].first()).back().id);
  EXPECT_EQ(json->at(3).StringOr("id"), PodmanLayers(images[1].first()).back().id);
  EXPECT_EQ(json->at(0).IntOr("diff-size", -1), 12345);
  EXPECT_EQ(json->at(1).IntOr("diff-size", -1), 678);
  // The id that podman computes, and looks up, for a layer with this digest on that parent.
  std::string digest = json->at(0).StringOr("diff-digest");
  EXPECT_EQ("sha256:" + json->at(0).StringOr("id"), digest);
  digest = json->at(1).StringOr("diff-digest");
  ASSERT_TRUE(Digest::Parse(digest).ok());
  EXPECT_EQ(json->at(1).StringOr("id"),
            Sha256Of(StrCat(json->at(0).StringOr("id"), "+", Digest::Parse(digest)->hex())).hex());
}

TEST(PodmanLayersTest, NoImagesIsAnEmptyList) {
  EXPECT_EQ(PodmanImagesJson({}), "[]");
  EXPECT_EQ(PodmanLayersJson({}), "[]");
}

TEST(PodmanLayersTest, IdsAreOfTheTreeAndOfNothingElse) {
  const auto app = Image("app"), other = Image("other");
  const std::vector<PodmanLayer> layers = PodmanLayers(*app);
  ASSERT_EQ(layers.size(), 2u);
  std::set<std::string> seen;
  for (const auto& image : {app, other}) {
    for (const PodmanLayer& layer : PodmanLayers(*image)) {
      EXPECT_EQ(layer.id.size(), 64u);
      EXPECT_EQ(layer.link.size(), 26u);
      EXPECT_EQ(layer.link.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
                std::string::npos);
      seen.insert({layer.id, layer.link});
      // No layer that can be pulled has this digest: with a single layer, the ChainID is the
      // DiffID.
      for (const Digest& id : image->chain_ids) EXPECT_NE(layer.digest, id);
    }
  }
  EXPECT_EQ(seen.size(), 8u) << "the layer that both images have is shared by none of these";
}

}  // namespace
}  // namespace imagefs
