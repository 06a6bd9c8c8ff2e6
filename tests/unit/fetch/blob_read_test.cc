// SPDX-License-Identifier: Apache-2.0
// Tests how a read reports failures and gets connections when the caller handles retries.
#include "fetch/blob_read.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

class BlobReadTest : public ::testing::Test {
 protected:
  BlobReadTest() {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    factory_ = *SourceFactory::Create(options);
    blob_.size = bytes_.size();
    blob_.digest = server_.AddBlob("img", bytes_);
    path_ = FakeRegistry::BlobPath("img", blob_.digest);
    source_ = *factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), {});
  }
  static ImageSource::ReadOptions Once() {
    ImageSource::ReadOptions options(std::make_shared<LivePriority>(Priority::kOnDemand));
    options.once = true;
    return options;
  }
  // Starts to read `range`.
  void Begin(Pending<absl::Status>& pending, ByteRange range, ImageSource::ReadOptions options,
             CancelToken cancel = CancelToken()) {
    source_->ReadBlob(
        blob_, {range}, std::move(options), std::move(cancel),
        [this](uint64_t offset, std::string_view data) {
          EXPECT_EQ(bytes_.compare(offset, data.size(), data), 0);
          return absl::OkStatus();
        },
        pending.Done());
  }
  absl::Status Read(ByteRange range, ImageSource::ReadOptions options) {
    Pending<absl::Status> pending;
    Begin(pending, range, std::move(options));
    return pending.Wait();
  }
  size_t asked() const { return server_.RequestsFor(path_).size(); }

  const std::string bytes_ = PatternBytes(300'000);
  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
  Descriptor blob_;
  std::string path_;
  std::shared_ptr<ImageSource> source_;
};

TEST_F(BlobReadTest, OnceIsOnce) {
  for (const int status : {404, 429, 500, 503, 999}) {
    server_.On(path_, {.times = 1, .status = status});
    const size_t before = asked();
    EXPECT_FALSE(Read({0, 1000}, Once()).ok()) << status;
    EXPECT_EQ(asked(), before + 1) << status;
  }
  server_.On(path_, {.times = 1, .cut_after_bytes = 0});
  const size_t before = asked();
  EXPECT_TRUE(absl::IsUnavailable(Read({0, 1000}, Once())));
  EXPECT_EQ(asked(), before + 1);
  EXPECT_TRUE(Read({0, 1000}, Once()).ok());
}

TEST_F(BlobReadTest, OnceTellsOfRetryAfter) {
  for (const char* seconds : {"3", "86400"}) {
    server_.On(path_, {.times = 1, .status = 429, .headers = {{"Retry-After", seconds}}});
    const absl::Status status = Read({0, 1000}, Once());
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(RetryAfterOf(status), std::chrono::seconds(atoi(seconds)));
  }
  server_.On(path_, {.times = 1, .status = 503});
  EXPECT_EQ(RetryAfterOf(Read({0, 1000}, Once())), std::nullopt);
}

TEST_F(BlobReadTest, OnceGoesOnWhereAnAnswerThatBroughtSomethingWasCut) {
  server_.On(path_, {.times = 1, .cut_after_bytes = 100'000});
  EXPECT_TRUE(Read({0, 300'000}, Once()).ok());
  EXPECT_EQ(server_.RangesAsked(path_).back().begin, 100'000U);
  server_.On(path_, {.times = 1, .cut_after_bytes = 1000});
  EXPECT_TRUE(absl::IsUnavailable(Read({0, 300'000}, Once())));
}

TEST_F(BlobReadTest, AHedgeHasAConnectionOfItsOwn) {
  ASSERT_TRUE(Read({0, 1000}, Once()).ok());
  ASSERT_TRUE(Read({0, 1000}, Once()).ok());
  EXPECT_EQ(server_.connections(), 1U);
  ImageSource::ReadOptions hedge = Once();
  hedge.hedge = true;
  EXPECT_TRUE(Read({0, 1000}, hedge).ok());
  EXPECT_EQ(server_.connections(), 2U);
}

// All connections that a host may have are stalled.
TEST_F(BlobReadTest, SilentRequestsGiveWayToAHedge) {
  ASSERT_TRUE(Read({0, 1000}, Once()).ok());
  const int limit = ConnectionShares::Options().per_host;
  server_.On(path_, {.times = limit, .hold = true});
  std::vector<std::unique_ptr<Pending<absl::Status>>> silent;
  CancelSource cancel;
  for (int i = 0; i < limit; ++i) {
    silent.push_back(std::make_unique<Pending<absl::Status>>());
    Begin(*silent.back(), {0, 1000}, Once(), cancel.token());
  }
  ASSERT_TRUE(server_.WaitForRequests(path_, static_cast<size_t>(limit) + 1));
  ImageSource::ReadOptions hedge = Once();
  hedge.hedge = true;
  EXPECT_TRUE(Read({5000, 6000}, hedge).ok());
  cancel.Cancel();
  for (const auto& one : silent) one->Wait();
  server_.Release(path_);
}

}  // namespace
}  // namespace imagefs
