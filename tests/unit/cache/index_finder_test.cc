// SPDX-License-Identifier: Apache-2.0
#include "cache/index_finder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/layer_maker.h"
#include "fetch/registry_writer.h"
#include "image/index_bundle.h"
#include "image/zstd_frame.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"
#include "tests/fakes/image/tar_writer.h"
#include "tests/fakes/image/toc_writer.h"

namespace imagefs {
namespace {

constexpr std::string_view kSociDigest = "com.amazon.soci.index-digest";

std::string ReadAll(int fd) {
  struct stat st;
  EXPECT_EQ(fstat(fd, &st), 0);
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  EXPECT_TRUE(PreadFull(fd, absl::MakeSpan(bytes), 0).ok());
  return bytes;
}

// What `imagefs index` publishes for a layer whose blob is its tar.
IndexBundle BundleOf(const std::string& tar) {
  const Fd data(memfd_create("data", MFD_CLOEXEC)), index(memfd_create("index", MFD_CLOEXEC));
  EXPECT_TRUE(PwriteFull(data.get(), tar, 0).ok());
  EXPECT_TRUE(
      IndexData(data.get(), tar.size(), LayerForm(), Sha256Of(tar), index.get(), CancelToken())
          .ok());
  return {ReadAll(index.get()), *WriteSpanTable(MakeTable(tar, tar, 1 << 20))};
}

class IndexFinderTest : public ::testing::Test {
 protected:
  // An image in a repository of its own.
  struct Image {
    FakeRepository repository;
    std::shared_ptr<ImageSource> source;
    ResolvedImage image;
    std::vector<std::string> tars;
  };

  IndexFinderTest() {
    options_.min_bytes = 0;
    options_.directory = ::testing::TempDir();
    options_.open = [this](const Reference&) { return configured_.Open("configured"); };
  }

