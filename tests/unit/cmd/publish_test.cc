// Who owns a publication, and what becomes of it when its caller or the daemon goes.
#include "cmd/publish.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fs/fake_store.h"

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
  Executor executor_{"test", 2};
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
  absl::Notification go_on;
  for (int i = 0; i < 2; ++i) executor_.Submit([&] { go_on.WaitForNotification(); });
  const auto outcome = Start();
  EXPECT_EQ(publications_.running(), 1);
  std::thread stop([&] { publications_.Stop(); });
  EXPECT_FALSE(outcome->ended.HasBeenNotified());
  go_on.Notify();
  stop.join();
  EXPECT_TRUE(outcome->ended.HasBeenNotified());
  EXPECT_FALSE(outcome->status().ok());
}

}  // namespace
}  // namespace imagefs
