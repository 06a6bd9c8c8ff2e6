// SPDX-License-Identifier: Apache-2.0
#include "image/artifact.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "image/manifest.h"

namespace imagefs {
namespace {

using Kind = LayerForm::Kind;
using Annotations = std::map<std::string, std::string>;

constexpr char kModelPath[] = "org.cncf.model.filepath";
constexpr char kModelMetadata[] = "org.cncf.model.file.metadata+json";
constexpr char kTitle[] = "org.opencontainers.image.title";
constexpr char kUnpack[] = "io.deis.oras.content.unpack";
constexpr char kUnpackedDigest[] = "io.deis.oras.content.digest";
constexpr char kRawWeight[] = "application/vnd.cncf.model.weight.v1.raw";

Descriptor Blob(const std::string& content, const std::string& type, Annotations annotations = {}) {
  Descriptor blob;
  blob.media_type = type;
  blob.digest = Sha256Of(content);
  blob.size = content.size();
  blob.annotations = std::move(annotations);
  return blob;
}

Manifest Artifact(std::vector<Descriptor> blobs) {
  Manifest manifest;
  manifest.artifact_type = "application/vnd.example";
  manifest.config = Blob("{}", "application/vnd.oci.empty.v1+json");
  manifest.layers = std::move(blobs);
  return manifest;
}

absl::StatusOr<LayerForm> FormOfOne(const Descriptor& blob, const std::string& config = "{}") {
  absl::StatusOr<std::vector<ArtifactLayer>> layers = LayersOfArtifact(Artifact({blob}), config);
  if (!layers.ok()) return layers.status();
  EXPECT_EQ(layers->size(), 1u);
  return layers->front().form;
}

std::string Error(const std::vector<Descriptor>& blobs) {
  return std::string(LayersOfArtifact(Artifact(blobs), "{}").status().message());
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ArtifactTest, AnImageIsKnownByItsConfigurationsType) {
  Manifest manifest = Artifact({});
  EXPECT_TRUE(IsArtifact(manifest));
  EXPECT_EQ(ArtifactTypeOf(manifest), "application/vnd.example");
  manifest.artifact_type = "";
  EXPECT_TRUE(IsArtifact(manifest));
  EXPECT_EQ(ArtifactTypeOf(manifest), "application/vnd.oci.empty.v1+json");
  for (const char* type : {"application/vnd.oci.image.config.v1+json",
                           "application/vnd.docker.container.image.v1+json"}) {
    manifest.config.media_type = type;
    manifest.artifact_type = "application/vnd.example";  // images may say so, too
    EXPECT_FALSE(IsArtifact(manifest)) << type;
  }
  manifest.config.media_type = "application/octet-stream";
  EXPECT_TRUE(IsArtifact(manifest));
  manifest.artifact_type = "";
  EXPECT_FALSE(IsArtifact(manifest));
}

TEST(ArtifactTest, AModelsFileHasItsPathAndMetadata) {
  const Descriptor blob = Blob(
      "weights", kRawWeight,
      {{kModelPath, "vae/model.safetensors"},
       {kModelMetadata, R"({"name":"model.safetensors","mode":416,"uid":1000,"gid":100,"size":7,)"
                        R"("mtime":"2026-11-30T12:00:00.5+01:00","typeflag":48})"}});
  const absl::StatusOr<LayerForm> form = FormOfOne(blob);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->kind, Kind::kFile);
  EXPECT_EQ(form->content, blob.digest);
  const FileLabel expected = {"vae/model.safetensors", 0640, 1000, 100, 1796036400, 500000000};
  EXPECT_EQ(form->file, expected);
}

TEST(ArtifactTest, WithoutMetadataDefaultsHold) {
  const absl::StatusOr<LayerForm> form = FormOfOne(Blob("x", kRawWeight, {{kModelPath, "x"}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->file, (FileLabel{"x", 0644, 0, 0, 0, 0}));
}

TEST(ArtifactTest, TheFirstNamesOfModelPackAreKnown) {
  const absl::StatusOr<LayerForm> form =
      FormOfOne(Blob("x", "application/vnd.cnai.model.weight.v1.raw",
                     {{"org.cnai.model.filepath", "a"},
                      {"org.cnai.model.file.metadata+json", R"({"mode":384})"}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->file, (FileLabel{"a", 0600, 0, 0, 0, 0}));
}

TEST(ArtifactTest, PrivilegesAreLeftOut) {
  const absl::StatusOr<LayerForm> form = FormOfOne(
      Blob("x", kRawWeight, {{kModelPath, "x"}, {kModelMetadata, R"({"mode":4294967295})"}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->file.mode, 0777u);
}

TEST(ArtifactTest, FalseOrMalformedMetadataIsRefused) {
  for (const auto& [metadata, cause] : std::vector<std::pair<std::string, std::string>>{
           {"", ""},
           {"{", "not a JSON object"},
           {"[]", "not a JSON object"},
           {R"({"size":2})", "another size than the 1 bytes"},
           {R"({"size":-1})", "another size"},
           {R"({"size":"1"})", "another size"},
           {R"({"mode":-1})", "impossible mode"},
           {R"({"mode":"rw"})", "impossible mode"},
           {R"({"mode":4294967296})", "impossible mode"},
           {R"({"uid":4294967296})", "impossible uid"},
           {R"({"gid":-5})", "impossible gid"},
           {R"({"gid":4294967295})", "impossible gid"},
           {R"({"mtime":"yesterday"})", "impossible mtime"},
           {R"({"mtime":"infinite-future"})", "impossible mtime"},
           {R"({"typeflag":50})", "no regular file"},
           {std::string(100'000, ' '), "not a JSON object"},
       }) {
    const std::string error =
        Error({Blob("x", kRawWeight, {{kModelPath, "x"}, {kModelMetadata, metadata}})});
    if (cause.empty()) {
      EXPECT_EQ(error, "") << metadata;
    } else if (cause == "no regular file") {
      EXPECT_TRUE(Has(error, "does not describe a regular file")) << error;
    } else {
      EXPECT_TRUE(Has(error, cause)) << metadata << ": " << error;
      EXPECT_TRUE(Has(error, "blob 1 of the artifact")) << error;
    }
  }
}

TEST(ArtifactTest, ATarOfAModelIsATree) {
  for (const char* suffix : {".tar", ".tar+gzip", ".tar+zstd"}) {
    const absl::StatusOr<LayerForm> form =
        FormOfOne(Blob("x", StrCat("application/vnd.cncf.model.weight.config.v1", suffix),
                       {{kModelPath, "config.json"}}));
    ASSERT_TRUE(form.ok()) << form.status();
    EXPECT_EQ(form->kind, Kind::kBlobTar);
    EXPECT_TRUE(form->content.empty());
  }
}

// ORAS gives files the type of a layer unless told otherwise.
TEST(ArtifactTest, ATitleMakesATarAFileUnlessItIsToBeUnpacked) {
  const std::string type = "application/vnd.oci.image.layer.v1.tar+gzip";
  absl::StatusOr<LayerForm> form = FormOfOne(Blob("x", type, {{kTitle, "a/b.tgz"}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->kind, Kind::kFile);
  EXPECT_EQ(form->file.path, "a/b.tgz");
  const Digest tar = Sha256Of("the tar");
  form = FormOfOne(
      Blob("x", type, {{kTitle, "a"}, {kUnpack, "true"}, {kUnpackedDigest, tar.ToString()}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->kind, Kind::kBlobTar);
  EXPECT_EQ(form->content, tar);
  form = FormOfOne(Blob("x", type));  // Flux, and images with another configuration
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->kind, Kind::kBlobTar);
  EXPECT_TRUE(Has(Error({Blob("x", type, {{kUnpack, "true"}, {kUnpackedDigest, "sha256:0"}})}),
                  kUnpackedDigest));
}

TEST(ArtifactTest, AChartHasTheNamesThatHelmGivesIt) {
  const Descriptor chart = Blob("c", "application/vnd.cncf.helm.chart.content.v1.tar+gzip");
  const Descriptor proof = Blob("p", "application/vnd.cncf.helm.chart.provenance.v1.prov");
  const auto layers =
      LayersOfArtifact(Artifact({chart, proof}), R"({"name":"web","version":"1.2.3+up1"})");
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_EQ(layers->size(), 2u);
  EXPECT_EQ((*layers)[0].form.kind, Kind::kFile);
  EXPECT_EQ((*layers)[0].form.file.path, "web-1.2.3+up1.tgz");
  EXPECT_EQ((*layers)[1].form.file.path, "web-1.2.3+up1.tgz.prov");
  // A configuration that does not tell a usable name.
  for (const char* config : {"", "no JSON", "{}", R"({"name":"../web","version":"1"})"}) {
    const absl::StatusOr<LayerForm> form = FormOfOne(chart, config);
    ASSERT_TRUE(form.ok()) << form.status();
    EXPECT_EQ(form->file.path, "sha256-" + chart.digest.hex()) << config;
  }
}

TEST(ArtifactTest, ABlobWithoutANameIsNamedByItsDigest) {
  const Descriptor blob = Blob("x", "application/vnd.example.thing");
  const absl::StatusOr<LayerForm> form = FormOfOne(blob);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->file.path, "sha256-" + blob.digest.hex());
}

TEST(ArtifactTest, TheEmptyBlobIsNoContent) {
  const Descriptor empty = Blob("{}", "application/vnd.oci.empty.v1+json");
  EXPECT_TRUE(Has(Error({empty}), "no files"));
  EXPECT_TRUE(Has(Error({}), "no files"));
  const auto layers = LayersOfArtifact(Artifact({empty, Blob("x", "a/b")}), "{}");
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ(layers->size(), 1u);
}

TEST(ArtifactTest, HostilePathsAreRefused) {
  const std::string nul("a\0b", 3);
  for (const std::string& path :
       {std::string("/etc/passwd"), std::string("../a"), std::string("a/../../b"),
        std::string("a//b"), std::string("a/"), std::string("a/./b"), std::string("."),
        std::string(".."), std::string("./"), nul, std::string(256, 'a'),
        "d/" + std::string(256, 'a') + "/f", std::string(".wh.a"), std::string("a/.wh..wh..opq"),
        [] {
          std::string deep;
          while (deep.size() <= 4095) deep += "abcdefg/";
          return deep + "f";
        }()}) {
    for (const char* annotation : {kModelPath, kTitle}) {
      EXPECT_TRUE(Has(Error({Blob("x", kRawWeight, {{annotation, path}})}), "blob 1"))
          << Printable(path);
    }
  }
  for (const char* path : {"./a", "a/b", "..a", "a..", "with space", "new\nline", "wh.a", "\xff"}) {
    EXPECT_EQ(Error({Blob("x", kRawWeight, {{kTitle, path}})}), "") << path;
  }
}

TEST(ArtifactTest, EachFileHasAPlaceOfItsOwn) {
  const auto file = [](const std::string& content, const std::string& path) {
    return Blob(content, kRawWeight, {{kModelPath, path}});
  };
  EXPECT_TRUE(Has(Error({file("x", "a/b"), file("z", "c"), file("y", "a/b")}),
                  "two blobs of the artifact have the path \"a/b\""));
  EXPECT_TRUE(Has(Error({file("x", "./a"), file("y", "a")}), "two blobs"));
  for (const bool file_first : {true, false}) {
    std::vector<Descriptor> blobs = {file("x", "a/b"), file("y", "a/b/c/d"), file("z", "a/b.c")};
    if (!file_first) std::swap(blobs[0], blobs[1]);
    EXPECT_TRUE(Has(Error(blobs), "\"a/b\" is a file of the artifact and a directory"));
  }
  EXPECT_EQ(Error({file("x", "a/b"), file("x", "a/b.c"), file("x", "a/b-"), file("x", "a.b/c")}),
            "");
  // The same file twice is one.
  const auto twice = LayersOfArtifact(Artifact({file("x", "a"), file("x", "a")}), "{}");
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(twice->size(), 1u);
}

TEST(ArtifactTest, ManyDeepPathsTakeLittleMemory) {
  std::vector<Descriptor> blobs;
  for (int i = 0; i < 1000; ++i) {
    std::string path;
    while (path.size() < 4000) path += "a/";
    blobs.push_back(Blob("x", kRawWeight, {{kModelPath, StrCat(path, i)}}));
  }
  EXPECT_EQ(Error(blobs), "");
}

TEST(LayerFormTest, TheNameDependsOnEverythingThatTheTreeDependsOn) {
  const Digest blob = Sha256Of("blob");
  LayerForm file;
  file.kind = Kind::kFile;
  file.content = blob;
  file.file = {"a", 0644, 1, 2, 3, 4};
  std::vector<LayerForm> forms = {file};
  const auto other = [&](auto change) {
    LayerForm form = file;
    change(form);
    forms.push_back(form);
  };
  other([](LayerForm& form) { form.file.path = "b"; });
  other([](LayerForm& form) { form.file.path = "a\nb"; });
  other([](LayerForm& form) { form.file.mode = 0600; });
  other([](LayerForm& form) { form.file.uid = 9; });
  other([](LayerForm& form) { form.file.gid = 9; });
  other([](LayerForm& form) { form.file.mtime_seconds = 9; });
  other([](LayerForm& form) { form.file.mtime_nanoseconds = 9; });
  other([](LayerForm& form) { form = {Kind::kErofs, {}, Sha256Of("blob")}; });
  other([](LayerForm& form) { form = {Kind::kBlobTar, {}, {}}; });
  other([](LayerForm& form) { form = {Kind::kBlobTar, {}, Sha256Of("tar")}; });
  std::map<std::string, size_t> names;
  for (size_t i = 0; i < forms.size(); ++i) {
    const auto [it, is_new] = names.emplace(NameOfForm(forms[i], blob).hex(), i);
    EXPECT_TRUE(is_new) << i << " has the name of " << it->second;
    EXPECT_NE(NameOfForm(forms[i], blob), NameOfForm(forms[i], Sha256Of("other"))) << i;
    // And survives its record.
    JsonWriter writer;
    WriteForm(forms[i], writer);
    const absl::StatusOr<Json> json = Json::Parse(writer.Take());
    ASSERT_TRUE(json.ok());
    const absl::StatusOr<LayerForm> read = ReadForm(*json);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, forms[i]) << i;
  }
}

TEST(LayerFormTest, ADamagedRecordIsNotBelieved) {
  for (const char* text :
       {"{}", R"({"kind":"other"})", R"({"kind":"erofs","content":"sha256:1"})",
        R"({"kind":"file","path":"../a","mode":1,"uid":0,"gid":0,"mtime":0,"mtime_ns":0})",
        R"({"kind":"file","path":"a","mode":32768,"uid":0,"gid":0,"mtime":0,"mtime_ns":0})",
        R"({"kind":"file","path":"a","mode":1,"uid":0,"gid":0,"mtime":0,"mtime_ns":1000000000})"}) {
    const absl::StatusOr<Json> json = Json::Parse(text);
    ASSERT_TRUE(json.ok()) << text;
    EXPECT_FALSE(ReadForm(*json).ok()) << text;
  }
}

TEST(LayerFormTest, AFileIsOneExtentBelowImpliedDirectories) {
  const absl::StatusOr<LayerBuilder::Result> result = FileTree({"a/b", 0600, 1, 2, 3, 4}, 1000);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->data_size, 1024u);
  EXPECT_TRUE(result->moves.empty());
  const Tree& tree = result->tree;
  const InodeId directory = tree.dirent(tree.Find(Tree::kRoot, "a")).inode;
  EXPECT_TRUE(tree.inode(directory).implied);
  const InodeId file = tree.dirent(tree.Find(directory, "b")).inode;
  EXPECT_EQ(tree.inode(file).size, 1000u);
  EXPECT_EQ(tree.inode(file).mtime_nanoseconds, 4u);
  ASSERT_EQ(tree.Extents(file).size(), 1u);
  EXPECT_EQ(tree.Extents(file)[0], (Extent{0, 0, 1000, 1}));
  const absl::StatusOr<LayerBuilder::Result> empty = FileTree({"e", 0644, 0, 0, 0, 0}, 0);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->data_size, 512u);
  EXPECT_TRUE(
      empty->tree.Extents(empty->tree.dirent(empty->tree.Find(Tree::kRoot, "e")).inode).empty());
}

}  // namespace
}  // namespace imagefs
