// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_recovery.h"

#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "gtest/gtest.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {
namespace {

class MountRecoveryTest : public testing::Test {
 protected:
  MountRecoveryTest() {
    SetLogLevel(LogLevel::kOff);
    recovery_ = std::make_unique<MountRecovery>(MountRecovery::Deps{
        mounts_, uses_, TrustTrusted, absl::Milliseconds(1), absl::Milliseconds(4)});
    uses_.Recover();
    uses_.Serve();
  }

  MountState Waits(std::string directory) {
    MountState mount;
    mount.record.directory = std::move(directory);
    mount.record.reference = store_.image().reference;
    mount.record.manifest_digest = store_.image().manifest_digest;
    mount.record.chain_id = store_.image().chain_id();
    mount.not_mounted = "it was not tried yet";
    return mount;
  }
  std::string Why(const std::string& directory) {
    for (const MountState& mount : mounts_.List()) {
      if (mount.record.directory == directory) return mount.not_mounted;
    }
    return "none";
  }

  FakeImageStore store_{2};
  FakeMountTable mounts_;
  ImageUses uses_{{store_, mounts_, [](const Reference&) { return SourceFactory::Access(); },
                   [](const Reference&) { return SourceFactory::Access(); }}};
  std::unique_ptr<MountRecovery> recovery_;
};

TEST_F(MountRecoveryTest, NothingToDo) {
  recovery_->Start();
  EXPECT_FALSE(recovery_->busy());
  EXPECT_EQ(store_.resolve_calls(), 0);
}

TEST_F(MountRecoveryTest, WhatIsHereIsMountedAtOnceAndAsksNobody) {
  mounts_.AddMount(Waits("/a"));
  mounts_.AddMount(Waits("/b"));
  recovery_->Start();
  EXPECT_TRUE(Eventually([&] { return Why("/a").empty() && Why("/b").empty(); }));
  EXPECT_EQ(store_.resolve_calls(), 0);
  EXPECT_TRUE(Eventually([&] { return !recovery_->busy(); }));
}

TEST_F(MountRecoveryTest, WhatIsNotHereIsFetchedWhenTheNetworkIsBack) {
  store_.LoseChain();
  store_.FailResolve(absl::UnavailableError("the network is away"));
  mounts_.AddMount(Waits("/a"));
  recovery_->Start();
  EXPECT_TRUE(Eventually([&] { return Why("/a") == "the network is away"; }));
  EXPECT_TRUE(Eventually([&] { return store_.resolve_calls() > 3; }));
  EXPECT_EQ(mounts_.mount_again_calls(), 0);
  store_.FailResolve(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return Why("/a").empty(); }));
}

TEST_F(MountRecoveryTest, AMountThatFailsIsTriedAgain) {
  mounts_.FailMount(absl::FailedPreconditionError("the directory is another one"));
  mounts_.AddMount(Waits("/a"));
  recovery_->Start();
  EXPECT_TRUE(Eventually([&] { return Why("/a") == "the directory is another one"; }));
  EXPECT_TRUE(Eventually([&] { return mounts_.mount_again_calls() > 3; }));
  mounts_.FailMount(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return Why("/a").empty(); }));
}

TEST_F(MountRecoveryTest, AnotherImageOfThatNameIsNotShown) {
  store_.LoseChain();
  MountState mount = Waits("/a");
  mount.record.manifest_digest = Sha256Of("of old");
  mounts_.AddMount(mount);
  recovery_->Start();
  EXPECT_TRUE(Eventually([&] {
    return Why("/a").find("now names another image") != std::string::npos;
  })) << Why("/a");
  EXPECT_EQ(mounts_.mount_again_calls(), 0);
}

TEST_F(MountRecoveryTest, OnlyWhatWaitsIsTried) {
  MountState unmounted = Waits("/unmounted");
  unmounted.record.unmounted = true;
  mounts_.AddMount(unmounted);
  MountState mounted = Waits("/mounted");
  mounted.not_mounted.clear();
  mounts_.AddMount(mounted);
  recovery_->Start();
  EXPECT_EQ(mounts_.mount_again_calls(), 0);
}

TEST_F(MountRecoveryTest, AForgottenOneIsTriedNoMore) {
  mounts_.FailMount(absl::NotFoundError("the directory is away"));
  mounts_.AddMount(Waits("/a"));
  recovery_->Start();
  ASSERT_TRUE(mounts_.Unmount("/a", false).ok());
  EXPECT_TRUE(Eventually([&] {
    const int calls = mounts_.mount_again_calls();
    absl::SleepFor(absl::Milliseconds(20));
    return mounts_.mount_again_calls() == calls;
  }));
}

TEST_F(MountRecoveryTest, TheDaemonHasAnEnd) {
  store_.LoseChain();
  store_.HoldChain();
  mounts_.AddMount(Waits("/a"));
  mounts_.AddMount(Waits("/b"));
  recovery_->Start();
  EXPECT_TRUE(Eventually([&] { return Why("/a").find("fetched again") != std::string::npos; }))
      << Why("/a");
  EXPECT_TRUE(recovery_->busy());
  recovery_.reset();
  store_.AwaitChainCancelled();
  EXPECT_EQ(mounts_.mount_again_calls(), 0);
}

}  // namespace
}  // namespace imagefs
