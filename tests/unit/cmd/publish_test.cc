// SPDX-License-Identifier: Apache-2.0
// Who owns a publication, and what becomes of it when its caller or the daemon goes.
#include "cmd/publish.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "image/index_bundle.h"
#include "image/index_signature.h"
#include "image/span_table.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fs/fake_store.h"
#include "tests/unit/cmd/publish_fixture.h"

namespace imagefs {
namespace {

class PublicationsTest : public ::testing::Test {
 protected:
  struct Outcome {
    absl::Notification ended;
    absl::StatusOr<PublishResult> result;
    absl::Status status() {
      ended.WaitForNotification();
      return result.status();
    }
  };
  std::unique_ptr<Outcome> Start(CancelToken cancel = {}) {
    auto outcome = std::make_unique<Outcome>();
    PublishRequest request;
    request.image = std::make_shared<ResolvedImage>(store_.image());
    publications_.Start(std::move(request), std::move(cancel),
                        [raw = outcome.get()](absl::StatusOr<PublishResult> result) {
                          raw->result = std::move(result);
                          raw->ended.Notify();
                        });
    return outcome;
  }
  void AwaitNoneRuns() {
    EXPECT_TRUE(Eventually([&] { return publications_.running() == 0; }));
  }

  FakeImageStore store_{2};
  FakeSources sources_;
  Executor executor_{ThreadRole::kTest, 2};
  Publications publications_{{store_, sources_, executor_}};
};

TEST_F(PublicationsTest, AreCountedUntilTheyEnd) {
  store_.HoldChain();
  store_.FailChain(absl::UnavailableError("no registry"));
  const auto first = Start(), second = Start();
  EXPECT_EQ(publications_.running(), 2);
  store_.ReleaseChain();
  EXPECT_TRUE(absl::IsUnavailable(first->status()));
  EXPECT_TRUE(absl::IsUnavailable(second->status()));
  AwaitNoneRuns();
}

TEST_F(PublicationsTest, EndWithTheirCallerAndDisturbNoOther) {
  store_.HoldChain();
  store_.FailChain(absl::UnavailableError("no registry"));
  CancelSource cancel;
  const auto first = Start(cancel.token()), second = Start();
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(first->status()));
  EXPECT_EQ(publications_.running(), 1);
  EXPECT_FALSE(second->ended.HasBeenNotified());
  store_.ReleaseChain();
  EXPECT_TRUE(absl::IsUnavailable(second->status()));
}

TEST_F(PublicationsTest, TheEndOfTheDaemonCancelsAndWaits) {
  store_.HoldChain();
  const auto first = Start(), second = Start();
  publications_.Stop();
  EXPECT_EQ(publications_.running(), 0);
  EXPECT_TRUE(first->ended.HasBeenNotified());
  EXPECT_TRUE(second->ended.HasBeenNotified());
  EXPECT_TRUE(absl::IsCancelled(first->status()));
  const auto late = Start();
  EXPECT_TRUE(late->ended.HasBeenNotified());
  EXPECT_TRUE(absl::IsCancelled(late->status()));
  EXPECT_EQ(publications_.running(), 0);
  publications_.Stop();
  store_.ReleaseChain();
}

TEST_F(PublicationsTest, StopWaitsForWhatIsWithTheExecutor) {
  // The pool is busy: what follows the indexes is queued there when the daemon stops.
  // Shared: a task may begin after the end of this test.
  const auto go_on = std::make_shared<absl::Notification>();
  for (int i = 0; i < 2; ++i) executor_.Submit([go_on] { go_on->WaitForNotification(); });
  const auto outcome = Start();
  EXPECT_EQ(publications_.running(), 1);
  std::thread stop([&] { publications_.Stop(); });
  EXPECT_FALSE(outcome->ended.HasBeenNotified());
  go_on->Notify();
  stop.join();
  EXPECT_TRUE(outcome->ended.HasBeenNotified());
  EXPECT_FALSE(outcome->status().ok());
}

TEST_F(PublishTest, IntoAFile) {
  const auto result = Publish(ToFile());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->file, directory_ + "/index.tar");
  EXPECT_EQ(result->repository, "");
  EXPECT_TRUE(server_.requests().empty());
  ASSERT_EQ(result->layers.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(result->layers[i].digest, image_->manifest.layers[i].digest);
    EXPECT_EQ(result->layers[i].blob_bytes, 1000U);
    EXPECT_GT(result->layers[i].index_bytes, 0U);
    EXPECT_EQ(result->layers[i].reason, "");
  }
  const auto archive = ReadFile(result->file, 1 << 20);
  ASSERT_TRUE(archive.ok()) << archive.status();
  EXPECT_NE(archive->find(result->artifact), std::string::npos);
  EXPECT_EQ(archive->size() % 512, 0U);
  // The same says the same.
  const auto again = Publish(ToFile());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->artifact, result->artifact);
}

TEST_F(PublishTest, ALayerThatCannotBeReadInPartsIsLeftOutAndSaysWhy) {
  UseLayers({false, true});
  const auto result = Publish(ToFile());
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->layers.size(), 2U);
  EXPECT_EQ(result->layers[0].index_bytes, 0U);
  EXPECT_NE(result->layers[0].reason.find("cannot be read in parts"), std::string::npos);
  EXPECT_GT(result->layers[1].index_bytes, 0U);
  UseLayers({false, false});
  const auto none = Publish(ToFile());
  EXPECT_TRUE(absl::IsFailedPrecondition(none.status())) << none.status();
  UseLayers({});
  EXPECT_TRUE(absl::IsFailedPrecondition(Publish(ToFile()).status()));
}

