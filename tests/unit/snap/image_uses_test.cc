// SPDX-License-Identifier: Apache-2.0
#include "snap/image_uses.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>

#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fs/fake_store.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

using Leases = std::map<std::string, int>;

class ImageUsesTest : public ::testing::Test {
 protected:
  ImageUsesTest() {
    SetLogLevel(LogLevel::kOff);
    for (size_t i = 0; i < 3; ++i) store_.SetState(i, LayerState::kWritten);
    Start({});
  }

  // Starts as another daemon would, with the names in its owner's records.
  void Start(std::vector<std::string> names, bool serve = true) {
    owner_.reset();
    const auto access_of = [this](const Reference&) {
      ++asked_;
      return access_;
    };
    uses_ = std::make_unique<ImageUses>(ImageUses::Deps{store_, mounts_, access_of, access_of, 2});
    ImageUses::OwnerOptions options{.holder = "test"};
    for (const std::string& name : names) options.wanted.push_back({name, manifest(), kImage});
    options.recovered = [this] { ++recovered_; };
    auto owner = uses_->AddOwner(std::move(options));
    ASSERT_TRUE(owner.ok()) << owner.status();
    owner_ = *std::move(owner);
    if (!serve) return;
    uses_->Recover();
    uses_->Serve();
  }

  static ImageUses::Owner::Request AnyImage() { return {.reference = *Reference::Parse(kImage)}; }
  absl::StatusOr<ImageUses::Use> Acquire(ImageUses::Owner::Request request = AnyImage()) {
    std::promise<absl::StatusOr<ImageUses::Use>> promise;
    owner_->Acquire(std::move(request),
                    [&](absl::StatusOr<ImageUses::Use> use) { promise.set_value(std::move(use)); });
    return promise.get_future().get();
  }
  const Digest& manifest() const { return store_.image().manifest_digest; }
  size_t Held() const { return store_.ListHeld("test")->size(); }
  void AwaitHeld(size_t count) const {
    EXPECT_TRUE(Eventually([&] { return Held() == count; })) << Held();
  }
  std::string Shown() const { return store_.image().chain_id().hex(); }

  static constexpr char kImage[] = "registry.test/app:1";
  FakeImageStore store_{3};
  FakeMountTable mounts_;
  SourceFactory::Access access_;
  std::atomic<int> asked_{0};
  int recovered_ = 0;
  std::unique_ptr<ImageUses> uses_;
  std::unique_ptr<ImageUses::Owner> owner_;
};

TEST_F(ImageUsesTest, AnImageStaysForItsUsesAndItsNames) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok()) << use.status();
  EXPECT_EQ(use->layers, 3u);
  EXPECT_EQ(Held(), 1u);
  owner_->Keep("a", manifest());
  owner_->Keep("b", manifest());
  owner_->Keep("b", manifest());
  *use = {};
  owner_->Drop("a");
  owner_->Drop("a");
  owner_->Drop("nobody's");
  EXPECT_EQ(Held(), 1u);
  EXPECT_NE(owner_->Find(manifest()).chain, nullptr);
  EXPECT_EQ(*owner_->Collect(), 0u);
  EXPECT_EQ(store_.collects(), 0) << "nothing was let go of";
  owner_->Drop("b");
  EXPECT_EQ(Held(), 0u);
  EXPECT_EQ(owner_->Find(manifest()).image, nullptr);
  ASSERT_TRUE(owner_->Collect().ok());
  EXPECT_EQ(store_.collects(), 1);
}

TEST_F(ImageUsesTest, ANameGoesFromOneImageToAnother) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  *use = {};
  owner_->Keep("a", Sha256Of("another manifest"));
  EXPECT_EQ(Held(), 0u);
}

TEST_F(ImageUsesTest, WhatWasNeverKeptIsCollectedLater) {
  ASSERT_TRUE(Acquire().ok());
  AwaitHeld(0);
  const auto collects = [this](absl::Duration later) {
    EXPECT_TRUE(owner_->Collect(Moment::Now() + later).ok());
    return store_.collects();
  };
  EXPECT_EQ(collects(absl::ZeroDuration()), 0) << "whoever tries again finds what was brought";
  EXPECT_EQ(collects(absl::Hours(1)), 1);
  EXPECT_EQ(collects(absl::Hours(2)), 1) << "once";
}

