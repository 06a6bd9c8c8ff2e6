// SPDX-License-Identifier: Apache-2.0
// Images that are mounted before their bytes are present: ImageStore with published indexes.
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
#include "tests/fakes/image/old_bundle.h"

namespace imagefs {
namespace {

class LazyStoreTest : public ::testing::Test {
 protected:
  LazyStoreTest() : sources_(repository_) {
    for (uint32_t i = 0; i < 2; ++i) {
      tars_.push_back(
          TarOf({{StrCat("file", i), MixedBytes(1 << 20, i)}, {StrCat("small", i), "hello"}}));
    }
    manifest_ = repository_.AddImage("latest", tars_);
    blobs_ = {repository_.LayerBlob(0), repository_.LayerBlob(1)};
    options_.index.min_bytes = 0;
    options_.fill.background = false;
    options_.fill.guess = false;  // requests what is read, and nothing else
  }
  ~LazyStoreTest() override {
    chain_.reset();
    store_.reset();
    for (const std::string& root : roots_) std::filesystem::remove_all(root);
  }

  // So that spans have windows.
  void CompressLayers() {
    std::vector<FakeRepository::LayerSpec> layers;
    for (const std::string& tar : tars_) {
      layers.push_back({GzipBytes(tar), Sha256Of(tar), /*gzip=*/true});
    }
    manifest_ = repository_.AddImage("latest", layers);
    blobs_ = {repository_.LayerBlob(0), repository_.LayerBlob(1)};
  }
  void OpenNew() {
    roots_.push_back(StrCat(::testing::TempDir(), "/lazy-", RandomHex(8)));
    Reopen();
  }
  void Reopen() {
    chain_.reset();
    store_.reset();
    options_.root = roots_.back();
    auto store = ImageStore::Open(options_, sources_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  absl::Status Show(IndexTrust trust, std::string_view reference = "registry.test/img:latest") {
    absl::Notification ended;
    absl::Status status;
    ResolveRequest request;
    request.reference = *Reference::Parse(reference);
    request.platform = Platform::Host();
    request.trust = trust;
    store_->Resolve(request, [&](absl::StatusOr<ImageStore::Resolved> resolved) {
      if (!resolved.ok()) {
        status = resolved.status();
        return ended.Notify();
      }
      image_ = resolved->image;
      source_ = resolved->source;
      store_->EnsureChain(image_, source_, trust, Priority::kForeground,
                          [&](absl::StatusOr<ChainRef> chain) {
                            status = chain.status();
                            if (chain.ok()) chain_ = *std::move(chain);
                            ended.Notify();
                          });
    });
    ended.WaitForNotification();
    return status;
  }

  absl::Status Read(size_t layer, ByteRange range) {
    absl::Notification ended;
    absl::StatusOr<ReadPin> pin;
    chain_->layers[layer]->keeper()->Ensure(range, 0, CancelToken(),
                                            [&](absl::StatusOr<ReadPin> got) {
                                              pin = std::move(got);
                                              ended.Notify();
                                            });
    ended.WaitForNotification();
    if (!pin.ok()) return pin.status();
    std::string bytes(range.size(), '\0');
    EXPECT_TRUE(
        PreadFull(chain_->layers[layer]->data.get(), absl::MakeSpan(bytes), range.begin).ok());
    for (const ReadPin::Memory& part : pin->memory) {
      for (size_t i = 0; i < part.bytes->size(); ++i) {
        const uint64_t at = part.begin + i;
        if (at >= range.begin && at < range.end) bytes[at - range.begin] = (*part.bytes)[i];
      }
    }
    return bytes == tars_[layer].substr(range.begin, range.size())
               ? absl::OkStatus()
               : absl::InternalError("wrong bytes were served");
  }
  // Whatever is present of the layer.
  absl::Status ReadAny(size_t layer, size_t at) {
    at %= tars_[layer].size() - 50'000;
    if (chain_->layers[layer]->keeper() != nullptr) return Read(layer, {at, at + 50'000});
    std::string bytes(50'000, '\0');
    IMAGEFS_RETURN_IF_ERROR(
        PreadFull(chain_->layers[layer]->data.get(), absl::MakeSpan(bytes), at).status());
    return bytes == tars_[layer].substr(at, bytes.size())
               ? absl::OkStatus()
               : absl::InternalError("wrong bytes were served");
  }
  absl::Status Durable() {
    absl::Notification ended;
    absl::Status status;
    store_->WaitDurable(chain_, [&](absl::Status s) {
      status = std::move(s);
      ended.Notify();
    });
    ended.WaitForNotification();
    return status;
  }

  // Shows the image, and ends the process before the windows of its layers have come to it.
  void ReopenBeforeWindowsCome(IndexTrust trust) {
    for (const Descriptor& windows : windows_) repository_.HoldAt(windows.digest, 0);
    ASSERT_TRUE(Show(trust).ok());
    const Digest chain_id = chain_->chain_id;
    Reopen();
    auto chain = store_->FindChain(chain_id);
    ASSERT_TRUE(chain.ok()) << chain.status();
    chain_ = *chain;
    store_->AttachSource(chain_, *Reference::Parse("registry.test/img:latest"), {});
    for (const Descriptor& windows : windows_) repository_.Release(windows.digest);
  }

  // Publishes what a first machine makes, falsified by `lie`.
  void Publish(const std::function<void(size_t, IndexBundle&)>& lie = {},
               const std::string& profile = "", const PackedHotPack& pack = {}) {
    OpenNew();
    ASSERT_TRUE(Show(IndexTrust::None()).ok());
    absl::Notification ended;
    store_->MakeIndexes(image_, source_, [&](absl::StatusOr<ChainRef> chain) {
      EXPECT_TRUE(chain.ok()) << chain.status();
      ended.Notify();
    });
    ended.WaitForNotification();
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = std::string(kIndexArtifactType);
    artifact.subject.media_type = image_->manifest.media_type;
    artifact.subject.digest = manifest_;
    artifact.subject.size = image_->manifest_json.size();
    auto add = [&](const std::string& bytes, std::string_view media_type,
                   std::map<std::string, std::string> annotations) {
      RegistryWriter::Layer layer;
      layer.media_type = std::string(media_type);
      layer.annotations = std::move(annotations);
      const Descriptor blob = repository_.AddBlob(bytes);
      layer.blob.digest = blob.digest;
      layer.blob.size = blob.size;
      artifact.layers.push_back(std::move(layer));
    };
    for (size_t i = 0; i < published_layers_; ++i) {
      const std::string directory = chain_->layers[i]->directory;
      IndexBundle bundle = {*ReadFile(directory + "/index", 1 << 30),
                            *ReadFile(directory + "/access", 1 << 30)};
      if (lie) lie(i, bundle);
      const std::map<std::string, std::string> annotations = {
          {std::string(kLayerAnnotation), blobs_[i].digest.ToString()}};
      if (old_form_) {
        add(PackOldBundle(bundle), kOldLayerIndexMediaType, annotations);
        continue;
      }
      const PackedBundle packed = *PackBundle(bundle);
      add(packed.index, kLayerIndexMediaType, annotations);
      if (packed.windows.empty()) continue;
      windows_.resize(2);
      windows_[i].digest = Sha256Of(packed.windows);
      windows_[i].size = packed.windows.size();
      if (!without_windows_) add(packed.windows, kLayerWindowsMediaType, annotations);
    }
    if (!profile.empty()) add(profile, kProfileMediaType, {});
    if (!pack.bytes.empty()) {
      add(pack.bytes, kHotPackMediaType,
          {{std::string(kPackHeaderAnnotation),
            Sha256Of(pack.bytes.substr(0, pack.header_bytes)).ToString()},
           {std::string(kPackHeaderBytesAnnotation), StrCat(pack.header_bytes)}});
    }
    repository_.AddManifest(StrCat("sha256-", manifest_.hex(), ".imagefs"),
                            ArtifactManifest(artifact));
  }
  // A pack of a part of each layer; of the second one, a byte is wrong.
  PackedHotPack Pack(bool lies = false) const {
    const std::vector<HotPack::Layer> layers = {{Sha256Of(tars_[0]), tars_[0].size()},
                                                {Sha256Of(tars_[1]), tars_[1].size()}};
    return *PackHotPages(layers, {{0, {400'000, 500'000}}, {1, {100'000, 200'000}}}, UINT64_MAX,
                         [&](uint32_t layer, uint64_t offset, absl::Span<char> out) {
                           tars_[layer].copy(out.data(), out.size(), offset);
                           if (lies && layer == 1) out[0] ^= 1;
                           return absl::OkStatus();
                         });
  }
  bool PackCame() {
    return Eventually([&] { return Counter("hot_pack_bytes") >= 200'000; });
  }
  size_t BlobReads() const {
    return repository_.Reads(blobs_[0].digest).size() + repository_.Reads(blobs_[1].digest).size();
  }
  uint64_t Counter(std::string_view name) const {
    for (const auto& [key, value] : store_->Counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  LayerState StateOf(size_t layer) const {
    return store_->StateOf({Sha256Of(tars_[layer]), blobs_[layer].digest});
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::vector<std::string> tars_;
  Digest manifest_;
  std::vector<Descriptor> blobs_;
  bool old_form_ = false, without_windows_ = false;  // of what is published
  size_t published_layers_ = 2;
  std::vector<Descriptor> windows_;  // that are published in a blob of their own
  ImageStore::Options options_;
  std::vector<std::string> roots_;
  std::unique_ptr<ImageStore> store_;
  ImageRef image_;
  std::shared_ptr<ImageSource> source_;
  ChainRef chain_;
};

TEST_F(LazyStoreTest, IsShownWithoutAByteOfItsLayers) {
  Publish();
  OpenNew();
  const size_t reads = BlobReads();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(BlobReads(), reads);
  EXPECT_EQ(StateOf(0), LayerState::kFilling);
  EXPECT_FALSE(chain_->complete());
  EXPECT_TRUE(chain_->index->Lookup(chain_->index->root(), "file1")->has_value());
  EXPECT_TRUE(Read(0, {500'000, 510'000}).ok());
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  EXPECT_EQ(Counter("layers_lazy"), 2U);
}

TEST_F(LazyStoreTest, WindowsComeBehindTheMount) {
  CompressLayers();
  Publish();
  ASSERT_EQ(windows_.size(), 2U);
  OpenNew();
  for (const Descriptor& windows : windows_) repository_.HoldAt(windows.digest, 0);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->index->Lookup(chain_->index->root(), "file1")->has_value());
  EXPECT_TRUE(Read(1, {0, 100}).ok());  // the first span has no window
  EXPECT_EQ(Counter("fill_window_bytes"), 0U);
  for (const Descriptor& windows : windows_) repository_.Release(windows.digest);
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  ASSERT_TRUE(Durable().ok());
  EXPECT_TRUE(Eventually([&] { return StateOf(0) == LayerState::kComplete; }));
  EXPECT_EQ(Counter("fill_window_bytes"), windows_[0].size + windows_[1].size);
}

TEST_F(LazyStoreTest, ALayerWithoutItsWindowsIsForgotten) {
  CompressLayers();
  without_windows_ = true;
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  // It may also be noticed before the image is shown.
  if (!chain_->layers[0]->complete()) {
    EXPECT_TRUE(absl::IsDataLoss(Read(0, {0, tars_[0].size()})));
  }
  // The chain is forgotten after its layer.
  EXPECT_TRUE(
      Eventually([&] { return Show(IndexTrust::Any()).ok() && chain_->layers[0]->complete(); }));
  EXPECT_TRUE(ReadAny(0, 900'000).ok());
  EXPECT_EQ(Counter("layers_failed"), 2U);
}

TEST_F(LazyStoreTest, ALayerThatIsForgottenBeforeItsImageIsShownIsMadeAgain) {
  CompressLayers();
  without_windows_ = true;
  published_layers_ = 1;
  Publish();
  OpenNew();
  repository_.HoldAt(blobs_[1].digest, 0);
  std::thread release([&] {
    EXPECT_TRUE(Eventually([&] { return Counter("layers_failed") == 1; }));
    EXPECT_TRUE(Eventually([&] { return StateOf(0) == LayerState::kAbsent; }));
    repository_.Release(blobs_[1].digest);
  });
  EXPECT_TRUE(Show(IndexTrust::Any()).ok());
  release.join();
  EXPECT_TRUE(chain_->layers[0]->complete());
  EXPECT_TRUE(ReadAny(0, 900'000).ok());
}

TEST_F(LazyStoreTest, WindowsAreAskedForAgainAfterTheProcess) {
  CompressLayers();
  Publish();
  OpenNew();
  ReopenBeforeWindowsCome(IndexTrust::Any());
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  EXPECT_TRUE(Read(0, {900'000, 1'000'000}).ok());
}

TEST_F(LazyStoreTest, TheRepositoryOfTheIndexHasItsWindowsAlsoAfterTheProcess) {
  CompressLayers();
  Publish();
  options_.index.repositories = {*Reference::Parse("other.test/indexes")};
  OpenNew();
  ReopenBeforeWindowsCome(IndexTrust::Configured());
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
}

TEST_F(LazyStoreTest, IndexesOfEarlierVersionsAreRead) {
  CompressLayers();
  old_form_ = true;
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(Counter("layers_lazy"), 2U);
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  EXPECT_EQ(Counter("fill_window_bytes"), 0U);
}

TEST_F(LazyStoreTest, AHotPackBringsPagesWithoutTheirSpans) {
  Publish({}, "", Pack());
  OpenNew();
  const size_t reads = BlobReads();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(PackCame());
  EXPECT_TRUE(Read(0, {400'000, 500'000}).ok());
  EXPECT_TRUE(Read(1, {150'000, 200'000}).ok());
  EXPECT_EQ(BlobReads(), reads);
  EXPECT_EQ(Counter("hot_pack_reads"), 2U);
  EXPECT_TRUE(Read(1, {0, tars_[1].size()}).ok());
  ASSERT_TRUE(Durable().ok());
  EXPECT_TRUE(Eventually([&] { return StateOf(1) == LayerState::kComplete; }));
  EXPECT_EQ(Counter("hot_pack_wrong_spans"), 0U);
}

TEST_F(LazyStoreTest, AHotPackThatLiedIsNotBelievedAgain) {
  Publish({}, "", Pack(/*lies=*/true));
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(PackCame());
  EXPECT_FALSE(Read(1, {98'304, 110'000}).ok());  // nobody knows yet
  EXPECT_TRUE(absl::IsDataLoss(Read(1, {0, tars_[1].size()})));
  EXPECT_GT(Counter("hot_pack_wrong_spans"), 0U);
  // The other layer goes on, without the pack.
  const size_t reads = BlobReads();
  EXPECT_TRUE(Read(0, {400'000, 500'000}).ok());
  EXPECT_GT(BlobReads(), reads);
  chain_.reset();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_GT(Counter("indexes_refused"), 0U);
  EXPECT_EQ(Counter("hot_packs"), 1U);
  EXPECT_TRUE(ReadAny(1, 100'000).ok());
}

TEST_F(LazyStoreTest, LayersThatMayGetPagesAreOthers) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  const Digest without = chain_->layers[0]->id;
  Publish({}, "", Pack());
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_NE(chain_->layers[0]->id, without);
  // Whoever does not want packs has the layers without.
  options_.index.hot_packs = false;
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(chain_->layers[0]->id, without);
  EXPECT_EQ(Counter("hot_packs"), 0U);
}

TEST_F(LazyStoreTest, BecomesCompleteAndIsCheckedAsAWhole) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Durable().ok());
  // The names that the image was given are synced; the DiffIDs, which nobody waits for, follow.
  EXPECT_TRUE(Eventually([&] { return StateOf(0) == LayerState::kComplete; }));
  EXPECT_EQ(Counter("layers_filled"), 2U);
  Reopen();
  EXPECT_EQ(StateOf(1), LayerState::kComplete);
}

// A layer that was used before it was proven has two names for one file. Damage affects both, even
// if it happened while nobody had the layer open.
TEST_F(LazyStoreTest, LeavesItsBlobsToWhoKeepsThem) {
  Publish();
  options_.keep_blobs = true;
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(store_->kept_blobs()->List().empty());
  ASSERT_TRUE(Durable().ok());
  for (const Descriptor& blob : blobs_) {
    const absl::StatusOr<Fd> fd = store_->kept_blobs()->Read(blob.digest);
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(*Sha256OfFile(fd->get()), blob.digest);
  }
}

TEST_F(LazyStoreTest, DamageIsMendedUnderTheNameThatAnImageWasGiven) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Durable().ok());
  ASSERT_TRUE(Eventually([&] { return StateOf(0) == LayerState::kComplete; }));
  const std::string path = chain_->layers[0]->directory + "/data";
  ASSERT_NE(chain_->layers[0]->id, chain_->layers[0]->diff_id);
  const Reference reference = *Reference::Parse("registry.test/img:latest");
  chain_.reset();
  store_.reset();
  {
    const Fd fd = *OpenFile(path, O_WRONLY);
    ASSERT_TRUE(PwriteFull(fd.get(), std::string(100'000, '!'), 300'000).ok());
  }
  Reopen();
  const auto image = store_->FindImage(reference, Platform::Host());
  ASSERT_TRUE(image.ok()) << image.status();
  auto chain = store_->FindChainOf(*image);
  ASSERT_TRUE(chain.ok()) << chain.status();
  chain_ = *chain;
  EXPECT_FALSE(chain_->layers[0]->readable());
  store_->AttachSource(chain_, reference, {});
  EXPECT_TRUE(Read(0, {250'000, 500'000}).ok());
  EXPECT_TRUE(Read(0, {0, tars_[0].size()}).ok());
}

TEST_F(LazyStoreTest, WithoutAnIndexEverythingIsBroughtFirst) {
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->complete());
  EXPECT_EQ(Counter("layers_built"), 2U);
}

TEST_F(LazyStoreTest, AnIndexBesideTheImageIsNotBelievedWhenTheConfigurationSaysSo) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Configured()).ok());
  EXPECT_TRUE(chain_->complete());
}

TEST_F(LazyStoreTest, AnIndexOfAConfiguredRepositoryIs) {
  Publish();
  options_.index.repositories = {*Reference::Parse("other.test/indexes")};
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Configured()).ok());
  EXPECT_FALSE(chain_->complete());
  EXPECT_TRUE(Read(0, {0, 1000}).ok());
}

TEST_F(LazyStoreTest, GoesOnAfterTheProcess) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Read(0, {0, 300'000}).ok());
  const size_t reads = BlobReads();
  const Digest chain_id = chain_->chain_id;
  Reopen();
  auto chain = store_->FindChain(chain_id);
  ASSERT_TRUE(chain.ok()) << chain.status();
  chain_ = *chain;
  EXPECT_TRUE(Read(0, {0, 300'000}).ok());
  EXPECT_EQ(BlobReads(), reads);
  store_->AttachSource(chain_, *Reference::Parse("registry.test/img:latest"), {});
  EXPECT_TRUE(Read(1, {0, 300'000}).ok());
}

TEST_F(LazyStoreTest, AnIndexOfAnotherLayerIsRefused) {
  Publish([](size_t layer, IndexBundle& bundle) {
    static IndexBundle first;
    if (layer == 0) first = bundle;
    if (layer == 1) bundle = first;
  });
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(StateOf(0), LayerState::kFilling);
  EXPECT_NE(StateOf(1), LayerState::kFilling);
  EXPECT_EQ(Counter("indexes_refused"), 1U);
}

TEST_F(LazyStoreTest, WrongDigestsOfSpansNeverServeAByte) {
  Publish([](size_t, IndexBundle& bundle) {
    const auto span_table = *SpanTableReader::FromBytes(bundle.span_table);
    SpanTable table;
    table.blob_digest = span_table->blob_digest();
    table.blob_size = span_table->blob_size();
    table.diff_id = span_table->diff_id();
    table.tar_bytes = span_table->tar_bytes();
    table.data_bytes = span_table->data_bytes();
    for (size_t i = 0; i < span_table->span_count(); ++i) {
      table.spans.push_back(span_table->span(i));
      if (i == 0) table.spans.back().digest = Sha256Of("a lie");
    }
    bundle.span_table = *WriteSpanTable(table);
  });
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(absl::IsDataLoss(Read(0, {0, 100})));
  EXPECT_TRUE(Read(0, {900'000, 900'100}).ok());
}

TEST_F(LazyStoreTest, ATreeThatIsNotTheTarsPoisonsTheLayerAndIsForgotten) {
  Publish([](size_t layer, IndexBundle& bundle) {
    // The name of a file: the size of the tree is unchanged.
    if (layer != 0) return;
    for (size_t at = 0; (at = bundle.index.find("small0", at)) != std::string::npos; ++at) {
      bundle.index.replace(at, 6, "smell0");
    }
  });
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(absl::IsDataLoss(Durable()));
  EXPECT_TRUE(absl::IsDataLoss(Read(0, {0, 100})));
  EXPECT_EQ(Counter("layers_failed"), 1U);
  EXPECT_EQ(StateOf(0), LayerState::kAbsent);
  EXPECT_EQ(store_->FillReports(chain_)[0]->state, "damaged");
  // The next caller gets what the tar says, although the index is still published.
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(chain_->layers[0]->complete());
  EXPECT_TRUE(chain_->index->Lookup(chain_->index->root(), "small0")->has_value());
  EXPECT_FALSE(chain_->index->Lookup(chain_->index->root(), "smell0")->has_value());
}

TEST_F(LazyStoreTest, APublishedProfileIsBroughtInAdvance) {
  Profile profile;
  profile.layers = {{Sha256Of(tars_[1]), tars_[1].size()}};
  profile.parts = {{Sha256Of(tars_[1]), {600'000, 600'100}}};
  Publish({}, profile.ToJson());
  OpenNew();
  const size_t reads = repository_.Reads(blobs_[1].digest).size();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Eventually([&] { return repository_.Reads(blobs_[1].digest).size() > reads; }));
  EXPECT_EQ(store_->profiles().Get(manifest_)->parts.size(), 1U);
}

TEST_F(LazyStoreTest, TheFirstRunIsRecorded) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Read(1, {600'000, 600'100}).ok());
  ASSERT_TRUE(Read(0, {0, 100}).ok());
  store_->profiles().Collect(/*all=*/true);
  const auto profile = store_->profiles().Get(manifest_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  ASSERT_EQ(profile->parts.size(), 2U);
  EXPECT_EQ(profile->parts[0].layer, Sha256Of(tars_[1]));
  EXPECT_EQ(profile->parts[1].layer, Sha256Of(tars_[0]));
}

// A removed file occupies space as long as it is open.
TEST_F(LazyStoreTest, ARemovedImageIsNotRecordedAnyMore) {
  Publish();
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Read(0, {0, 100}).ok());
  EXPECT_TRUE(store_->profiles().recording());
  chain_.reset();
  ASSERT_TRUE(store_->Remove(*Reference::Parse("registry.test/img:latest")).ok());
  EXPECT_FALSE(store_->profiles().recording());
  EXPECT_TRUE(store_->profiles().Get(manifest_).ok()) << "what was read until then is kept";
}

TEST_F(LazyStoreTest, EvictedLayersComeAgainInParts) {
  Publish();
  const Reference reference = *Reference::Parse("registry.test/img:latest");
  EXPECT_FALSE(store_->Evict(reference).ok());  // they are held
  ASSERT_TRUE(Durable().ok());
  chain_.reset();
  // The syncer may hold them for a moment.
  auto freed = store_->Evict(reference);
  for (int i = 0; i < 2000 && (!freed.ok() || *freed < 2'000'000); ++i) {
    absl::SleepFor(absl::Milliseconds(2));
    const auto more = store_->Evict(reference);
    if (more.ok()) freed = freed.ok() ? *freed + *more : *more;
  }
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_GT(*freed, 2'000'000U);
  EXPECT_EQ(StateOf(0), LayerState::kFilling);
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(Read(0, {100'000, 200'000}).ok());
}

// Evictions change files and records while the layers are opened: whoever opens one gets right
// bytes.
TEST_F(LazyStoreTest, LayersAreOpenedWhileTheyAreEvicted) {
  Publish();
  ASSERT_TRUE(Durable().ok());
  chain_.reset();
  const Reference reference = *Reference::Parse("registry.test/img:latest");
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> freed{0};
  std::thread evictor([&] {
    while (!stop) {
      const auto bytes = store_->Evict(reference);
      if (bytes.ok()) freed += *bytes;
    }
  });
  // Until one was evicted between two uses, which a busy machine may put off.
  for (int round = 0; round < 100 || (freed == 0 && round < 2000); ++round) {
    EXPECT_TRUE(Show(IndexTrust::Any()).ok()) << round;
    for (const size_t layer : {0, 1}) {
      EXPECT_TRUE(ReadAny(layer, (round % 100) * 10'000).ok()) << round;
    }
    chain_.reset();
  }
  stop = true;
  evictor.join();
  EXPECT_GT(freed.load(), 0U);
}

TEST_F(LazyStoreTest, ReadersFindEveryByteInAStoreAtItsLimit) {
  Publish();
  options_.space.reserve = {0, 0};
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  const uint64_t limit = store_->Usage()->used + 600'000;
  options_.space.limit.bytes = limit;
  Reopen();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  uint64_t most = 0;
  for (int round = 0; round < 3; ++round) {
    for (size_t at = 0; at + 50'000 < tars_[0].size(); at += 50'000) {
      for (const size_t layer : {0, 1}) {
        ASSERT_TRUE(ReadAny(layer, at).ok()) << round << " " << at;
      }
      most = std::max(most, store_->Usage()->used);
    }
  }
  EXPECT_LE(most, limit + (1 << 20));
  EXPECT_GT(Counter("fill_evicted_bytes"), 0U);
  // What waits for all of it is told why it cannot come.
  const absl::Status durable = Durable();
  EXPECT_TRUE(absl::IsResourceExhausted(durable)) << durable;
  EXPECT_NE(durable.message().find("store.limit"), std::string::npos) << durable;
}

TEST_F(LazyStoreTest, UnusedLayersGiveWayAndPinnedOnesDoNot) {
  Publish();
  ASSERT_TRUE(Durable().ok());
  const Reference reference = *Reference::Parse("registry.test/img:latest");
  ASSERT_TRUE(store_->Pin(reference).ok());
  EXPECT_TRUE(store_->ListImages(false)->front().pinned);
  const uint64_t used = store_->Usage()->used;
  options_.space.reserve = {0, 0};
  options_.space.limit.bytes = used - 500'000;
  Reopen();
  store_->StartCollecting();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(StateOf(0), LayerState::kComplete);
  ASSERT_TRUE(store_->Unpin(reference).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Unpin(reference)));
  Reopen();
  // Mounts of the previous process may need them: nothing goes before these were taken over.
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(StateOf(0), LayerState::kComplete);
  EXPECT_EQ(StateOf(1), LayerState::kComplete);
  store_->StartCollecting();
  EXPECT_TRUE(Eventually(
      [&] { return StateOf(0) == LayerState::kFilling || StateOf(1) == LayerState::kFilling; }));
  EXPECT_TRUE(Eventually([&] { return store_->Usage()->used <= used - 500'000; }));
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_TRUE(ReadAny(0, 100'000).ok());
}

TEST_F(LazyStoreTest, PruneRemovesWhatNothingUses) {
  Publish();
  ASSERT_TRUE(Durable().ok());
  EXPECT_EQ(store_->Prune({.all = true, .dry_run = true})->images.size(), 0U) << "it is in use";
  chain_.reset();
  image_.reset();
  // The syncer may hold them for a moment.
  ASSERT_TRUE(Eventually([&] {
    const auto would = store_->Prune({.all = true, .dry_run = true});
    return would->images == std::vector<std::string>{"registry.test/img:latest"} &&
           would->layers > 0 && would->layer_bytes > 0;
  }));
  EXPECT_EQ(store_->ListImages(false)->size(), 1U);
  EXPECT_TRUE(store_->Prune({.all = true, .older = absl::Hours(1)})->images.empty());
  ASSERT_TRUE(Eventually([&] { return !store_->Prune({.all = true})->images.empty(); }));
  EXPECT_TRUE(store_->ListImages(false)->empty());
  EXPECT_TRUE(Eventually([&] {
    (void)store_->Prune({.all = true});
    return store_->ListLayers().empty();
  }));
}

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
  absl::Notification ended;
  store_->MakeIndexes(image_, source_, [&](absl::StatusOr<ChainRef> chain) {
    EXPECT_TRUE(chain.ok()) << chain.status();
    ended.Notify();
  });
  ended.WaitForNotification();
  const auto table = SpanTableReader::Open(chain_->layers[0]->directory + "/access");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_TRUE((*table)->has_digests() && (*table)->data_is_blob());
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

}  // namespace
}  // namespace imagefs
