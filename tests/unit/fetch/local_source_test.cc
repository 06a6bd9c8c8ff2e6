// SPDX-License-Identifier: Apache-2.0
#include "fetch/local_source.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/fd.h"
#include "base/text.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

constexpr char kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kOciLayer[] = "application/vnd.oci.image.layer.v1.tar";
constexpr char kDockerLayer[] = "application/vnd.docker.image.rootfs.diff.tar";

// ---- A small tar writer ----

std::string TarMember(const std::string& name, const std::string& data, char type = '0',
                      const std::string& link = "") {
  std::string head(512, '\0');
  const auto put = [&head](size_t at, const std::string& text) {
    head.replace(at, text.size(), text);
  };
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, absl::StrFormat("%011o", data.size()));
  put(136, "00000000000");
  put(148, "        ");
  head[156] = type;
  put(157, link);
  put(257, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (char c : head) sum += static_cast<unsigned char>(c);
  put(148, absl::StrFormat("%06o", sum) + std::string("\0 ", 2));
  return head + data + std::string((512 - data.size() % 512) % 512, '\0');
}

std::string EndOfTar() { return std::string(1024, '\0'); }

// The content of a layer is irrelevant here, as long as it is a tar.
std::string Layer(const std::string& name) {
  return TarMember(name, name + "'s data") + EndOfTar();
}

std::string DigestText(const std::string& bytes) { return Sha256Of(bytes).ToString(); }

std::string ConfigFor(const std::vector<std::string>& layers, const std::string& salt = "") {
  std::string ids;
  for (const std::string& layer : layers) {
    StrAppend(&ids, ids.empty() ? "" : ",", "\"", DigestText(layer), "\"");
  }
  return StrCat("{\"os\":\"linux\",\"architecture\":\"amd64\",\"created\":\"", salt,
                "\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[", ids, "]}}");
}

std::string DescriptorOf(const std::string& type, const std::string& bytes,
                         const std::string& more = "") {
  return StrCat("{\"mediaType\":\"", type, "\",\"digest\":\"", DigestText(bytes),
                "\",\"size\":", bytes.size(), more, "}");
}

std::string Named(const std::string& name) {
  return StrCat(",\"annotations\":{\"org.opencontainers.image.ref.name\":\"", name, "\"}");
}

// The files of an OCI layout, to be written as a directory or a tar.
struct Layout {
  std::vector<std::pair<std::string, std::string>> files;
  std::vector<std::string> index;

  std::string AddBlob(const std::string& bytes) {
    files.emplace_back("blobs/sha256/" + Sha256Of(bytes).hex(), bytes);
    return bytes;
  }
  // The manifest's bytes.
  std::string AddImage(const std::vector<std::string>& layers, const std::string& more,
                       const std::string& salt = "") {
    const std::string config = AddBlob(ConfigFor(layers, salt));
    std::string list;
    for (const std::string& layer : layers) {
      AddBlob(layer);
      StrAppend(&list, list.empty() ? "" : ",", DescriptorOf(kOciLayer, layer));
    }
    const std::string manifest =
        AddBlob(StrCat("{\"schemaVersion\":2,\"config\":",
                       DescriptorOf("application/vnd.oci.image.config.v1+json", config),
                       ",\"layers\":[", list, "]}"));
    index.push_back(DescriptorOf(kOciManifest, manifest, more));
    return manifest;
  }
  std::string IndexJson() const {
    std::string list;
    for (const std::string& entry : index) StrAppend(&list, list.empty() ? "" : ",", entry);
    return StrCat("{\"schemaVersion\":2,\"manifests\":[", list, "]}");
  }
};

class LocalSourceTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/local_source_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  void Write(const std::string& path, const std::string& text) {
    const std::string full = StrCat(dir_, "/", path);
    ASSERT_TRUE(MakeDirs(full.substr(0, full.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileDurably(full, text).ok());
  }

  void WriteDirectory(const Layout& layout) {
    for (const auto& [name, bytes] : layout.files) Write("layout/" + name, bytes);
    Write("layout/index.json", layout.IndexJson());
  }

  void WriteArchive(const Layout& layout) {
    std::string tar = TarMember("./index.json", layout.IndexJson());
    for (const auto& [name, bytes] : layout.files) tar += TarMember(name, bytes);
    Write("image.tar", tar + EndOfTar());
  }

  // `text` contains %D for the test's directory.
  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const std::string& text) {
    const size_t at = text.find("%D");
    return OpenLocalSource(*Reference::Parse(text.substr(0, at) + dir_ + text.substr(at + 2)));
  }

