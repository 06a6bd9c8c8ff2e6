// SPDX-License-Identifier: Apache-2.0
// Layers without an index whose blobs have their bytes, through the store.

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "fetch/registry_writer.h"
#include "image/hot_pack.h"
#include "image/index_bundle.h"
#include "image/span_table.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"
#include "tests/fakes/cache/lazy_store_fixture.h"
#include "tests/fakes/image/old_bundle.h"

namespace imagefs {
namespace {

// Layers whose blobs are their tars, large enough to be mounted by their headers.
class StoredLayerTest : public LazyStoreTest {
 protected:
  StoredLayerTest() {
    tars_.clear();
    for (uint32_t i = 0; i < 2; ++i) {
      tars_.push_back(TarOf({{StrCat("small", i), "hello"},
                             {StrCat("model", i), MixedBytes(5 << 20, 10 + i)},
                             {StrCat("last", i), "end"}}));
    }
    manifest_ = repository_.AddImage("latest", tars_);
    blobs_ = {repository_.LayerBlob(0), repository_.LayerBlob(1)};
  }
  uint64_t BytesRead(size_t layer) const {
    uint64_t bytes = 0;
    for (const ByteRange& range : repository_.Reads(blobs_[layer].digest)) bytes += range.size();
    return bytes;
  }
};

TEST_F(StoredLayerTest, IsShownByItsHeaders) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_FALSE(chain_->complete());
  EXPECT_LE(BytesRead(0), 32U << 10);
  EXPECT_LE(repository_.Reads(blobs_[0].digest).size(), 3U);
  EXPECT_EQ(chain_->layers[0]->source, IndexSource::kUnverified);
  for (const char* name : {"small0", "model0", "last0", "model1"}) {
    EXPECT_TRUE(chain_->index->Lookup(chain_->index->root(), name)->has_value()) << name;
  }
  EXPECT_TRUE(Read(0, {3'000'000, 3'004'096}).ok());
  EXPECT_LE(BytesRead(0), 1U << 20);
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  EXPECT_EQ(Counter("layers_lazy"), 2U);
  EXPECT_EQ(Counter("stored_layers_scanned"), 2U);
  EXPECT_EQ(Counter("stored_scans_given_up"), 0U);
}

TEST_F(StoredLayerTest, IsFetchedOnceAndHashedWhenItIsWhole) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Durable().ok());
  EXPECT_TRUE(Eventually([&] { return StateOf(0) == LayerState::kComplete; }));
  EXPECT_EQ(Counter("layers_filled"), 2U);
  EXPECT_LE(BytesRead(0), tars_[0].size() + (32U << 10));
  EXPECT_FALSE(std::filesystem::exists(chain_->layers[0]->directory + "/blob"));
  // The next mount is of proven layers, also for those who trust nobody.
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  EXPECT_TRUE(chain_->layers[0]->proven() && chain_->complete());
  EXPECT_LE(BytesRead(0), tars_[0].size() + (32U << 10));
}

TEST_F(StoredLayerTest, OnlyThoseWhoTrustTheRegistryAreShownWhatItSays) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any().Without(IndexSource::kUnverified)).ok());
  EXPECT_TRUE(chain_->whole());
  EXPECT_EQ(Counter("stored_layers_scanned"), 0U);
  EXPECT_EQ(Counter("layers_built"), 2U);
}

TEST_F(StoredLayerTest, WhoTrustsNobodyWaitsForTheProofOfWhatOthersAreShown) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  const ChainRef lazy = chain_;
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  EXPECT_TRUE(chain_->complete());
  EXPECT_EQ(Counter("layers_built"), 0U);
}

TEST_F(StoredLayerTest, AWrongByteIsFoundWhenTheLayerIsWhole) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  repository_.CorruptAt(blobs_[0].digest, 3'000'000, 1);
  EXPECT_TRUE(absl::IsInternal(Read(0, {3'000'000, 3'004'096})));
  const absl::Status proof = Durable();
  EXPECT_TRUE(absl::IsDataLoss(proof)) << proof;
  EXPECT_TRUE(absl::IsDataLoss(Read(0, {0, 100})));
  EXPECT_EQ(StateOf(0), LayerState::kAbsent);
  // From now on it is read as a whole.
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->layers[0]->whole());
  EXPECT_TRUE(ReadAny(0, 3'000'000).ok());
}

TEST_F(StoredLayerTest, AWrongHeaderLeavesThePass) {
  OpenNew();
  repository_.CorruptAt(blobs_[0].digest, 513 + 512, 1);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->layers[0]->whole());
  EXPECT_FALSE(chain_->layers[1]->whole());
  EXPECT_EQ(Counter("stored_scans_given_up"), 1U);
}

