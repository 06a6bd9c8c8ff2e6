// SPDX-License-Identifier: Apache-2.0
// What is published without being asked, when, and what becomes of it if a registry does not take
// it.
#include "cmd/auto_publisher.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "cache/profile.h"
#include "image/index_bundle.h"
#include "tests/fakes/base/eventually.h"
#include "tests/unit/cmd/publish_fixture.h"

namespace imagefs {
namespace {

constexpr char kUploads[] = "/v2/img/blobs/uploads/";

class AutoPublisherTest : public PublishTest {
 protected:
  AutoPublisherTest() {
    kv_ = *KeyValueStore::Open(directory_ + "/db");
    store_.UseKv(kv_.get());
    auto image = std::make_shared<ResolvedImage>(*image_);
    image->reference = server_.host() + "/img:1";
    image_ = std::move(image);
    store_.UseReference(image_->reference);
    SetStates(LayerState::kComplete);
    for (size_t i = 0; i < 2; ++i) whole_.layers.push_back(std::make_shared<Layer>());
  }
  ~AutoPublisherTest() override { publisher_.reset(); }

  void Start(AutoPublisher::Options options = {}) {
    options.look = absl::Milliseconds(1);
    publisher_ = std::make_unique<AutoPublisher>(std::move(options));
    publisher_->Start({store_, *sources_, *publications_,
                       [](const Reference&) { return SourceFactory::Access(); }});
  }
  void SetStates(LayerState state) {
    for (size_t i = 0; i < 2; ++i) store_.SetState(i, state);
  }
  void RecordRun() {
    Profile profile;
    profile.layers = {{image_->config.diff_ids[0], 1024}};
    profile.parts = {{image_->config.diff_ids[0], {0, 512}}};
    ASSERT_TRUE(store_.profiles().Put(image_->manifest_digest, profile).ok());
    publisher_->OnProfiled(image_->manifest_digest);
  }
  uint64_t Count(const std::string& name) const {
    for (const auto& [counter, value] : publisher_->Counters()) {
      if (counter == "publications_" + name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  bool Comes(const std::string& counter, uint64_t value) const {
    return Eventually([&] { return Count(counter) == value && !publisher_->busy(); });
  }
  // Each attempt begins by one, and requests of an attempt that failed may still be on their way.
  size_t Looks() const {
    return server_.RequestsFor("/v2/img/referrers/" + image_->manifest_digest.ToString()).size();
  }
  bool HasProfile() const {
    return server_.Stored(TagPath()).value_or("").find(kProfileMediaType) != std::string::npos;
  }

  std::unique_ptr<KeyValueStore> kv_;
  Chain whole_;
  std::unique_ptr<AutoPublisher> publisher_;
};

TEST_F(AutoPublisherTest, AnImageThatWasFetchedWholeIsPublishedOnce) {
  Start();
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("pushed", 1));
  EXPECT_TRUE(server_.Stored(TagPath()).has_value());
  EXPECT_FALSE(HasProfile());
  const size_t asked = server_.requests().size();
  publisher_->OnReadable(image_, whole_);
  EXPECT_FALSE(publisher_->busy());
  EXPECT_EQ(server_.requests().size(), asked);
}

TEST_F(AutoPublisherTest, WhatSomebodyHasPublishedIsFound) {
  ASSERT_TRUE(Publish(ToRegistry()).ok());
  Start();
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("found", 1));
  EXPECT_EQ(Count("pushed"), 0U);
}

TEST_F(AutoPublisherTest, AnImageOfWhichNothingWasFetchedWholeOrThatIsAnArtifactIsNot) {
  class Filling : public LayerFill {
    void Ensure(ByteRange, ReaderId, CancelToken, Done) override {}
    bool complete() const override { return complete_; }

   public:
    std::atomic<bool> complete_ = false;
  };
  Chain lazy;
  auto layer = std::make_shared<Layer>();
  const auto fill = std::make_shared<Filling>();
  layer->fill = fill;
  lazy.layers.push_back(std::move(layer));
  Start();
  publisher_->OnReadable(image_, lazy);
  auto artifact = std::make_shared<ResolvedImage>(*image_);
  artifact->artifact_type = "application/vnd.test";
  publisher_->OnReadable(artifact, whole_);
  EXPECT_FALSE(publisher_->busy());
  EXPECT_TRUE(server_.requests().empty());
  // Its bytes have come since.
  fill->complete_ = true;
  publisher_->OnReadable(image_, lazy);
  EXPECT_TRUE(Comes("pushed", 1));
}

TEST_F(AutoPublisherTest, TheProfileFollowsOnceAllBytesAreHere) {
  Start();
  publisher_->OnReadable(image_, whole_);
  ASSERT_TRUE(Comes("pushed", 1));
  SetStates(LayerState::kFilling);
  RecordRun();
  EXPECT_TRUE(Eventually([&] { return Count("waiting") == 1; }));
  EXPECT_FALSE(HasProfile());
  SetStates(LayerState::kComplete);
  EXPECT_TRUE(Comes("pushed", 2));
  EXPECT_TRUE(HasProfile());
  // And once.
  const size_t asked = server_.requests().size();
  publisher_->OnProfiled(image_->manifest_digest);
  publisher_->OnReadable(image_, whole_);
  EXPECT_FALSE(publisher_->busy());
  EXPECT_EQ(server_.requests().size(), asked);
}

TEST_F(AutoPublisherTest, TheProfileReplacesNoIndexOfAnother) {
  UseLayers({false, true});
  const auto other = Publish(ToRegistry());
  ASSERT_TRUE(other.ok()) << other.status();
  UseLayers({true, true});
  Start();
  RecordRun();
  EXPECT_TRUE(Comes("found", 1));
  EXPECT_EQ(Sha256Of(*server_.Stored(TagPath())).ToString(), other->artifact);
}

TEST_F(AutoPublisherTest, AProfileThatIsThereStays) {
  Start();
  RecordRun();
  ASSERT_TRUE(Comes("pushed", 1));
  ASSERT_TRUE(HasProfile());
  const std::string before = *server_.Stored(TagPath());
  Start();  // as the next daemon, with another run
  RecordRun();
  EXPECT_TRUE(Comes("found", 1));
  EXPECT_EQ(*server_.Stored(TagPath()), before);
}

TEST_F(AutoPublisherTest, OnlyWhatIsListed) {
  AutoPublisher::Options options;
  options.images = {"registry.test/**", server_.host() + "/other/**"};
  Start(std::move(options));
  publisher_->OnReadable(image_, whole_);
  RecordRun();
  EXPECT_TRUE(Eventually([&] { return !publisher_->busy() && Count("waiting") == 0; }));
  EXPECT_TRUE(server_.requests().empty());
  options = {};
  options.images = {server_.host() + "/*"};
  Start(std::move(options));
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("pushed", 1));
}

TEST_F(AutoPublisherTest, IntoTheRepositoryOfTheConfiguration) {
  AutoPublisher::Options options;
  options.to = *Reference::Parse(server_.host() + "/indexes");
  Start(std::move(options));
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("pushed", 1));
  EXPECT_FALSE(server_.Stored(TagPath()).has_value());
  for (const auto& request : server_.requests()) {
    if (request.method == "GET") continue;
    EXPECT_TRUE(request.path.starts_with("/v2/indexes/")) << request.path;
  }
}

TEST_F(AutoPublisherTest, ARepositoryThatRefusesIsLeftAlone) {
  server_.On(kUploads, {.times = -1, .status = 403});
  Start();
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("failed", 1));
  const size_t looks = Looks();
  EXPECT_GT(looks, 0U);
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Eventually([&] { return !publisher_->busy() && Count("waiting") == 0; }));
  EXPECT_EQ(Looks(), looks);
  EXPECT_EQ(Count("failed"), 1U);
}