TEST_F(ImageUsesTest, WhatIsHereIsNotAskedFor) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  EXPECT_EQ(store_.resolve_calls(), 1);
  ImageUses::Owner::Request again = AnyImage();
  again.manifest = manifest();
  ASSERT_TRUE(Acquire(again).ok());
  EXPECT_EQ(store_.resolve_calls(), 1);
  ASSERT_TRUE(Acquire().ok());
  EXPECT_EQ(store_.resolve_calls(), 2) << "what the reference means now, only its registry knows";
  store_.SetState(2, LayerState::kAbsent);
  ASSERT_TRUE(Acquire(again).ok());
  EXPECT_EQ(store_.resolve_calls(), 3);
  again.layers = 2;
  const absl::StatusOr<ImageUses::Use> part = Acquire(again);
  ASSERT_TRUE(part.ok());
  EXPECT_EQ(part->layers, 2u);
  EXPECT_EQ(part->image->chain_ids.size(), 3u);
  EXPECT_EQ(store_.resolve_calls(), 3) << "all that was asked for is here";
  again.layers = 4;
  EXPECT_TRUE(absl::IsDataLoss(Acquire(again).status()));
}

TEST_F(ImageUsesTest, OnlyTheImpatientRememberFailures) {
  store_.FailResolve(absl::UnavailableError("the registry is away"));
  ImageUses::Owner::Request fail_fast = AnyImage();
  fail_fast.fail_fast = true;
  EXPECT_FALSE(Acquire(fail_fast).ok());
  store_.FailResolve(absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(Acquire(fail_fast).status()));
  EXPECT_EQ(store_.resolve_calls(), 1);
  EXPECT_TRUE(Acquire().ok());
  access_.credential.username = "another";
  EXPECT_TRUE(Acquire(fail_fast).ok());
  // A failure to fetch counts like a failure to resolve.
  access_.credential.username = "a third";
  store_.FailChain(absl::DataLossError("not what it should be"));
  EXPECT_TRUE(absl::IsDataLoss(Acquire(fail_fast).status()));
  store_.FailChain(absl::OkStatus());
  EXPECT_TRUE(absl::IsDataLoss(Acquire(fail_fast).status()));
}

TEST_F(ImageUsesTest, WhatIsNotAcceptedIsNotBrought) {
  ImageUses::Owner::Request request = AnyImage();
  request.fail_fast = true;
  request.accept = [](const ResolvedImage&) { return absl::NotFoundError("no such layer"); };
  EXPECT_TRUE(absl::IsNotFound(Acquire(request).status()));
  EXPECT_EQ(Held(), 0u);
  request.accept = nullptr;
  EXPECT_TRUE(Acquire(request).ok()) << "the image itself could be had";
}

TEST_F(ImageUsesTest, ACallerThatGoes) {
  store_.HoldChain();
  std::promise<absl::Status> answer;
  const FlightTicket ticket = owner_->Acquire(
      AnyImage(),
      [&](const absl::StatusOr<ImageUses::Use>& use) { answer.set_value(use.status()); });
  store_.AwaitChainCalls(1);
  ticket.Leave();
  EXPECT_TRUE(absl::IsCancelled(answer.get_future().get()));
  store_.AwaitChainCancelled();
  store_.ReleaseChain();
  EXPECT_TRUE(Acquire().ok());
}

TEST_F(ImageUsesTest, AnOwnerThatGoesCancelsItsCalls) {
  store_.HoldChain();
  std::promise<absl::Status> answer;
  owner_->Acquire(AnyImage(), [&](const absl::StatusOr<ImageUses::Use>& use) {
    answer.set_value(use.status());
  });
  store_.AwaitChainCalls(1);
  owner_.reset();
  EXPECT_TRUE(absl::IsCancelled(answer.get_future().get()));
}