TEST_F(StoredLayerTest, ARegistryThatSendsNoPartsLeavesThePass) {
  OpenNew();
  for (const Descriptor& blob : blobs_) repository_.IgnoreRanges(blob.digest);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->whole());
  EXPECT_EQ(Counter("stored_scans_given_up"), 2U);
}

TEST_F(StoredLayerTest, HeadersThatEndEarlyLeaveThePass) {
  OpenNew();
  for (const Descriptor& blob : blobs_) repository_.EndEarly(blob.digest, 100, 1);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->whole());
  EXPECT_EQ(Counter("stored_scans_given_up"), 2U);
}

TEST_F(StoredLayerTest, ManySmallFilesAreStreamed) {
  std::vector<std::pair<std::string, std::string>> files;
  for (int i = 0; i < 3000; ++i) files.emplace_back(StrCat("f", i), std::string(2000, 'x'));
  tars_[0] = TarOf(files);
  manifest_ = repository_.AddImage("latest", tars_);
  blobs_[0] = repository_.LayerBlob(0);
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->layers[0]->whole());
  EXPECT_FALSE(chain_->layers[1]->whole());
}

TEST_F(StoredLayerTest, GoesOnAfterTheProcess) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Read(0, {0, 1 << 20}).ok());
  const uint64_t before = BytesRead(0);
  Reopen();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_FALSE(chain_->complete());
  ASSERT_TRUE(Read(0, {0, 1 << 20}).ok());
  EXPECT_LE(BytesRead(0), before + (64U << 10));
  ASSERT_TRUE(Durable().ok());
}

TEST_F(StoredLayerTest, IsSharedWithinItsRepositoryOnly) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  const ChainRef first = chain_;
  tars_.push_back(TarOf({{"more", "x"}}));
  manifest_ = repository_.AddImage("other", tars_);
  const uint64_t before = BytesRead(0);
  ASSERT_TRUE(Show(IndexTrust::Any(), "registry.test/img:other").ok());
  EXPECT_EQ(chain_->layers[0], first->layers[0]);
  tars_.push_back(TarOf({{"most", "x"}}));
  manifest_ = repository_.AddImage("third", tars_);
  ASSERT_TRUE(Show(IndexTrust::Any(), "registry.test/elsewhere:third").ok());
  EXPECT_NE(chain_->layers[0]->id, first->layers[0]->id);
  EXPECT_GT(BytesRead(0), before);
}

TEST_F(StoredLayerTest, CanBeEvictedOnceItsSpansHaveDigests) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Durable().ok());
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  MakeIndexes();
  const auto table = SpanTableReader::Open(chain_->layers[0]->directory + "/access");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_TRUE((*table)->has_digests() && (*table)->data_is_blob());
}

TEST_F(StoredLayerTest, MakingIndexesNeitherListsNorHoldsTheImage) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  ASSERT_TRUE(store_->Remove(*Reference::Parse(image_->reference)).ok());
  MakeIndexes();
  const auto images = store_->ListImages(/*also_held=*/true);
  ASSERT_TRUE(images.ok()) << images.status();
  EXPECT_TRUE(images->empty());
}

// What MakeIndexes leaves is published like the index of any layer.
TEST_F(StoredLayerTest, APublishedIndexComesFirst) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(chain_->layers[0]->source, IndexSource::kBeside);
  EXPECT_EQ(Counter("stored_layers_scanned"), 0U);
  repository_.CorruptAt(blobs_[0].digest, 3'000'000, 1);
  EXPECT_TRUE(Read(0, {3'000'000, 3'004'096}).ok());
  ASSERT_TRUE(Durable().ok());
}

// An artifact with a file and an uncompressed tar.
class StoredArtifactTest : public LazyStoreTest {
 protected:
  StoredArtifactTest() {
    Add("weights", MixedBytes(5 << 20, 20), "application/vnd.example.raw");
    Add("archive", TarOf({{"model", MixedBytes(5 << 20, 21)}, {"last", "end"}}),
        "application/vnd.example.tar");
    Publish();
  }
  // `title`: where a file is shown; a tar has none.
  void Add(const std::string& title, std::string bytes, const std::string& media_type) {
    RegistryWriter::Layer layer;
    layer.media_type = media_type;
    if (!media_type.ends_with(".tar")) {
      layer.annotations["org.opencontainers.image.title"] = title;
    }
    layer.blob.digest = Sha256Of(bytes);
    layer.blob.size = bytes.size();
    artifact_.layers.push_back(layer);
    all_.push_back(repository_.AddBlob(bytes));
    contents_.push_back(std::move(bytes));
    blobs_.assign(all_.begin(), all_.begin() + std::min<size_t>(all_.size(), 2));
    tars_.assign(contents_.begin(), contents_.begin() + std::min<size_t>(contents_.size(), 2));
  }
  void Publish() {
    artifact_.artifact_type = "application/vnd.example";
    artifact_.subject.media_type = "application/vnd.oci.image.manifest.v1+json";
    artifact_.subject.digest = Sha256Of("subject");
    artifact_.subject.size = 7;
    repository_.AddManifest("latest", ArtifactManifest(artifact_));
  }
  bool IsInTree(const char* name) const {
    return chain_->index->Lookup(chain_->index->root(), name)->has_value();
  }