TEST_F(AutoPublisherTest, ARegistryThatFailsIsAskedAgainAFewTimes) {
  server_.On(kUploads, {.times = -1, .status = 503});
  AutoPublisher::Options options;
  options.pause = absl::Microseconds(1);
  Start(std::move(options));
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("failed", 1));
  const size_t looks = Looks();
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Eventually([&] { return !publisher_->busy() && Count("waiting") == 0; }));
  EXPECT_EQ(Looks(), looks);
}

TEST_F(AutoPublisherTest, ARegistryThatIsBackInTimeGetsIt) {
  // One publication gives up after five attempts.
  server_.On(kUploads, {.times = 7, .status = 503});
  AutoPublisher::Options options;
  options.pause = absl::Microseconds(1);
  Start(std::move(options));
  publisher_->OnReadable(image_, whole_);
  EXPECT_TRUE(Comes("pushed", 1));
  EXPECT_EQ(Count("failed"), 0U);
  EXPECT_GT(server_.RequestsFor(kUploads).size(), 7U);
}

TEST_F(AutoPublisherTest, AStopEndsWhatRunsAndDropsTheRest) {
  store_.HoldChain();
  Start();
  publisher_->OnReadable(image_, whole_);
  store_.AwaitChainCalls(1);
  EXPECT_TRUE(publisher_->busy());
  publisher_->Stop();
  EXPECT_FALSE(publisher_->busy());
  publisher_->OnReadable(image_, whole_);
  publisher_->OnProfiled(image_->manifest_digest);
  EXPECT_EQ(Count("waiting"), 0U);
  EXPECT_FALSE(server_.Stored(TagPath()).has_value());
  store_.ReleaseChain();
}

}  // namespace
}  // namespace imagefs
