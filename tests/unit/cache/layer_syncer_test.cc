// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_syncer.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/fakes/base/eventually.h"

namespace imagefs {
namespace {

const Digest kA = Sha256Of("a"), kB = Sha256Of("b");

// Scripts the results of the syncer's calls and records them.
class Disk {
 public:
  absl::Status Seal(const Digest& id, bool careful) {
    absl::MutexLock lock(&mu_);
    calls_[id].push_back(careful);
    const auto it = failures_.find(id);
    return it == failures_.end() ? absl::OkStatus() : it->second;
  }
  void Fail(const Digest& id, absl::Status status) {
    absl::MutexLock lock(&mu_);
    failures_[id] = std::move(status);
  }
  void Heal(const Digest& id) {
    absl::MutexLock lock(&mu_);
    failures_.erase(id);
  }
  // Waits for that many calls; returns for each whether it was careful.
  std::vector<bool> Calls(const Digest& id, size_t at_least) {
    absl::MutexLock lock(&mu_);
    auto enough = [&]()
                      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return calls_[id].size() >= at_least; };
    mu_.Await(absl::Condition(&enough));
    return calls_[id];
  }

 private:
  absl::Mutex mu_;
  std::map<Digest, std::vector<bool>> calls_ ABSL_GUARDED_BY(mu_);
  std::map<Digest, absl::Status> failures_ ABSL_GUARDED_BY(mu_);
};

struct Answer {
  absl::Notification told;
  absl::Status status;
};

class LayerSyncerTest : public ::testing::Test {
 protected:
  void Open(LayerSyncer::Options options) {
    syncer_ = std::make_unique<LayerSyncer>(
        options, [this](const Digest& id, bool careful) { return disk_.Seal(id, careful); });
  }
  std::shared_ptr<Answer> Wait(absl::flat_hash_set<Digest> ids) {
    auto answer = std::make_shared<Answer>();
    syncer_->Wait(std::move(ids), [answer](absl::Status status) {
      answer->status = std::move(status);
      answer->told.Notify();
    });
    return answer;
  }
  static absl::Status Told(const std::shared_ptr<Answer>& answer) {
    answer->told.WaitForNotification();
    return answer->status;
  }