  std::unique_ptr<Image> MakeImage(const std::string& name, size_t layers = 1) {
    auto made = std::make_unique<Image>();
    made->source = made->repository.Open(name);
    made->image.manifest_digest = Sha256Of(StrCat("manifest of ", name));
    for (size_t i = 0; i < layers; ++i) {
      made->tars.push_back(TarOf({{StrCat(name, i), MixedBytes(100'000, 1)}}));
      made->image.manifest.layers.push_back(made->repository.AddBlob(made->tars.back()));
      made->image.config.diff_ids.push_back(Sha256Of(made->tars.back()));
    }
    return made;
  }

  // Pushes an artifact for `image` to `repository`; its n-th layer has bundles[n].
  static std::vector<Descriptor> Publish(FakeRepository& repository, const Image& image,
                                         const std::vector<std::string>& bundles,
                                         bool with_signature = false) {
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = std::string(kIndexArtifactType);
    artifact.subject.media_type = "application/vnd.oci.image.manifest.v1+json";
    artifact.subject.digest = image.image.manifest_digest;
    artifact.subject.size = 100;
    if (with_signature) artifact.annotations["test.signature"] = "right";
    std::vector<Descriptor> blobs;
    for (size_t i = 0; i < bundles.size(); ++i) {
      RegistryWriter::Layer layer;
      layer.media_type = std::string(kLayerIndexMediaType);
      layer.annotations[std::string(kLayerAnnotation)] =
          image.image.manifest.layers[i].digest.ToString();
      blobs.push_back(repository.AddBlob(bundles[i]));
      layer.blob.digest = blobs.back().digest;
      layer.blob.size = blobs.back().size;
      artifact.layers.push_back(std::move(layer));
    }
    repository.AddManifest(StrCat("sha256-", image.image.manifest_digest.hex(), ".imagefs"),
                           ArtifactManifest(artifact));
    return blobs;
  }

  void UseKeys() {
    options_.verify_signature = [](const Manifest& artifact) -> absl::Status {
      if (artifact.annotations.contains("test.signature")) return absl::OkStatus();
      return absl::PermissionDeniedError("no signature by a key of this test");
    };
  }

  struct Search {
    absl::Notification ended;
    IndexFinder::Found found;
    CancelSource cancel;
  };
  static std::unique_ptr<Search> Begin(IndexFinder& finder, const Image& image, IndexTrust trust) {
    auto search = std::make_unique<Search>();
    // The fixture's image outlives it.
    const ImageRef ref(std::shared_ptr<void>(), &image.image);
    finder.Find(ref, image.source, std::vector<bool>(image.tars.size(), true), trust, /*runs=*/true,
                search->cancel.token(), [search = search.get()](IndexFinder::Found found) {
                  search->found = std::move(found);
                  search->ended.Notify();
                });
    return search;
  }
  // Returns "" if nothing is usable.
  std::string Find(const Image& image, IndexTrust trust) {
    IndexFinder finder(options_);
    const auto search = Begin(finder, image, trust);
    search->ended.WaitForNotification();
    refused_ = Counter(finder, "indexes_refused");
    last_ = search->found.layers.at(0);
    return last_ == nullptr ? "" : std::string(IndexSourceName(last_->source));
  }
  static uint64_t Counter(const IndexFinder& finder, std::string_view name) {
    std::vector<std::pair<std::string, uint64_t>> counters;
    finder.AppendCounters(counters);
    for (const auto& [key, value] : counters) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }

  FakeRepository configured_;
  IndexFinder::Options options_;
  FoundIndexRef last_;
  uint64_t refused_ = 0;
};

TEST_F(IndexFinderTest, OnlyWhatIsTrustedIsUsed) {
  const auto image = MakeImage("image");
  const std::string bundle = PackBundle(BundleOf(image->tars[0]))->index;
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "");
  Publish(image->repository, *image, {bundle});
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "beside");
  EXPECT_EQ(Find(*image, IndexTrust::Repository()), "beside");
  EXPECT_EQ(Find(*image, IndexTrust::Configured()), "");
  EXPECT_EQ(Find(*image, IndexTrust::Trusted()), "");
  EXPECT_EQ(Find(*image, IndexTrust::None()), "");
  options_.repositories = {*Reference::Parse("other.test/indexes")};
  Publish(configured_, *image, {bundle});
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "beside");  // asked first
  EXPECT_EQ(Find(*image, IndexTrust::Trusted()), "configured");
  EXPECT_EQ(Find(*image, IndexTrust::Configured()), "configured");
  EXPECT_EQ(Find(*image, {IndexSource::kSigned}), "");
  EXPECT_EQ(Find(*image, IndexTrust::None()), "");
}

TEST_F(IndexFinderTest, WhatIsNotTrustedIsNotEvenAskedFor) {
  const auto image = MakeImage("image");
  Publish(image->repository, *image, {PackBundle(BundleOf(image->tars[0]))->index});
  EXPECT_EQ(Find(*image, IndexTrust::Trusted()), "");
  EXPECT_EQ(image->repository.manifest_reads(), 0);
  IndexFinder finder(options_);
  finder.Prefetch(image->image.manifest_digest, image->source, IndexTrust::Trusted());
  EXPECT_EQ(Counter(finder, "index_lookups"), 0U);
}

TEST_F(IndexFinderTest, ASignatureIsGoodWhereverTheArtifactLies) {
  UseKeys();
  const auto image = MakeImage("image");
  const std::string bundle = PackBundle(BundleOf(image->tars[0]))->index;
  Publish(image->repository, *image, {bundle});
  EXPECT_EQ(Find(*image, IndexTrust::Trusted()), "");
  EXPECT_EQ(refused_, 1U);  // and says why
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "beside");
  Publish(image->repository, *image, {bundle}, /*with_signature=*/true);
  EXPECT_EQ(Find(*image, IndexTrust::Trusted()), "signed");
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "signed");
  EXPECT_EQ(Find(*image, {IndexSource::kBeside}), "beside");
  // An unsigned index in the image's repository does not hide a signed one in a configured one.
  Publish(image->repository, *image, {bundle});
  options_.repositories = {*Reference::Parse("other.test/indexes")};
  Publish(configured_, *image, {bundle}, /*with_signature=*/true);
  EXPECT_EQ(Find(*image, {IndexSource::kSigned}), "signed");
}

TEST_F(IndexFinderTest, ATableInTheLayerIsTheImages) {
  for (const TocKind kind : {TocKind::kEstargz, TocKind::kZstdChunked}) {
    TocWriter::Options toc;
    toc.kind = kind;
    TocWriter writer(toc);
    writer.Add({.name = "file", .data = MixedBytes(50'000, 3)});
    const TocWriter::Blob blob = writer.Finish();
    Image image;
    image.source = image.repository.Open("image");
    image.image.manifest_digest = Sha256Of("manifest");
    image.image.manifest.layers = {blob.descriptor};
    image.image.config.diff_ids = {Sha256Of(blob.tar)};
    image.tars = {blob.tar};
    image.repository.AddBlob(blob.bytes);
    EXPECT_EQ(Find(image, IndexTrust::Configured()), "in-image");
    EXPECT_EQ(Find(image, IndexTrust::Repository()), "");
    EXPECT_EQ(Find(image, IndexTrust::Trusted()), "");
    EXPECT_EQ(Find(image, IndexTrust::Any()), "in-image");
    EXPECT_EQ(last_->description, FindToc(blob.descriptor)->digest);
    const auto index = ErofsImage::OpenFd(last_->index.get(), "index");
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_TRUE((*index)->Lookup((*index)->root(), "file")->has_value());
  }
}

TEST_F(IndexFinderTest, ASociIndexThatTheManifestDoesNotNameLiesBeside) {
  const auto image = MakeImage("image");
  image->image.manifest.annotations[std::string(kSociDigest)] = Sha256Of("absent").ToString();
  // Only checks whether it is requested.
  const auto asked = [&](IndexTrust trust) {
    const int before = image->repository.manifest_reads();
    EXPECT_EQ(Find(*image, trust), "");
    return image->repository.manifest_reads() - before;
  };
  EXPECT_EQ(asked(IndexTrust::Trusted()), 0);
  EXPECT_EQ(asked(IndexTrust::Configured()), 1);  // the SOCI index
  EXPECT_EQ(asked(IndexTrust::Repository()), 1);  // the tag
  EXPECT_EQ(asked(IndexTrust::Any()), 2);
}

TEST_F(IndexFinderTest, WhatIsGivenWasWrittenHereAndIsDisarmed) {
  const auto image = MakeImage("image");
  const std::string tar =
      TarWriter()
          .Pax({{"SCHILY.xattr.security.capability", "power"}, {"SCHILY.xattr.user.a", "b"}})
          .File("program", "text")
          .End()
          .bytes();
  image->tars[0] = tar;
  image->image.manifest.layers[0] = image->repository.AddBlob(tar);
  image->image.config.diff_ids[0] = Sha256Of(tar);
  IndexBundle bundle = BundleOf(tar);
  bundle.index += std::string(512, '?');  // bytes that a reader ignores
  Publish(image->repository, *image, {PackBundle(bundle)->index});
  ASSERT_EQ(Find(*image, IndexTrust::Any()), "beside");
  EXPECT_EQ(last_->description, Sha256Of(PackBundle(bundle)->index));
  const std::string bytes = ReadAll(last_->index.get());
  EXPECT_EQ(bytes.size(), last_->index_bytes);
  EXPECT_EQ(bytes.find('?'), std::string::npos);
  EXPECT_EQ(bytes.find("power"), std::string::npos);
  EXPECT_EQ(ReadAll(last_->span_table.get()), bundle.span_table);
  const auto index = *ErofsImage::FromMemory(bytes);
  const auto xattrs = *index->Xattrs(**index->Lookup(index->root(), "program"));
  ASSERT_EQ(xattrs.size(), 1U);
  EXPECT_EQ(xattrs[0].name, "user.a");
}

TEST_F(IndexFinderTest, AnIndexThatIsLargeForItsLayerIsNotFetched) {
  const auto image = MakeImage("image");
  const auto blobs = Publish(image->repository, *image, {std::string((1 << 20) + 1, 'x')});
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "");
  EXPECT_EQ(refused_, 1U);
  EXPECT_TRUE(image->repository.Reads(blobs[0].digest).empty());
  // The layer's size is a claim, too: no more is fetched than there is memory for.
  image->image.manifest.layers[0].size = uint64_t{1} << 40;
  const auto large =
      Publish(image->repository, *image, {std::string(LargestIndex(options_.memory) + 1, 'x')});
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "");
  EXPECT_EQ(refused_, 1U);
  EXPECT_TRUE(image->repository.Reads(large[0].digest).empty());
}

TEST_F(IndexFinderTest, ABombIsNotUnpacked) {
  const auto image = MakeImage("image");
  const uint64_t largest = LargestIndex(options_.memory);
  const auto blobs = Publish(image->repository, *image,
                             {CompressZstd(StrCat("imgfsidx", std::string(largest, '\0')), 1)});
  ASSERT_LT(blobs[0].size, 1U << 20);
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "");
  EXPECT_EQ(refused_, 1U);
}

TEST_F(IndexFinderTest, TheIndexesOfOneImageShareOneBudget) {
  options_.memory = 8 << 20;
  const auto image = MakeImage("image", 12);
  std::vector<std::string> bundles;
  for (const std::string& tar : image->tars) {
    IndexBundle bundle = BundleOf(tar);
    bundle.index += std::string(1'000'000, '\0');
    bundles.push_back(PackBundle(bundle)->index);
  }
  Publish(image->repository, *image, bundles);
  IndexFinder finder(options_);
  const auto search = Begin(finder, *image, IndexTrust::Any());
  search->ended.WaitForNotification();
  EXPECT_EQ(Counter(finder, "indexes_found"), 8U);
  EXPECT_EQ(Counter(finder, "indexes_refused"), 4U);
}

TEST_F(IndexFinderTest, AnImageWithManyIndexesWaitsForItself) {
  options_.memory = 8 << 20;  // for fetched data: 32 MiB in total, 2 MiB per image
  const auto hostile = MakeImage("hostile", 48);
  const auto held = Publish(hostile->repository, *hostile,
                            std::vector<std::string>(48, std::string(900'000, 'x')));
  hostile->repository.HoldAt(held[0].digest, 1000);
  const auto honest = MakeImage("honest");
  Publish(honest->repository, *honest, {PackBundle(BundleOf(honest->tars[0]))->index});
  IndexFinder finder(options_);
  const auto stuck = Begin(finder, *hostile, IndexTrust::Any());
  hostile->repository.AwaitHeld(held[0].digest);
  const auto search = Begin(finder, *honest, IndexTrust::Any());
  search->ended.WaitForNotification();
  EXPECT_NE(search->found.layers[0], nullptr);
  EXPECT_FALSE(stuck->ended.HasBeenNotified());
  EXPECT_LE(hostile->repository.Reads(held[0].digest).size(), 2U);
  // A search that waits for space can be cancelled. (Nine may be fetched for one image; the others
  // are refused.)
  EXPECT_TRUE(Eventually([&] { return Counter(finder, "indexes_refused") >= 39; }));
  EXPECT_EQ(Counter(finder, "indexes_refused"), 39U);
  stuck->cancel.Cancel();
  stuck->ended.WaitForNotification();
  EXPECT_EQ(Counter(finder, "indexes_refused"), 39U);
}

TEST_F(IndexFinderTest, WrongBytesOfAnIndexAreRefused) {
  const auto image = MakeImage("image");
  const auto blobs =
      Publish(image->repository, *image, {PackBundle(BundleOf(image->tars[0]))->index});
  image->repository.CorruptAt(blobs[0].digest, 100, 1);
  EXPECT_EQ(Find(*image, IndexTrust::Any()), "");
  EXPECT_EQ(refused_, 1U);
}

// For 64 MiB: the number of files stated in docs/security.md.
TEST(IndexMemory, IsEnoughForWhatItIsMeantFor) {
  EXPECT_EQ(LargestIndex(0), 0U);
  EXPECT_GT(LargestIndex(64 << 20), 20U << 20);
  EXPECT_LE(IndexMemory(0, LargestIndex(64 << 20)), 64U << 20);
  EXPECT_GT(IndexMemory(1, UINT64_MAX), uint64_t{1} << 60);
}

}  // namespace
}  // namespace imagefs