  absl::StatusOr<ImageSource::FetchedManifest> Manifest(const std::string& text) {
    absl::StatusOr<std::shared_ptr<ImageSource>> source = Open(text);
    if (!source.ok()) return source.status();
    const size_t at = text.find("%D");
    const Reference reference = *Reference::Parse(text.substr(0, at) + dir_ + text.substr(at + 2));
    return Manifest(**source, reference.TagOrDigest());
  }

  static absl::StatusOr<ImageSource::FetchedManifest> Manifest(ImageSource& source,
                                                               const std::string& tag) {
    absl::StatusOr<ImageSource::FetchedManifest> out = absl::UnknownError("done did not run");
    source.GetManifest(tag, CancelToken(), [&out](auto result) { out = std::move(result); });
    return out;
  }

  // Returns the manifest's bytes, or the error.
  std::string ManifestText(const std::string& text) {
    absl::StatusOr<ImageSource::FetchedManifest> manifest = Manifest(text);
    if (!manifest.ok()) return std::string(manifest.status().message());
    EXPECT_EQ(manifest->digest, Sha256Of(manifest->bytes));
    return manifest->bytes;
  }

  static absl::StatusOr<std::string> SmallBlob(ImageSource& source, const Descriptor& blob,
                                               uint64_t max_bytes = 1 << 20) {
    absl::StatusOr<std::string> out = absl::UnknownError("done did not run");
    source.GetSmallBlob(blob, max_bytes, CancelToken(),
                        [&out](auto result) { out = std::move(result); });
    return out;
  }

  static Descriptor Of(const std::string& bytes) {
    Descriptor out;
    out.digest = Sha256Of(bytes);
    out.size = bytes.size();
    return out;
  }

  // Returns the bytes that OpenLocal refers to, or the error.
  static std::string LocalBytes(ImageSource& source, const Descriptor& blob) {
    absl::StatusOr<std::optional<LocalBlob>> local = source.OpenLocal(blob);
    if (!local.ok()) return std::string(local.status().message());
    if (!local->has_value()) return "nothing";
    std::string out((*local)->length, '\0');
    absl::StatusOr<size_t> got =
        PreadFull((*local)->fd.get(), absl::MakeSpan(out.data(), out.size()), (*local)->offset);
    EXPECT_TRUE(got.ok() && *got == out.size());
    return out;
  }

  std::string dir_;
};

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---- OCI layouts ----

TEST_F(LocalSourceTest, LayoutInADirectoryAndInATar) {
  Layout layout;
  const std::vector<std::string> layers = {Layer("a"), Layer("b")};
  const std::string manifest = layout.AddImage(layers, Named("v1"));
  WriteDirectory(layout);
  WriteArchive(layout);
  for (const std::string reference : {"oci:%D/layout:v1", "oci:%D/layout", "oci:%D/layout:@0",
                                      "oci-archive:%D/image.tar:v1", "oci-archive:%D/image.tar"}) {
    EXPECT_EQ(ManifestText(reference), manifest) << reference;
    absl::StatusOr<std::shared_ptr<ImageSource>> source = Open(reference);
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ(LocalBytes(**source, Of(layers[0])), layers[0]);
    EXPECT_EQ(LocalBytes(**source, Of(layers[1])), layers[1]);
    EXPECT_EQ(SmallBlob(**source, Of(ConfigFor(layers))).value_or("?"), ConfigFor(layers));
    EXPECT_EQ(Manifest(**source, DigestText(manifest))->bytes, manifest);
  }
  EXPECT_EQ(Manifest("oci:%D/layout")->content_type, kOciManifest);
}

TEST_F(LocalSourceTest, NothingIsAttachedToWhatLiesInALayout) {
  Layout layout;
  const std::string manifest = layout.AddImage({Layer("a")}, Named("v1"));
  WriteDirectory(layout);
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci:%D/layout");
  ASSERT_TRUE(source.ok()) << source.status();
  absl::StatusOr<std::vector<Descriptor>> found = absl::UnknownError("no answer");
  (*source)->GetReferrers(
      Sha256Of(manifest), "", CancelToken(),
      [&](absl::StatusOr<std::vector<Descriptor>> list) { found = std::move(list); });
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(found->empty());
}