TEST_F(PublishTest, IntoARepositoryUnderATagOfItsOwn) {
  const auto result = Publish(ToRegistry());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->repository, server_.host() + "/img");
  EXPECT_EQ(result->file, "");
  EXPECT_GT(result->sent_bytes, 0U);
  const std::optional<std::string> manifest = server_.Stored(TagPath());
  ASSERT_TRUE(manifest.has_value());
  EXPECT_EQ(Sha256Of(*manifest).ToString(), result->artifact);
}

TEST_F(PublishTest, WhatIsThereIsLeftWhereOnlyWhatIsAbsentIsPushed) {
  PublishRequest request = ToRegistry();
  request.only_if_absent = true;
  const auto first = Publish(request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->absent);
  EXPECT_TRUE(server_.Stored(TagPath()).has_value());
  // Whatever it says.
  UseLayers({false, true});
  const auto second = Publish(request);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->absent);
  EXPECT_EQ(Sha256Of(*server_.Stored(TagPath())).ToString(), first->artifact);
  request.only_if_absent = false;
  const auto third = Publish(request);
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_NE(third->artifact, first->artifact);
  EXPECT_EQ(Sha256Of(*server_.Stored(TagPath())).ToString(), third->artifact);
}

// Others of the fleet finished while this one made its index: of the looks, the second sees it.
TEST_F(PublishTest, WhatOthersPublishedMeanwhileIsLeft) {
  PublishRequest request = ToRegistry();
  request.only_if_absent = true;
  request.spread = absl::Milliseconds(20);
  const std::string list = StrCat("/v2/img/referrers/", image_->manifest_digest.ToString());
  server_.On(list, {});
  server_.On(list, {.before = [&] {
               server_.AddReferrer(
                   "img", image_->manifest_digest,
                   StrCat(R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":")",
                          Sha256Of("other").ToString(), R"(","size":5,"artifactType":")",
                          kIndexArtifactType, "\"}"));
             }});
  const auto late = Publish(request);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_FALSE(late->absent);
  for (const auto& asked : server_.requests()) EXPECT_EQ(asked.method, "GET") << asked.path;
}

TEST_F(PublishTest, WhetherItIsThereIsAskedOfTheRegistryAndNotOfACache) {
  FakeRegistry cache;  // it has seen nothing
  cache.SetFeatures({.referrers = true});
  const std::string hosts = StrCat(directory_, "/hosts/", server_.host());
  ASSERT_TRUE(MakeDirs(hosts).ok());
  ASSERT_TRUE(
      WriteFileDurably(hosts + "/hosts.toml",
                       StrCat("server = \"http://", server_.host(), "\"\n[host.\"http://",
                              cache.host(), "\"]\ncapabilities = [\"pull\", \"resolve\"]\n"))
          .ok());
  SourceFactory::Options options;
  options.first_backoff = std::chrono::milliseconds(1);
  options.hosts.containerd_dirs = {directory_ + "/hosts"};
  publications_.reset();
  sources_ = *SourceFactory::Create(options);
  publications_ = std::make_unique<Publications>(Publications::Deps{store_, *sources_, executor_});
  const auto first = Publish(ToRegistry());
  ASSERT_TRUE(first.ok()) << first.status();
  // Without the API the list is under a tag.
  server_.SetFeatures({});
  PublishRequest request = ToRegistry();
  request.only_if_absent = true;
  const size_t asked = cache.requests().size();
  const auto second = Publish(request);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->absent);
  EXPECT_GT(cache.requests().size(), asked);
}

TEST_F(PublishTest, ThePauseIsCancelled) {
  PublishRequest request = ToRegistry();
  request.spread = absl::Hours(100'000);
  CancelSource cancel;
  absl::Notification ended;
  absl::Status status;
  publications_->Start(std::move(request), cancel.token(),
                       [&](const absl::StatusOr<PublishResult>& done) {
                         status = done.status();
                         ended.Notify();
                       });
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(ended.HasBeenNotified());
  cancel.Cancel();
  ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(Eventually([&] { return publications_->running() == 0; }));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(PublishTest, AStatementIsWhatIsToBeSignedAndPublishesNothing) {
  PublishRequest request = ToRegistry();
  request.statement_only = true;
  const auto result = Publish(request);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(IsIndexStatement(result->statement)) << result->statement;
  EXPECT_EQ(result->artifact, "");
  EXPECT_FALSE(server_.Stored(TagPath()).has_value());
  // A signature over another statement than that of the index that is made now.
  request.statement_only = false;
  request.signatures = {"untrusted comment: x\n"};
  request.statement_digest = Sha256Of("another").ToString();
  EXPECT_TRUE(absl::IsAborted(Publish(request).status()));
  // Over that one, but no signature.
  request.statement_digest = Sha256Of(result->statement).ToString();
  EXPECT_TRUE(absl::IsInvalidArgument(Publish(request).status()));
  EXPECT_FALSE(server_.Stored(TagPath()).has_value());
}

TEST_F(PublishTest, ARegistryThatTakesNothingIsTheError) {
  server_.On(StrCat("/v2/img/blobs/uploads/"), {.times = -1, .status = 403});
  const auto refused = Publish(ToRegistry());
  EXPECT_FALSE(refused.ok());
  EXPECT_FALSE(server_.Stored(TagPath()).has_value());
  // And one that does not answer what lies there.
  server_.On(TagPath(), {.times = -1, .status = 500});
  EXPECT_FALSE(Publish(ToRegistry()).ok());
  EXPECT_TRUE(Eventually([&] { return publications_->running() == 0; }));
}

}  // namespace
}  // namespace imagefs