TEST_F(ImageUsesTest, ATreeIsSharedAndStaysForTheImage) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  absl::StatusOr<ImageUses::Tree> first = owner_->MountTree(*use);
  absl::StatusOr<ImageUses::Tree> second = owner_->MountTree(*use);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  EXPECT_EQ((*first)->path, "/shown/" + Shown());
  EXPECT_FALSE((*first)->needs_process());
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}}));
  *first = *second = nullptr;
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}})) << "the next one finds it warm";
  *use = {};
  owner_->Drop("a");
  EXPECT_TRUE(mounts_.leases().empty());
}

TEST_F(ImageUsesTest, WhoHasATreeKeepsItShown) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  absl::StatusOr<ImageUses::Tree> tree = owner_->MountTree(*use);
  ASSERT_TRUE(tree.ok());
  *use = {};
  owner_->Drop("a");
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}}));
  *tree = nullptr;
  EXPECT_TRUE(mounts_.leases().empty());
}

TEST_F(ImageUsesTest, ATreeIsExchangedOnceItIsComplete) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  mounts_.ShowFilling(true);
  absl::StatusOr<ImageUses::Tree> filling = owner_->MountTree(*use);
  ASSERT_TRUE(filling.ok());
  EXPECT_TRUE((*filling)->needs_process());
  mounts_.ShowFilling(false);
  const absl::StatusOr<ImageUses::Tree> whole = owner_->MountTree(*use);
  ASSERT_TRUE(whole.ok());
  EXPECT_FALSE((*whole)->needs_process());
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}, {Shown() + ".filling", 1}}));
  *filling = nullptr;
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}})) << "nobody has the old one any more";
}

TEST_F(ImageUsesTest, ARestartTakesUpWhatIsWanted) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  absl::StatusOr<ImageUses::Tree> tree = owner_->MountTree(*use);
  ASSERT_TRUE(tree.ok());
  *use = {};
  const int asked = asked_;
  owner_.reset();
  *tree = nullptr;
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}})) << "it outlives the process";
  mounts_.Release(Shown());
  mounts_.Outlive(store_.image().chain_id());
  Start({"a"});
  EXPECT_EQ(recovered_, 2);
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}}));
  EXPECT_NE(owner_->Find(manifest()).chain, nullptr);
  EXPECT_EQ(asked_, asked) << "nothing is missing";
  owner_->ReleaseKept();
  EXPECT_TRUE(mounts_.leases().empty());
  EXPECT_EQ(Held(), 1u);
  Start({});
  EXPECT_EQ(Held(), 0u) << "nobody wants it";
}

TEST_F(ImageUsesTest, WhatTheKernelShowsIsTakenUpByItsLayers) {
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  *use = {};
  Start({"a"}, /*serve=*/false);
  EXPECT_EQ(owner_->Readopt(manifest(), 0), nullptr);
  mounts_.Outlive(store_.image().chain_id());
  const ImageUses::Tree tree = owner_->Readopt(manifest(), 3);
  ASSERT_NE(tree, nullptr);
  EXPECT_EQ(owner_->Readopt(manifest(), 0), tree);
  EXPECT_EQ(owner_->Readopt(manifest(), 4), nullptr);
  EXPECT_EQ(owner_->Readopt(Sha256Of("unknown"), 0), nullptr);
  EXPECT_EQ(mounts_.leases(), (Leases{{Shown(), 1}}));
}