  Disk disk_;
  std::unique_ptr<LayerSyncer> syncer_;
};

LayerSyncer::Options NeverAgain() {
  LayerSyncer::Options options;
  options.first_pause = options.max_pause = absl::Hours(1);
  return options;
}

TEST_F(LayerSyncerTest, AFailureIsToldToThoseWhoWaitForThatLayerOnly) {
  Open(NeverAgain());
  disk_.Fail(kA, absl::InternalError("index: Input/output error"));
  const auto b = Wait({kB});
  const auto a = Wait({kA});
  const auto both = Wait({kA, kB});
  syncer_->Add(kA, false);
  EXPECT_EQ(Told(a), absl::InternalError("index: Input/output error"));
  EXPECT_EQ(Told(both), absl::InternalError("index: Input/output error"));
  EXPECT_FALSE(b->told.HasBeenNotified());
  syncer_->Add(kB, false);
  EXPECT_EQ(Told(b), absl::OkStatus());
}

TEST_F(LayerSyncerTest, WhoAsksAnewIsNotKeptWaiting) {
  Open(NeverAgain());
  disk_.Fail(kA, absl::InternalError("no"));
  const auto first = Wait({kA});
  syncer_->Add(kA, false);
  EXPECT_FALSE(Told(first).ok());
  EXPECT_FALSE(Told(Wait({kA})).ok());
  disk_.Heal(kA);
  EXPECT_TRUE(Told(Wait({kA})).ok());
  // After a failure, the kernel's word about these files is not trusted.
  EXPECT_EQ(disk_.Calls(kA, 3), (std::vector<bool>{false, true, true}));
}

TEST_F(LayerSyncerTest, AFailedSyncIsTriedAgainByItself) {
  LayerSyncer::Options options;
  options.quiet = absl::ZeroDuration();
  options.first_pause = absl::Milliseconds(1);
  options.max_pause = absl::Milliseconds(4);
  Open(options);
  disk_.Fail(kA, absl::InternalError("no"));
  syncer_->Add(kA, false);
  disk_.Calls(kA, 6);
  disk_.Heal(kA);
  // A caller that joins a running attempt gets its failure.
  EXPECT_TRUE(Eventually([&] { return Told(Wait({kA})).ok(); }));
}

TEST_F(LayerSyncerTest, WhatIsGoneOrDamagedIsNotTriedAgain) {
  LayerSyncer::Options options;
  options.quiet = absl::ZeroDuration();
  options.first_pause = options.max_pause = absl::Milliseconds(1);
  Open(options);
  disk_.Fail(kA, absl::DataLossError("other bytes"));
  disk_.Fail(kB, absl::NotFoundError("removed"));
  // A caller that comes after the single attempt would wait for the next Add.
  auto a = Wait({kA}), b = Wait({kB});
  syncer_->Add(kA, true);
  EXPECT_TRUE(absl::IsDataLoss(Told(std::move(a))));
  syncer_->Add(kB, false);
  EXPECT_TRUE(absl::IsNotFound(Told(std::move(b))));
  syncer_.reset();
  EXPECT_EQ(disk_.Calls(kA, 1), std::vector<bool>{true});
  EXPECT_EQ(disk_.Calls(kB, 1), std::vector<bool>{false});
}

TEST_F(LayerSyncerTest, WhoWaitsForWhatIsDroppedIsTold) {
  Open(LayerSyncer::Options());
  const auto answer = Wait({kA, kB});
  syncer_->Drop(kB, absl::DataLossError("it was damaged"));
  EXPECT_EQ(Told(answer), absl::DataLossError("it was damaged"));
}

TEST_F(LayerSyncerTest, TheEndSealsWhatIsLeftAndTellsTheRest) {
  Open(NeverAgain());
  disk_.Fail(kB, absl::InternalError("no"));
  syncer_->PassBegins();
  syncer_->Add(kB, false);
  syncer_->Add(kA, false);
  const auto answer = Wait({Sha256Of("one that never came")});
  syncer_.reset();
  EXPECT_TRUE(absl::IsCancelled(Told(answer)));
  EXPECT_EQ(disk_.Calls(kA, 1).size(), 1u);
  // At the end, and possibly before because somebody waits.
  EXPECT_LE(disk_.Calls(kB, 1).size(), 2u);
}

// A layer under repair is not synced as it is, but it will be later.
TEST_F(LayerSyncerTest, WhoWaitsForASuspendedLayerWaitsUntilItIsAddedAgain) {
  Open(NeverAgain());
  disk_.Fail(kA, absl::InternalError("Input/output error"));
  syncer_->Add(kA, false);
  disk_.Calls(kA, 1);
  syncer_->Suspend(kA);
  disk_.Heal(kA);
  const auto a = Wait({kA});
  const auto b = Wait({kB});
  syncer_->Add(kB, false);
  EXPECT_TRUE(Told(b).ok());
  EXPECT_FALSE(a->told.HasBeenNotified());
  syncer_->Add(kA, false);
  EXPECT_TRUE(Told(a).ok());
}

// Removing a layer removes its waiters, but nothing of a layer that is made afterwards.
TEST_F(LayerSyncerTest, ALayerMadeAfterARemovalIsSealed) {
  Open(NeverAgain());
  disk_.Fail(kA, absl::InternalError("Input/output error"));
  syncer_->Add(kA, false);
  disk_.Calls(kA, 1);
  const auto before = Wait({kA});
  std::vector<LayerSyncer::Done> removed = syncer_->Remove(kA);
  disk_.Heal(kA);
  const auto after = Wait({kA});
  syncer_->Add(kA, false);
  EXPECT_TRUE(Told(after).ok());
  for (LayerSyncer::Done& done : removed) done(absl::NotFoundError("removed"));
  EXPECT_FALSE(Told(before).ok());
}

}  // namespace
}  // namespace imagefs
