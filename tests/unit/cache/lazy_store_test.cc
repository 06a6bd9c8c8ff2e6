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
#include "tests/fakes/cache/lazy_store_fixture.h"
#include "tests/fakes/image/old_bundle.h"

namespace imagefs {
namespace {

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

// As containerd does, which prepares each layer of an image by a call of its own.
TEST_F(LazyStoreTest, FurtherCallsDoNotAskForWhatThePackOfTheFirstBrings) {
  Profile profile;
  profile.layers = {{Sha256Of(tars_[1]), tars_[1].size()}};
  profile.parts = {{Sha256Of(tars_[1]), {120'000, 130'000}},
                   {Sha256Of(tars_[1]), {900'000, 900'100}}};
  const PackedHotPack pack = Pack();
  Publish({}, profile.ToJson(), pack);
  const Digest blob = Sha256Of(pack.bytes);
  // Its header comes before the layers can be shown, the rest after that.
  repository_.HoldAt(blob, pack.header_bytes);
  for (const Digest& bundle : bundles_) repository_.HoldAt(bundle, 0);
  OpenNew();
  const size_t reads = BlobReads();
  std::thread first([this] { EXPECT_TRUE(Show(IndexTrust::Any()).ok()); });
  repository_.AwaitHeld(blob);
  for (const Digest& bundle : bundles_) repository_.Release(bundle);
  first.join();
  const ChainRef chain = chain_;
  EXPECT_EQ(BlobReads(), reads) << "with the pack, the profile is replayed when it has come";
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  ASSERT_TRUE(Eventually([&] { return BlobReads() > reads; }));  // of what the pack does not have
  repository_.Release(blob);
  ASSERT_TRUE(PackCame());
  EXPECT_TRUE(Read(1, {120'000, 130'000}).ok());
  EXPECT_EQ(BlobReads(), reads + 1);
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

// The memory for opening an index is that of its first part: a large file has a small tree.
TEST_F(LazyStoreTest, LateWindowsMayBeLargerThanTheMemoryForTheirIndex) {
  tars_[0] = TarOf({{"model", MixedBytes(24 << 20, 1)}});
  CompressLayers();
  ASSERT_GE(blobs_[0].size, 12U << 20);
  Publish([](size_t i, IndexBundle& bundle) {
    if (i != 0) return;
    SpanTable table = CopyOf(**SpanTableReader::FromBytes(bundle.span_table));
    table.windows.resize(2900 << 10, 'x');
    bundle.span_table = *WriteSpanTable(table);
  });
  ASSERT_EQ(windows_[0].size, 2900U << 10);
  OpenNew();
  ASSERT_TRUE(Show(IndexTrust::Any()).ok());
  EXPECT_EQ(Counter("indexes_refused"), 0U);
  EXPECT_FALSE(chain_->layers[0]->whole());
  EXPECT_TRUE(Read(0, {9'000'000, 9'100'000}).ok());
}

TEST_F(LazyStoreTest, WrongDigestsOfSpansNeverServeAByte) {
  Publish([](size_t, IndexBundle& bundle) {
    SpanTable table = CopyOf(**SpanTableReader::FromBytes(bundle.span_table));
    table.spans.front().digest = Sha256Of("a lie");
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

}  // namespace
}  // namespace imagefs