TEST_F(ImageUsesTest, ALayerByItself) {
  const std::string directory = StrCat(::testing::TempDir(), "/image-uses-", RandomHex(8));
  TestChain files(3);
  for (const uint16_t layer : {1, 2, 3}) files.File(StrCat("f", layer), StrCat(layer), 0644, layer);
  const ChainRef chain = files.Build(directory);
  std::filesystem::copy(chain->index_path, chain->layers[1]->directory + "/index");
  store_.UseChain(chain);
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  absl::StatusOr<ImageUses::Tree> tree = owner_->MountLayer(*use, 1);
  ASSERT_TRUE(tree.ok()) << tree.status();
  const Digest name = (*tree)->chain->chain_id;
  EXPECT_NE(name, chain->chain_id);
  EXPECT_NE(name, chain->layers[1]->diff_id) << "that is another tree";
  EXPECT_TRUE((*tree)->chain->overlay_form);
  EXPECT_EQ((*tree)->chain->layers, std::vector<LayerRef>{chain->layers[1]});
  EXPECT_FALSE(owner_->MountLayer(*use, 0).ok()) << "its index is not there";
  *use = {};
  *tree = nullptr;
  EXPECT_TRUE(mounts_.leases().empty()) << "nobody keeps it for others";

  // Sessions of the previous process look it up by its name.
  const absl::StatusOr<ChainRef> found = ImageUses::FindTree(store_, "test", name);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->layers, std::vector<LayerRef>{chain->layers[1]});
  EXPECT_EQ(*ImageUses::FindTree(store_, "test", chain->chain_id), chain);
  EXPECT_FALSE(ImageUses::FindTree(store_, "another", name).ok());
  store_.LoseChain();
  EXPECT_FALSE(ImageUses::FindTree(store_, "test", name).ok());
  Start({"a"}, /*serve=*/false);
  EXPECT_EQ(owner_->ReadoptLayer(manifest(), 1), nullptr) << "its image is not here";
  store_.LoseChain(false);
  Start({"a"}, /*serve=*/false);
  EXPECT_EQ(owner_->ReadoptLayer(manifest(), 1), nullptr) << "nothing shows it";
  mounts_.Outlive(name);
  *tree = owner_->ReadoptLayer(manifest(), 1);
  ASSERT_NE(*tree, nullptr);
  EXPECT_EQ(mounts_.leases(), (Leases{{name.hex(), 1}}));
  EXPECT_EQ(owner_->ReadoptLayer(manifest(), 3), nullptr);
  owner_.reset();
  *tree = nullptr;
  EXPECT_EQ(mounts_.leases(), (Leases{{name.hex(), 1}})) << "it outlives this one as well";
  std::filesystem::remove_all(directory);
}

TEST_F(ImageUsesTest, SourcesOfWhatFillsAreFoundAgain) {
  ASSERT_TRUE(Acquire().ok());
  store_.UseFillingChain();
  absl::StatusOr<ImageUses::Use> use = Acquire();
  ASSERT_TRUE(use.ok());
  owner_->Keep("a", manifest());
  *use = {};
  Start({"a", "b"}, /*serve=*/false);
  uses_->Recover();
  EXPECT_TRUE(store_.attached().empty());
  uses_->Serve();
  ASSERT_TRUE(Eventually([&] { return !store_.attached().empty(); }));
  owner_.reset();
  EXPECT_EQ(store_.attached(), std::vector<std::string>{kImage});
}

TEST_F(ImageUsesTest, NobodyIsAskedBeforeTheSocketsAnswer) {
  Start({}, /*serve=*/false);
  const int asked = asked_;
  std::promise<absl::Status> answer;
  owner_->Acquire(AnyImage(), [&](const absl::StatusOr<ImageUses::Use>& use) {
    answer.set_value(use.status());
  });
  uses_->Recover();
  EXPECT_EQ(asked_, asked);
  EXPECT_EQ(store_.resolve_calls(), 0);
  uses_->Serve();
  EXPECT_TRUE(answer.get_future().get().ok());
  EXPECT_EQ(asked_, asked + 1);
}

TEST_F(ImageUsesTest, WhatWaitsForAStartThatNeverEndsIsCancelled) {
  Start({}, /*serve=*/false);
  std::promise<absl::Status> answer;
  owner_->Acquire(AnyImage(), [&](const absl::StatusOr<ImageUses::Use>& use) {
    answer.set_value(use.status());
  });
  owner_.reset();
  EXPECT_TRUE(absl::IsCancelled(answer.get_future().get()));
}

using ImageUsesDeathTest = ImageUsesTest;

TEST_F(ImageUsesDeathTest, TheStartHasOneOrder) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(uses_->Recover(), "Recover called out of order");
  EXPECT_DEATH(uses_->Serve(), "Serve called out of order");
  EXPECT_DEATH((void)uses_->AddOwner({.holder = "late"}), "AddOwner called out of order");
  EXPECT_DEATH((void)owner_->Readopt(manifest(), 0), "Readopt called out of order");
  Start({}, /*serve=*/false);
  EXPECT_DEATH((void)owner_->MountTree({}), "MountTree called out of order");
  EXPECT_DEATH(uses_->Serve(), "Serve called out of order");
}

}  // namespace
}  // namespace imagefs