TEST_F(LocalSourceTest, NothingIsCopiedOutOfAnArchive) {
  Layout layout;
  layout.AddImage({Layer("a")}, Named("v1"));
  WriteArchive(layout);
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci-archive:%D/image.tar");
  ASSERT_TRUE(source.ok());
  absl::StatusOr<std::optional<LocalBlob>> local = (*source)->OpenLocal(Of(Layer("a")));
  ASSERT_TRUE(local.ok() && local->has_value());
  struct stat archive, blob;
  ASSERT_EQ(stat((dir_ + "/image.tar").c_str(), &archive), 0);
  ASSERT_EQ(fstat((*local)->fd.get(), &blob), 0);
  EXPECT_EQ(blob.st_ino, archive.st_ino);
  EXPECT_EQ((*local)->offset % 512, 0u);
}

TEST_F(LocalSourceTest, ImagesAreChosenByNameAndPosition) {
  Layout layout;
  const std::string one = layout.AddImage({Layer("a")}, Named("v1"), "1");
  const std::string two = layout.AddImage({Layer("a")}, Named("docker.io/library/x:2"), "2");
  const std::string three = layout.AddImage({Layer("b")}, "", "3");
  WriteDirectory(layout);
  EXPECT_EQ(ManifestText("oci:%D/layout:v1"), one);
  EXPECT_EQ(ManifestText("oci:%D/layout:x:2"), two) << "docker's short form";
  EXPECT_EQ(ManifestText("oci:%D/layout:docker.io/library/x:2"), two);
  EXPECT_EQ(ManifestText("oci:%D/layout:@2"), three);
  EXPECT_TRUE(Contains(ManifestText("oci:%D/layout:@3"), "it has 3"));
  EXPECT_TRUE(Contains(ManifestText("oci:%D/layout:v2"),
                       "no image in it is named v2; it has: docker.io/library/x:2, v1"));
  EXPECT_TRUE(Contains(ManifestText("oci:%D/layout"), "one of 3 images"));
  EXPECT_TRUE(Contains(ManifestText("oci:%D/layout"),
                       "by its name (docker.io/library/x:2, v1) or by its place (@0, @1, @2)"));
}

TEST_F(LocalSourceTest, OneNameForSeveralPlatformsIsAnIndex) {
  Layout layout;
  const auto platform = [](const std::string& architecture) {
    return StrCat(",\"platform\":{\"os\":\"linux\",\"architecture\":\"", architecture, "\"}",
                  Named("v1"));
  };
  layout.AddImage({Layer("a")}, platform("amd64"), "1");
  const std::string arm = layout.AddImage({Layer("a")}, platform("arm64"), "2");
  layout.AddImage({Layer("a")}, Named("v2"), "3");
  WriteDirectory(layout);
  absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("oci:%D/layout:v1");
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(fetched->digest, Sha256Of(fetched->bytes));
  absl::StatusOr<ManifestOrIndex> index = ParseManifest(fetched->bytes, fetched->content_type);
  ASSERT_TRUE(index.ok() && index->index) << index.status();
  ASSERT_EQ(index->index->manifests.size(), 2u);
  EXPECT_EQ(ChoosePlatform(*index->index, *Platform::Parse("linux/arm64"))->digest, Sha256Of(arm));
}

TEST_F(LocalSourceTest, SameNameTwiceIsAmbiguous) {
  Layout layout;
  layout.AddImage({Layer("a")}, Named("v1"), "1");
  layout.AddImage({Layer("a")}, Named("v1"), "2");
  WriteDirectory(layout);
  const std::string error = ManifestText("oci:%D/layout:v1");
  EXPECT_TRUE(Contains(error, "choose one by its place (@0, @1)")) << error;
}

std::string PlatformOf(const std::string& os, const std::string& architecture) {
  return StrCat(",\"platform\":{\"os\":\"", os, "\",\"architecture\":\"", architecture, "\"}");
}

