// SPDX-License-Identifier: Apache-2.0
// The layer store alone: who is given a layer, who waits for whom, and what happens to the layer.
// How images use layers is tested with the image store.
#include "cache/layer_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class LayerStoreTest : public ::testing::Test {
 protected:
  LayerStoreTest() : root_(StrCat(::testing::TempDir(), "/layers-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(root_).ok());
    tars_ = {TarOf({{"big", std::string(300'000, 'b')}}), TarOf({{"etc/small", "hello"}})};
    repository_.AddImage("latest", tars_);
    for (size_t i = 0; i < tars_.size(); ++i) blobs_.push_back(repository_.LayerBlob(i));
    Open();
  }
  ~LayerStoreTest() override {
    store_.reset();
    kv_.reset();
    std::filesystem::remove_all(root_);
  }
  void Open() {
    store_.reset();
    kv_.reset();
    auto kv = KeyValueStore::Open(root_ + "/kv");
    ASSERT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    LayerStore::Options options;
    options.root = root_;
    auto store = LayerStore::Open(options, *kv_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  Digest DiffId(size_t layer) const { return Sha256Of(tars_[layer]); }
  LayerKey Key(size_t layer) const { return {DiffId(layer), blobs_[layer].digest}; }
  LayerStore::Request Request(size_t layer, const std::string& user = "alice",
                              const std::string& registry = "registry.test") {
    LayerStore::Request request;
    request.diff_id = DiffId(layer);
    request.blob = blobs_[layer];
    request.source = repository_.Open(user, registry);
    return request;
  }
  // One caller that waits for a layer.
  struct Caller {
    absl::Notification ended;
    absl::StatusOr<LayerRef> layer;
    FlightTicket ticket;
    absl::StatusOr<LayerRef>& Wait() {
      ended.WaitForNotification();
      return layer;
    }
  };
  std::unique_ptr<Caller> Begin(LayerStore::Request request) {
    auto caller = std::make_unique<Caller>();
    caller->ticket = store_->Ensure(std::move(request), Priority::kForeground,
                                    [raw = caller.get()](absl::StatusOr<LayerRef> layer) {
                                      raw->layer = std::move(layer);
                                      raw->ended.Notify();
                                    });
    return caller;
  }
  absl::StatusOr<LayerRef> Ensure(LayerStore::Request request) {
    return std::move(Begin(std::move(request))->Wait());
  }
  absl::Status Durable(const std::vector<Digest>& ids) {
    absl::Notification ended;
    absl::Status result;
    store_->WaitDurable(ids, [&](absl::Status status) {
      result = std::move(status);
      ended.Notify();
    });
    ended.WaitForNotification();
    return result;
  }
  size_t ReadsOf(size_t layer) const { return repository_.Reads(blobs_[layer].digest).size(); }
  FlightCounters LayerFlights() const {
    for (const FlightReport& report : store_->Flights()) {
      if (report.name == "layer") return report.counters;
    }
    ADD_FAILURE() << "no flights of layers";
    return {};
  }
  uint64_t Running() const {
    uint64_t active = 0;
    for (const FlightReport& report : store_->Flights()) active += report.counters.active;
    return active;
  }
  // Waits until nothing is being done to any layer, so that all can be removed.
  void Settle() {
    std::vector<Digest> ids;
    for (const LayerInfo& info : store_->List()) ids.push_back(info.id);
    EXPECT_TRUE(Durable(ids).ok());
    EXPECT_TRUE(Eventually([&] { return Running() == 0; }));
  }

  const std::string root_;
  FakeRepository repository_;
  std::vector<std::string> tars_;
  std::vector<Descriptor> blobs_;
  std::unique_ptr<KeyValueStore> kv_;
  std::unique_ptr<LayerStore> store_;
};

TEST_F(LayerStoreTest, ManyCallersOfOneLayerFetchItOnce) {
  repository_.HoldAt(blobs_[0].digest, 100'000);
  std::vector<std::unique_ptr<Caller>> callers;
  for (int i = 0; i < 20; ++i) callers.push_back(Begin(Request(0)));
  repository_.AwaitHeld(blobs_[0].digest);
  const std::optional<LayerProgress> progress = store_->Progress(Key(0));
  ASSERT_TRUE(progress.has_value());
  EXPECT_NE(progress->activity, LayerProgress::Activity::kDone);
  EXPECT_EQ(progress->blob_bytes, blobs_[0].size);
  EXPECT_EQ(LayerFlights().active, 1U);
  EXPECT_EQ(LayerFlights().waiting, 20U);
  repository_.Release(blobs_[0].digest);
  std::set<const Layer*> given;
  for (const auto& caller : callers) {
    ASSERT_TRUE(caller->Wait().ok()) << caller->layer.status();
    given.insert(caller->layer->get());
  }
  EXPECT_EQ(given.size(), 1U) << "all of them have the same one";
  EXPECT_EQ(ReadsOf(0), 1U);
  // Later callers get it as well.
  const auto later = Ensure(Request(0));
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_EQ(later->get(), *given.begin());
  EXPECT_EQ(ReadsOf(0), 1U);
}

TEST_F(LayerStoreTest, WhoLeavesIsToldSoAndDisturbsNobody) {
  repository_.HoldAt(blobs_[0].digest, 100'000);
  const auto goes = Begin(Request(0)), stays = Begin(Request(0));
  repository_.AwaitHeld(blobs_[0].digest);
  goes->ticket.Leave();
  ASSERT_TRUE(goes->ended.HasBeenNotified()) << "at once";
  EXPECT_TRUE(absl::IsCancelled(goes->layer.status()));
  EXPECT_FALSE(stays->ended.HasBeenNotified());
  repository_.Release(blobs_[0].digest);
  EXPECT_TRUE(stays->Wait().ok());
  EXPECT_EQ(ReadsOf(0), 1U);
}

TEST_F(LayerStoreTest, TheLastOneThatLeavesEndsIt) {
  repository_.HoldAt(blobs_[0].digest, 100'000);
  const auto only = Begin(Request(0));
  repository_.AwaitHeld(blobs_[0].digest);
  only->ticket.Leave();
  only->ticket.Leave();
  EXPECT_TRUE(absl::IsCancelled(only->Wait().status()));
  EXPECT_TRUE(Eventually([&] { return Running() == 0; }));
  EXPECT_EQ(repository_.Standing(blobs_[0].digest), 0);
  EXPECT_TRUE(store_->List().empty());
  // The next caller resumes from the bytes that are present.
  repository_.Release(blobs_[0].digest);
  EXPECT_TRUE(Ensure(Request(0)).ok());
  const std::vector<ByteRange> reads = repository_.Reads(blobs_[0].digest);
  ASSERT_EQ(reads.size(), 2U);
  EXPECT_GT(reads[1].begin, 0U);
}

TEST_F(LayerStoreTest, KnowsWhatIsHere) {
  EXPECT_TRUE(absl::IsNotFound(store_->Find(DiffId(0)).status()));
  EXPECT_FALSE(store_->Has(Request(0)));
  EXPECT_EQ(store_->StateOf(Key(0)), LayerState::kAbsent);
  EXPECT_FALSE(store_->Progress(Key(0)).has_value());
  ASSERT_TRUE(Ensure(Request(0)).ok());
  EXPECT_TRUE(store_->Has(Request(0)));
  EXPECT_FALSE(store_->Has(Request(1)));
  const auto found = store_->Find(DiffId(0));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->id, DiffId(0));
  ASSERT_TRUE(Durable({DiffId(0)}).ok());
  EXPECT_EQ(store_->StateOf(Key(0)), LayerState::kComplete);
  EXPECT_EQ(store_->StateOfName(DiffId(0)), LayerState::kComplete);
  ASSERT_EQ(store_->List().size(), 1U);
  EXPECT_EQ(store_->List()[0].id, DiffId(0));
  EXPECT_EQ(store_->List()[0].state, LayerState::kComplete);
  // The claim alone does not identify the layer: with another blob it may be another one.
  EXPECT_EQ(store_->StateOf({DiffId(0), blobs_[1].digest}), LayerState::kAbsent);
}

TEST_F(LayerStoreTest, WithoutASourceThereIsOnlyWhatIsHere) {
  LayerStore::Request request = Request(0, "");
  request.source = nullptr;
  const auto none = Ensure(request);
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
  EXPECT_EQ(ReadsOf(0), 0U);
  // What was fetched without credentials is available to everybody. Without a source the registry's
  // name is unknown, so a caller without one is given what was recorded.
  ASSERT_TRUE(Ensure(Request(0, "")).ok());
  request.recorded = DiffId(0);
  EXPECT_TRUE(store_->Has(request));
  EXPECT_TRUE(Ensure(request).ok());
  EXPECT_EQ(ReadsOf(0), 1U);
}

TEST_F(LayerStoreTest, WhoMayNotHaveTheBlobIsNotGivenTheLayer) {
  ASSERT_TRUE(Ensure(Request(0, "alice")).ok());
  repository_.Deny("mallory");
  const auto refused = Ensure(Request(0, "mallory"));
  EXPECT_TRUE(absl::IsNotFound(refused.status())) << refused.status();
  // For a caller with access the registry is asked, and nothing is fetched.
  EXPECT_TRUE(Ensure(Request(0, "bob")).ok());
  EXPECT_EQ(ReadsOf(0), 1U);
  EXPECT_EQ(store_->List().size(), 1U);
}

TEST_F(LayerStoreTest, AnotherRegistryIsNotBelieved) {
  ASSERT_TRUE(Ensure(Request(0, "alice", "registry.test")).ok());
  EXPECT_FALSE(store_->Has(Request(0, "alice", "elsewhere.test")));
  EXPECT_TRUE(Ensure(Request(0, "alice", "elsewhere.test")).ok());
  EXPECT_EQ(ReadsOf(0), 2U) << "it has shown that it has the blob";
  EXPECT_TRUE(store_->Has(Request(0, "alice", "elsewhere.test")));
  EXPECT_EQ(store_->List().size(), 1U);
}

TEST_F(LayerStoreTest, AFalseClaimFailsAndLeavesNothing) {
  LayerStore::Request request = Request(0);
  request.diff_id = DiffId(1);
  const auto layer = Ensure(request);
  EXPECT_TRUE(absl::IsDataLoss(layer.status())) << layer.status();
  EXPECT_TRUE(Eventually([&] { return Running() == 0; }));
  EXPECT_TRUE(store_->List().empty());
  EXPECT_TRUE(absl::IsNotFound(store_->Find(DiffId(1)).status()));
  EXPECT_TRUE(store_->Strays().empty());
  EXPECT_TRUE(Ensure(Request(1)).ok()) << "who tells the truth is not harmed";
}

TEST_F(LayerStoreTest, DurableIsWhatEachOfThemIs) {
  EXPECT_TRUE(Durable({}).ok());
  EXPECT_TRUE(absl::IsNotFound(Durable({DiffId(0)})));
  ASSERT_TRUE(Ensure(Request(0)).ok());
  ASSERT_TRUE(Ensure(Request(1)).ok());
  EXPECT_TRUE(Durable({DiffId(0), DiffId(1)}).ok());
  for (const LayerInfo& info : store_->List()) EXPECT_EQ(info.state, LayerState::kComplete);
  EXPECT_TRUE(absl::IsNotFound(Durable({DiffId(0), Sha256Of("never")})));
}

TEST_F(LayerStoreTest, CollectTakesWhatNobodyKeepsOrHolds) {
  auto held = Ensure(Request(0));
  ASSERT_TRUE(held.ok()) << held.status();
  ASSERT_TRUE(Ensure(Request(1)).ok());
  Settle();
  EXPECT_EQ(store_->Collect({DiffId(0), DiffId(1)}), 0U);
  EXPECT_EQ(store_->List().size(), 2U);
  EXPECT_TRUE(Eventually([&] { return store_->Collect({}) > 0; }));
  ASSERT_EQ(store_->List().size(), 1U);
  EXPECT_EQ(store_->List()[0].id, DiffId(0));
  const std::string directory = (*held)->directory;
  EXPECT_TRUE(StatPath(directory + "/data").ok());
  held = absl::UnknownError("");
  EXPECT_TRUE(Eventually([&] { return store_->Collect({}) > 0; }));
  EXPECT_TRUE(store_->List().empty());
  EXPECT_FALSE(StatPath(directory).ok());
  EXPECT_TRUE(store_->Strays().empty());
  // It is made again on request.
  EXPECT_TRUE(Ensure(Request(0)).ok());
  EXPECT_EQ(ReadsOf(0), 2U);
}

// What stands for a DiffID can be computed, and claimed, by anybody.
TEST_F(LayerStoreTest, ALayerIsGivenOnlyInTheFormThatIsAskedFor) {
  LayerStore::Request file = Request(1);
  file.form.kind = LayerForm::Kind::kFile;
  file.form.content = file.blob.digest;
  file.form.file.path = "the.tar";
  file.diff_id = NameOfForm(file.form, file.blob.digest);
  LayerStore::Request claim = Request(1);
  claim.diff_id = file.diff_id;
  const auto running = Begin(claim);
  auto layer = Ensure(file);
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_TRUE(absl::IsDataLoss(running->Wait().status())) << running->layer.status();
  EXPECT_TRUE(absl::IsDataLoss(Ensure(claim).status()));
  EXPECT_EQ((*layer)->form.content, file.blob.digest);
  EXPECT_FALSE(store_->Has(claim));
  EXPECT_TRUE(store_->Has(file));
  layer = absl::UnknownError("");
  Settle();
  // The next process knows the form, and makes a lost index by it.
  const std::string index = StrCat(root_, "/layers/", file.diff_id.hex(), "/index");
  store_.reset();
  ASSERT_EQ(unlink(index.c_str()), 0);
  Open();
  EXPECT_FALSE(store_->Has(claim));
  layer = Ensure(file);
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ((*layer)->form, file.form);
  EXPECT_TRUE((*layer)->index->Lookup((*layer)->index->root(), "the.tar")->has_value());
  EXPECT_EQ(store_->Describe(file.diff_id)->form, file.form);
}

TEST_F(LayerStoreTest, WhatIsHeldIsNotEvicted) {
  EXPECT_TRUE(absl::IsNotFound(store_->Evict(DiffId(0)).status()));
  const auto held = Ensure(Request(0));
  ASSERT_TRUE(held.ok()) << held.status();
  Settle();
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Evict(DiffId(0)).status()));
  EXPECT_TRUE((*held)->complete());
}

TEST_F(LayerStoreTest, TheNextProcessHasWhatIsDurable) {
  ASSERT_TRUE(Ensure(Request(0)).ok());
  Settle();
  Open();
  const auto layer = store_->Find(DiffId(0));
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_TRUE((*layer)->complete());
  EXPECT_TRUE(store_->Has(Request(0)));
  EXPECT_TRUE(Durable({DiffId(0)}).ok());
  EXPECT_EQ(ReadsOf(0), 1U);
}

TEST_F(LayerStoreTest, DamageIsFoundByReadingAllOfIt) {
  auto layer = Ensure(Request(0));
  ASSERT_TRUE(layer.ok()) << layer.status();
  const std::string data = (*layer)->directory + "/data";
  Settle();
  const auto at_once = [](size_t) { return true; };
  EXPECT_TRUE(absl::IsNotFound(store_->Scrub(DiffId(1), at_once)));
  EXPECT_TRUE(store_->Scrub(DiffId(0), at_once).ok());
  layer = absl::UnknownError("");
  {
    const Fd file = *OpenFile(data, O_WRONLY);
    ASSERT_TRUE(PwriteFull(file.get(), "x", 1000).ok());
  }
  EXPECT_TRUE(absl::IsDataLoss(store_->Scrub(DiffId(0), at_once)));
  // It is gone or fetched in parts: every caller gets the right one.
  EXPECT_NE(store_->StateOfName(DiffId(0)), LayerState::kComplete);
  const auto again = Ensure(Request(0));
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_TRUE(Durable({DiffId(0)}).ok());
  EXPECT_TRUE(store_->Scrub(DiffId(0), at_once).ok());
}

}  // namespace
}  // namespace imagefs
