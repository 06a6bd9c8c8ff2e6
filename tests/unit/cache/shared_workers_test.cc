// SPDX-License-Identifier: Apache-2.0
// Layers whose bytes never end do not keep the workers from other layers.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

constexpr size_t kHostileLayers = 80;

// Each registry is a repository.
class Registries : public SourceFactory {
 public:
  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference,
                                                    const Access& access) override {
    // Like the auth scope of a real source, it names the repository.
    return of_.at(reference.host)
        ->Open(StrCat(reference.repository, " ", access.credential.username), reference.host);
  }
  Counters counters() const override { return {}; }
  void Add(const std::string& host, FakeRepository& repository) { of_[host] = &repository; }

 private:
  std::map<std::string, FakeRepository*> of_;
};

class SharedWorkersTest : public ::testing::Test {
 protected:
  SharedWorkersTest() : root_(StrCat(::testing::TempDir(), "/workers-", RandomHex(8))) {
    std::vector<std::string> tars;
    for (uint32_t i = 0; i < kHostileLayers; ++i) {
      tars.push_back(TarOf({{"file", MixedBytes(100'000, 1000 + i)}}));
    }
    bad_.AddImage("latest", tars);
    for (size_t i = 0; i < kHostileLayers; ++i) {
      hostile_.push_back(bad_.LayerBlob(i).digest);
      bad_.HoldAt(hostile_.back(), 30'000);
    }
    // The same registry also has honest images.
    for (FakeRepository* repository : {&bad_, &good_}) {
      repository->AddImage(
          "honest", {TarOf({{"a", MixedBytes(300'000, 1)}}), TarOf({{"b", MixedBytes(200'000, 2)}}),
                     TarOf({{"c", "hello"}})});
    }
    registries_.Add("bad.test", bad_);
    registries_.Add("good.test", good_);
    absl::StatusOr<std::unique_ptr<ImageStore>> store = ImageStore::Open({root_}, registries_);
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  ~SharedWorkersTest() override {
    for (const auto& call : calls_) call->ticket.Leave();
    for (const auto& call : calls_) call->ended.WaitForNotification();
    calls_.clear();
    store_.reset();
    std::filesystem::remove_all(root_);
  }

  struct Call {
    absl::Notification ended;
    absl::StatusOr<ChainRef> chain;
    FlightTicket ticket;
  };
  Call& Ensure(const std::string& reference) {
    ResolveRequest request;
    request.reference = *Reference::Parse(reference);
    request.platform = Platform::Host();
    absl::Notification resolved;
    ImageStore::Resolved image;
    store_->Resolve(std::move(request), [&](absl::StatusOr<ImageStore::Resolved> result) {
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) image = *std::move(result);
      resolved.Notify();
    });
    resolved.WaitForNotification();
    calls_.push_back(std::make_unique<Call>());
    Call* call = calls_.back().get();
    call->ticket =
        store_->EnsureChain(image.image, image.source, IndexTrust::None(), Priority::kForeground,
                            [call](absl::StatusOr<ChainRef> chain) {
                              call->chain = std::move(chain);
                              call->ended.Notify();
                            });
    return *call;
  }
  void ExpectMade(const std::string& reference) {
    Call& call = Ensure(reference);
    ASSERT_TRUE(call.ended.WaitForNotificationWithTimeout(absl::Seconds(60))) << reference;
    EXPECT_TRUE(call.chain.ok()) << call.chain.status();
  }

  const std::string root_;
  FakeRepository bad_{kHostileLayers + 8}, good_;
  std::vector<Digest> hostile_;
  Registries registries_;
  std::unique_ptr<ImageStore> store_;
  std::vector<std::unique_ptr<Call>> calls_;
};

TEST_F(SharedWorkersTest, LayersThatTrickleHoldNobodyUp) {
  Ensure("bad.test/evil:latest");
  for (const Digest& blob : hostile_) bad_.AwaitHeld(blob);
  ExpectMade("good.test/app:honest");
  ExpectMade("bad.test/app:honest");
}

TEST_F(SharedWorkersTest, ManyRepositoriesThatTrickleHoldNobodyUp) {
  for (int i = 0; i < 20; ++i) Ensure(StrCat("bad.test/evil", i, ":latest"));
  for (const Digest& blob : hostile_) bad_.AwaitHeld(blob);
  ExpectMade("good.test/app:honest");
}

TEST_F(SharedWorkersTest, WhatWaitedForItsTurnGoesOn) {
  Call& call = Ensure("bad.test/evil:latest");
  for (const Digest& blob : hostile_) bad_.AwaitHeld(blob);
  for (const Digest& blob : hostile_) bad_.Release(blob);
  ASSERT_TRUE(call.ended.WaitForNotificationWithTimeout(absl::Seconds(120)));
  EXPECT_TRUE(call.chain.ok()) << call.chain.status();
}

TEST_F(SharedWorkersTest, WhoLeavesIsToldAtOnce) {
  Call& call = Ensure("bad.test/evil:latest");
  for (const Digest& blob : hostile_) bad_.AwaitHeld(blob);
  call.ticket.Leave();
  ASSERT_TRUE(call.ended.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(absl::IsCancelled(call.chain.status()));
}

}  // namespace
}  // namespace imagefs