TEST_F(LocalSourceTest, WhatStandsBesideImagesDoesNotCount) {
  const std::string unknown = PlatformOf("unknown", "unknown");
  for (const std::string& name : {std::string(), Named("latest")}) {
    Layout layout;
    // Descriptors have one set of annotations, so attestations are recognized by their platform.
    layout.AddImage({Layer("x")}, unknown + name, "attestation of amd64");
    const std::string amd = layout.AddImage({Layer("a")}, PlatformOf("linux", "amd64") + name, "1");
    const std::string arm = layout.AddImage({Layer("a")}, PlatformOf("linux", "arm64") + name, "2");
    layout.AddImage({Layer("x")}, unknown + name, "attestation of arm64");
    WriteDirectory(layout);
    absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("oci:%D/layout");
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    absl::StatusOr<ManifestOrIndex> index = ParseManifest(fetched->bytes, fetched->content_type);
    ASSERT_TRUE(index.ok() && index->index) << index.status();
    EXPECT_EQ(index->index->manifests.size(), 2u);
    const auto chosen = ChoosePlatform(*index->index, *Platform::Parse("linux/arm64"));
    EXPECT_EQ(chosen->digest, Sha256Of(arm));
    EXPECT_EQ(ManifestText("oci:%D/layout:@1"), amd) << "places count everything";
  }
}

TEST_F(LocalSourceTest, ArtifactsAndSignaturesDoNotCount) {
  Layout layout;
  // The last one's descriptor does not reveal what it is.
  const std::string spdx = layout.AddBlob(
      "{\"schemaVersion\":2,\"artifactType\":\"a/b\",\"layers\":"
      "[]}");
  layout.index.push_back(DescriptorOf(kOciManifest, spdx, ",\"artifactType\":\"a/b\""));
  const std::string cosign = layout.AddBlob("{\"schemaVersion\":2,\"config\":{}}");
  layout.index.push_back(DescriptorOf(
      kOciManifest, cosign, ",\"annotations\":{\"kind\":\"dev.cosignproject.cosign/sigs\"}"));
  const std::string empty = layout.AddBlob("{}");
  const std::string unnamed = layout.AddBlob(StrCat(
      "{\"schemaVersion\":2,\"config\":", DescriptorOf("application/vnd.oci.empty.v1+json", empty),
      ",\"layers\":[", DescriptorOf("application/spdx+json", empty), "]}"));
  layout.index.push_back(DescriptorOf(kOciManifest, unnamed));
  const std::string image = layout.AddImage({Layer("a")}, "");
  // The same image again, with a name.
  layout.index.push_back(DescriptorOf(kOciManifest, image, Named("v1")));
  WriteDirectory(layout);
  EXPECT_EQ(ManifestText("oci:%D/layout"), image);
  EXPECT_EQ(ManifestText("oci:%D/layout:v1"), image);

  // If several images have no names, only actual images are listed.
  layout.AddImage({Layer("b")}, "", "other");
  WriteDirectory(layout);
  const std::string error = ManifestText("oci:%D/layout");
  EXPECT_TRUE(Contains(error, "one of 2 images")) << error;
  EXPECT_TRUE(Contains(error, "@3, @5")) << error;

  // Without an image, an artifact is meant; what accompanies an image is not.
  Layout none;
  none.AddBlob(spdx);
  none.index.push_back(DescriptorOf(kOciManifest, spdx, ",\"artifactType\":\"a/b\""));
  none.index.push_back(DescriptorOf(
      kOciManifest, cosign, ",\"annotations\":{\"kind\":\"dev.cosignproject.cosign/sigs\"}"));
  WriteDirectory(none);
  EXPECT_EQ(ManifestText("oci:%D/layout"), spdx);
  none.index.erase(none.index.begin());
  WriteDirectory(none);
  EXPECT_TRUE(Contains(ManifestText("oci:%D/layout"), "has no image"));
}

TEST_F(LocalSourceTest, OneImageOfTwoPlatforms) {
  Layout layout;
  const std::string image = layout.AddImage({Layer("a")}, PlatformOf("linux", "arm64"));
  layout.index.push_back(DescriptorOf(
      kOciManifest, image,
      ",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":\"v8\"}"));
  layout.index.push_back(DescriptorOf(kOciManifest, image));
  WriteDirectory(layout);
  absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("oci:%D/layout");
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(ParseManifest(fetched->bytes, fetched->content_type)->index->manifests.size(), 2u);
}