  RegistryWriter::Artifact artifact_;
  std::vector<Descriptor> all_;
  std::vector<std::string> contents_;
};

TEST_F(StoredArtifactTest, IsShownByOneRequestForAFile) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_FALSE(chain_->complete());
  EXPECT_EQ(Counter("layers_lazy"), 2U);
  ASSERT_EQ(repository_.Reads(blobs_[0].digest).size(), 1U);
  EXPECT_EQ(repository_.Reads(blobs_[0].digest)[0].size(), 512U);
  for (const char* name : {"weights", "model", "last"}) EXPECT_TRUE(IsInTree(name)) << name;
  for (const LayerRef& layer : chain_->layers) {
    EXPECT_EQ(layer->source, IndexSource::kUnverified);
    EXPECT_FALSE(layer->proven());
  }
  EXPECT_TRUE(Read(0, {3'000'000, 3'004'096}).ok());
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
}

TEST_F(StoredArtifactTest, IsProvenUnderTheNameThatAPassGives) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  const ChainRef whole = chain_;
  EXPECT_EQ(Counter("layers_lazy"), 0U);
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Durable().ok());
  EXPECT_EQ(Counter("layers_filled"), 2U);
  ASSERT_TRUE(Show(IndexTrust::None()).ok());
  EXPECT_TRUE(chain_->complete());
  EXPECT_EQ(Counter("layers_built"), 0U);
  EXPECT_EQ(chain_->chain_id, whole->chain_id);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(chain_->layers[i]->proven());
    EXPECT_EQ(chain_->layers[i]->id, whole->layers[i]->id);
    EXPECT_EQ(chain_->layers[i]->form, whole->layers[i]->form);
    EXPECT_TRUE(ReadAny(i, 3'000'000).ok());
  }
}

TEST_F(StoredArtifactTest, GoesOnAfterTheProcess) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Read(0, {0, 1 << 20}).ok());
  const size_t before = BlobReads();
  Reopen();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_FALSE(chain_->complete());
  ASSERT_TRUE(Read(0, {0, 1 << 20}).ok());
  EXPECT_EQ(BlobReads(), before);
  ASSERT_TRUE(Durable().ok());
}

TEST_F(StoredArtifactTest, AWrongByteIsFoundWhenTheLayerIsWhole) {
  for (const size_t layer : {0, 1}) {
    OpenNew();
    ASSERT_TRUE(Show(IndexTrust::Any()).ok());
    repository_.CorruptAt(blobs_[layer].digest, 3'000'000, 1);
    EXPECT_TRUE(absl::IsInternal(Read(layer, {3'000'000, 3'004'096})));
    EXPECT_TRUE(absl::IsDataLoss(Durable()));
    ASSERT_TRUE(Show(IndexTrust::Any()).ok());
    EXPECT_TRUE(chain_->layers[layer]->whole());
    EXPECT_TRUE(ReadAny(layer, 3'000'000).ok());
  }
}

TEST_F(StoredArtifactTest, OnlyThoseWhoTrustTheRegistryAreShownWhatItSays) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any().Without(IndexSource::kUnverified)).ok());
  EXPECT_TRUE(chain_->whole());
  EXPECT_EQ(Counter("stored_layers_scanned"), 0U);
}

TEST_F(StoredArtifactTest, ARegistryThatSendsNoPartsLeavesThePass) {
  OpenNew();
  for (const Descriptor& blob : blobs_) repository_.IgnoreRanges(blob.digest);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->whole());
  EXPECT_EQ(Counter("stored_scans_given_up"), 2U);
}

TEST_F(StoredArtifactTest, ACompressedTarOfAnotherTypeLeavesThePass) {
  Add("", GzipBytes(TarOf({{"packed", MixedBytes(5 << 20, 22)}})), "application/vnd.example.tar");
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->layers[2]->whole());
  EXPECT_FALSE(chain_->layers[1]->whole());
  EXPECT_TRUE(IsInTree("packed"));
}

TEST_F(StoredArtifactTest, MoreThanAreScannedAtOnceWait) {
  for (int i = 0; i < 50; ++i) {
    Add(StrCat("shard", i), std::string(4 << 20, static_cast<char>('0' + i)),
        "application/vnd.example.raw");
  }
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(Counter("layers_lazy"), 52U);
  EXPECT_EQ(Counter("stored_scans_given_up"), 0U);
}

}  // namespace
}  // namespace imagefs