TEST_F(LocalSourceTest, MissingAndDamagedBlobs) {
  Layout layout;
  const std::string manifest = layout.AddImage({Layer("a")}, Named("v1"));
  const std::string config = ConfigFor({Layer("a")});
  WriteDirectory(layout);
  const std::string blobs = "layout/blobs/sha256/";
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci:%D/layout");
  ASSERT_TRUE(source.ok());

  Write(blobs + Sha256Of(config).hex(), std::string(config.size(), 'x'));
  EXPECT_EQ(SmallBlob(**source, Of(config)).status().code(), absl::StatusCode::kDataLoss);
  Write(blobs + Sha256Of(config).hex(), config + "x");
  EXPECT_EQ(SmallBlob(**source, Of(config)).status().code(), absl::StatusCode::kDataLoss);
  Write(blobs + Sha256Of(config).hex(), config);
  EXPECT_FALSE(SmallBlob(**source, Of(config), config.size() - 1).ok());
  EXPECT_TRUE(SmallBlob(**source, Of(config), config.size()).ok());

  Write(blobs + Sha256Of(Layer("a")).hex(), "short");
  EXPECT_TRUE(Contains(LocalBytes(**source, Of(Layer("a"))), "5 bytes"));
  ASSERT_EQ(unlink(StrCat(dir_, "/", blobs, Sha256Of(Layer("a")).hex()).c_str()), 0);
  EXPECT_TRUE(Contains(LocalBytes(**source, Of(Layer("a"))), "is missing"));

  std::string wrong = manifest;
  wrong[wrong.find("2")] = '3';
  Write(blobs + Sha256Of(manifest).hex(), wrong);
  EXPECT_EQ(Manifest(**source, "v1").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Manifest(**source, DigestText(manifest)).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(LocalSourceTest, BlobsThatAreNoFiles) {
  Layout layout;
  layout.AddImage({Layer("a")}, Named("v1"));
  WriteDirectory(layout);
  const std::string blob = StrCat(dir_, "/layout/blobs/sha256/", Sha256Of(Layer("a")).hex());
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci:%D/layout");
  ASSERT_TRUE(source.ok());
  ASSERT_EQ(unlink(blob.c_str()), 0);
  ASSERT_EQ(mkfifo(blob.c_str(), 0600), 0);
  EXPECT_TRUE(Contains(LocalBytes(**source, Of(Layer("a"))), "not a regular file"))
      << "and no hang";
  ASSERT_EQ(unlink(blob.c_str()), 0);
  ASSERT_EQ(symlink(blob.c_str(), blob.c_str()), 0);
  EXPECT_FALSE((*source)->OpenLocal(Of(Layer("a"))).ok());
}

TEST_F(LocalSourceTest, BadLayouts) {
  EXPECT_TRUE(Contains(ManifestText("oci:%D/absent"), dir_ + "/absent"));
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/absent"), dir_ + "/absent"));
  Write("empty/x", "");
  EXPECT_TRUE(Contains(ManifestText("oci:%D/empty"), "no index.json"));
  EXPECT_TRUE(Contains(ManifestText("oci:%D/empty/x"), "write oci-archive:"));
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/empty"), "write oci:DIR"));
  Write("garbage/index.json", "{]");
  EXPECT_TRUE(Contains(ManifestText("oci:%D/garbage"), "index.json"));
  Write("none/index.json", "{\"schemaVersion\":2,\"manifests\":[]}");
  EXPECT_TRUE(Contains(ManifestText("oci:%D/none"), "no image"));
  Write("null/index.json", "{\"schemaVersion\":2,\"manifests\":null}");
  EXPECT_TRUE(Contains(ManifestText("oci:%D/null"), "has no image"));
  Write("large/index.json", std::string((4 << 20) + 1, ' '));
  EXPECT_TRUE(Contains(ManifestText("oci:%D/large"), "at most"));
  Write("escape/index.json",
        "{\"manifests\":[{\"mediaType\":\"x\",\"size\":1,\"digest\":\"sha256:../../../etc/"
        "passwd\"}]}");
  EXPECT_FALSE(Manifest("oci:%D/escape").ok());
}

TEST_F(LocalSourceTest, BadArchives) {
  Write("garbage.tar", std::string(10000, 'x'));
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/garbage.tar"),
                       "not a tar archive, or damaged (tar: a header with a wrong checksum at byte "
                       "0); save the image again"));
  Write("zip.tar", "\x1f\x8b\x08garbage");
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/zip.tar"), "gunzip"));
  Write("empty.tar", EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/empty.tar"), "no index.json"));
  Write("zero.tar", "");
  EXPECT_FALSE(Manifest("oci-archive:%D/zero.tar").ok());
  const std::string big = TarMember("blobs/x", std::string(100000, 'x'));
  Write("cut.tar", TarMember("index.json", "{}") + big.substr(0, big.size() - 5000));
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/cut.tar"), "truncated"));
  Write("type.tar", TarMember("index.json", "{}") + TarMember("label", "", 'V') + EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/type.tar"), "unhandled tar header type 'V'"));
  // Each replaces the one before; all would have to be in memory at once.
  std::string names;
  for (int i = 0; i < 9; ++i) names += TarMember("@LongLink", std::string(1 << 20, 'n'), 'L');
  Write("names.tar", names + TarMember("index.json", "{}") + EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/names.tar"), "more than 8 MiB of headers"));
  Write("docker.tar", TarMember("manifest.json", "[]") + EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("oci-archive:%D/docker.tar"), "write docker-archive:"));
}

TEST_F(LocalSourceTest, ReadBlobDeliversTheRanges) {
  Layout layout;
  const std::string layer = Layer("a") + std::string(1 << 20, 'z');
  layout.AddImage({layer}, Named("v1"));
  WriteArchive(layout);
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci-archive:%D/image.tar");
  ASSERT_TRUE(source.ok());
  std::string got(layer.size(), '?');
  absl::Status status = absl::UnknownError("done did not run");
  (*source)->ReadBlob(
      Of(layer), {{0, 10}, {100, layer.size()}}, nullptr, CancelToken(),
      [&got](uint64_t offset, std::string_view data) {
        got.replace(offset, data.size(), data);
        return absl::OkStatus();
      },
      [&status](absl::Status result) { status = std::move(result); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(got.substr(0, 10), layer.substr(0, 10));
  EXPECT_EQ(got.substr(10, 90), std::string(90, '?'));
  EXPECT_EQ(got.substr(100), layer.substr(100));

  (*source)->ReadBlob(
      Of(layer), {{0, layer.size() + 1}}, nullptr, CancelToken(),
      [](uint64_t, std::string_view) { return absl::OkStatus(); },
      [&status](absl::Status result) { status = std::move(result); });
  EXPECT_FALSE(status.ok());
  CancelSource cancel;
  cancel.Cancel();
  (*source)->ReadBlob(
      Of(layer), {{0, 10}}, nullptr, cancel.token(),
      [](uint64_t, std::string_view) { return absl::OkStatus(); },
      [&status](absl::Status result) { status = std::move(result); });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  (*source)->ReadBlob(
      Of(layer), {{0, 10}}, nullptr, CancelToken(),
      [](uint64_t, std::string_view) { return absl::ResourceExhaustedError("full"); },
      [&status](absl::Status result) { status = std::move(result); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

// ---- docker archives ----

std::string SavedJson(const std::string& config_name, const std::vector<std::string>& names,
                      const std::vector<std::string>& layers) {
  const auto list = [](const std::vector<std::string>& texts) {
    std::string out;
    for (const std::string& text : texts) StrAppend(&out, out.empty() ? "" : ",", "\"", text, "\"");
    return out;
  };
  return StrCat("{\"Config\":\"", config_name, "\",\"RepoTags\":[", list(names), "],\"Layers\":[",
                list(layers), "]}");
}

std::string ConfigName(const std::string& config) { return Sha256Of(config).hex() + ".json"; }

TEST_F(LocalSourceTest, DockerArchiveWithLinksBetweenLayers) {
  const std::string a = Layer("a"), b = Layer("b");
  const std::string config = ConfigFor({a, b, a});
  Write("image.tar", TarMember("1/layer.tar", a) + TarMember("2/layer.tar", b) +
                         TarMember("3/layer.tar", "", '2', "../1/layer.tar") +
                         TarMember(ConfigName(config), config) +
                         TarMember("manifest.json",
                                   StrCat("[",
                                          SavedJson(ConfigName(config), {"alpine:3"},
                                                    {"1/layer.tar", "2/layer.tar", "3/layer.tar"}),
                                          "]")) +
                         EndOfTar());
  absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("docker-archive:%D/image.tar");
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("docker-archive:%D/image.tar");
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(SmallBlob(**source, Of(config)).value_or("?"), config);
  absl::StatusOr<ResolvedImage> image =
      MakeResolvedImage("x", Digest(), fetched->bytes, fetched->content_type, config,
                        *Platform::Parse("linux/amd64"));
  ASSERT_TRUE(image.ok()) << image.status();
  ASSERT_EQ(image->manifest.layers.size(), 3u);
  EXPECT_EQ(image->manifest.layers[1].media_type, kDockerLayer);
  EXPECT_EQ(image->manifest.layers[1].digest, Sha256Of(b)) << "the digest is the DiffID";
  EXPECT_EQ(LocalBytes(**source, image->manifest.layers[0]), a);
  EXPECT_EQ(LocalBytes(**source, image->manifest.layers[1]), b);
  EXPECT_EQ(LocalBytes(**source, image->manifest.layers[2]), a);

  for (const char* name : {":alpine:3", ":docker.io/library/alpine:3", ":@0"}) {
    EXPECT_EQ(ManifestText(StrCat("docker-archive:%D/image.tar", name)), fetched->bytes) << name;
  }
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar:alpine:4"), "it has: alpine:3"));
  EXPECT_EQ(Manifest(**source, fetched->digest.ToString())->bytes, fetched->bytes);
  EXPECT_FALSE((*source)->OpenLocal(Of("something else")).ok());
}

TEST_F(LocalSourceTest, DockerArchiveWithAnEditedConfiguration) {
  const std::string a = Layer("a"), config = ConfigFor({a}, "edited");
  for (const std::string& name :
       {std::string(64, 'a') + ".json", "blobs/sha256/" + std::string(64, 'b')}) {
    Write("image.tar",
          TarMember("layer.tar", a) + TarMember(name, config) +
              TarMember("manifest.json", StrCat("[", SavedJson(name, {}, {"layer.tar"}), "]")) +
              EndOfTar());
    // The image is identified by the actual bytes.
    EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar"), DigestText(config)));
    absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("docker-archive:%D/image.tar");
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ(SmallBlob(**source, Of(config)).value_or("?"), config);
  }
}

TEST_F(LocalSourceTest, DockerArchiveWithSeveralImages) {
  const std::string a = Layer("a");
  const std::string one = ConfigFor({a}, "1"), two = ConfigFor({a}, "2");
  Write("image.tar",
        TarMember("layer.tar", a) + TarMember(ConfigName(one), one) +
            TarMember(ConfigName(two), two) +
            TarMember("manifest.json",
                      StrCat("[", SavedJson(ConfigName(one), {"x:1"}, {"layer.tar"}), ",",
                             SavedJson(ConfigName(two), {"x:2"}, {"layer.tar"}), "]")) +
            EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar"), "choose one"));
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar:x:2"), DigestText(two)));
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar:@0"), DigestText(one)));
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/image.tar:@2"), "it has 2"));
}

TEST_F(LocalSourceTest, DockerArchiveWithCompressedLayers) {
  // Only the first bytes matter.
  const std::string gzip = std::string("\x1f\x8b\x08", 3) + "rest";
  const std::string zstd = std::string("\x28\xb5\x2f\xfd", 4) + "rest";
  const std::string config = ConfigFor({Layer("a"), Layer("b")});
  const std::string named = "blobs/sha256/" + Sha256Of(gzip).hex();
  Write(
      "image.tar",
      TarMember(named, gzip) + TarMember("b.tar", zstd) + TarMember("config", config) +
          TarMember("manifest.json", StrCat("[", SavedJson("config", {}, {named, "b.tar"}), "]")) +
          EndOfTar());
  absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("docker-archive:%D/image.tar");
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  absl::StatusOr<ManifestOrIndex> manifest = ParseManifest(fetched->bytes, fetched->content_type);
  ASSERT_TRUE(manifest.ok() && manifest->manifest);
  const std::vector<Descriptor>& layers = manifest->manifest->layers;
  EXPECT_EQ(layers[0].digest, Sha256Of(gzip));
  EXPECT_EQ(layers[0].media_type, std::string(kDockerLayer) + ".gzip");
  EXPECT_EQ(layers[1].digest, Sha256Of(zstd)) << "hashed, since its name promises nothing";
  EXPECT_EQ(layers[1].media_type, std::string(kDockerLayer) + ".zstd");
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("docker-archive:%D/image.tar");
  EXPECT_EQ(LocalBytes(**source, layers[0]), gzip);
}

TEST_F(LocalSourceTest, HostileDockerArchives) {
  const std::string a = Layer("a");
  const std::string config = ConfigFor({a});
  const auto error = [&](const std::string& members, const std::string& manifest) {
    Write("bad.tar", members + TarMember("manifest.json", manifest) + EndOfTar());
    absl::StatusOr<ImageSource::FetchedManifest> fetched = Manifest("docker-archive:%D/bad.tar");
    EXPECT_FALSE(fetched.ok()) << manifest;
    const std::string message(fetched.status().message());
    EXPECT_TRUE(Contains(message, "bad.tar")) << message;
    return message;
  };
  const std::string good = TarMember("layer.tar", a) + TarMember("config", config);
  const auto saved = [](const std::string& config_name, const std::string& layer) {
    return StrCat("[", SavedJson(config_name, {}, {layer}), "]");
  };
  EXPECT_TRUE(Contains(error(good, "{}"), "manifest.json"));
  EXPECT_TRUE(Contains(error(good, "[]"), "manifest.json"));
  EXPECT_TRUE(Contains(error(good, "[{}]"), "Config"));
  EXPECT_TRUE(Contains(error(good, "[{\"Config\":\"config\",\"Layers\":[7]}]"), "Layers"));
  EXPECT_TRUE(Contains(error(good, "[{\"Config\":\"config\",\"Layers\":[]}]"), "0 layers"));
  EXPECT_TRUE(Contains(error(good, saved("absent", "layer.tar")), "there is no absent"));
  EXPECT_TRUE(Contains(error(good, saved("config", "absent")), "there is no absent"));
  EXPECT_TRUE(Contains(error(good, saved("config", "../../etc/passwd")), "out of the archive"));
  EXPECT_TRUE(Contains(error(good, saved("config", "/etc/passwd")), "there is no /etc/passwd"));

  const std::string out = TarMember("l", "", '2', "../../../etc/passwd");
  EXPECT_TRUE(Contains(error(good + out, saved("config", "l")), "out of the archive"));
  const std::string absolute = TarMember("l", "", '2', "/etc/passwd");
  EXPECT_TRUE(Contains(error(good + absolute, saved("config", "l")), "there is no l"));
  const std::string loop = TarMember("l", "", '2', "m") + TarMember("m", "", '2', "l");
  EXPECT_TRUE(Contains(error(good + loop, saved("config", "l")), "loop"));
  const std::string device = TarMember("l", "", '3');
  EXPECT_TRUE(Contains(error(good + device, saved("config", "l")), "there is no l"));

  Write("oci.tar", TarMember("index.json", "{}") + EndOfTar());
  EXPECT_TRUE(Contains(ManifestText("docker-archive:%D/oci.tar"), "write oci-archive:"));
}

TEST_F(LocalSourceTest, HardLinksAndRepeatedMembers) {
  const std::string a = Layer("a"), b = Layer("b");
  const std::string config = ConfigFor({a, b});
  Write(
      "image.tar",
      TarMember("a.tar", a) + TarMember("link", "", '1', "a.tar") + TarMember("b.tar", "old") +
          TarMember("b.tar", b) + TarMember("config", config) +
          TarMember("manifest.json", StrCat("[", SavedJson("config", {}, {"link", "b.tar"}), "]")) +
          EndOfTar());
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("docker-archive:%D/image.tar");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(LocalBytes(**source, Of(a)), a);
  EXPECT_EQ(LocalBytes(**source, Of(b)), b);
}

TEST_F(LocalSourceTest, LongNamesOfGnuTar) {
  const std::string a = Layer("a");
  const std::string config = ConfigFor({a});
  const std::string name = std::string(150, 'd') + "/layer.tar";
  Write("image.tar",
        TarMember("././@LongLink", name + '\0', 'L') + TarMember(name.substr(0, 100), a) +
            TarMember("config", config) +
            TarMember("manifest.json", StrCat("[", SavedJson("config", {}, {name}), "]")) +
            EndOfTar());
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("docker-archive:%D/image.tar");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(LocalBytes(**source, Of(a)), a);
}

TEST_F(LocalSourceTest, AudienceNamesTheContainer) {
  Layout layout;
  layout.AddImage({Layer("a")}, Named("v1"));
  WriteDirectory(layout);
  absl::StatusOr<std::shared_ptr<ImageSource>> source = Open("oci:%D/layout:v1");
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE(Contains((*source)->auth_scope(), dir_ + "/layout"));
}

}  // namespace
}  // namespace imagefs
