// SPDX-License-Identifier: Apache-2.0
// Tests of requests that are too slow, yield to others, or lead to disallowed addresses.
#include <gtest/gtest.h>

#include "base/text.h"
#include "fetch/registry.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

using std::chrono::milliseconds;

class RegistryLimitsTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.first_backoff = milliseconds(1);
    options_.range_bytes = 100'000;
    blob_.size = bytes_.size();
    blob_.digest = server_.AddBlob("img", bytes_);
    path_ = FakeRegistry::BlobPath("img", blob_.digest);
    server_.AddManifest("img", "1", "{}", "application/vnd.oci.image.manifest.v1+json");
  }
  void Make() { factory_ = *SourceFactory::Create(options_); }
  std::shared_ptr<ImageSource> Open(const std::string& repository = "img") {
    return *factory_->Open(*Reference::Parse(StrCat(server_.host(), "/", repository, ":1")), {});
  }
  void Begin(ImageSource& source, ByteRange range, Priority priority,
             Pending<absl::Status>& pending) {
    source.ReadBlob(
        blob_, {range}, std::make_shared<LivePriority>(priority), CancelToken(),
        [this](uint64_t offset, std::string_view data) {
          received_.replace(offset, data.size(), data);
          total_ += data.size();
          return absl::OkStatus();
        },
        pending.Done());
  }
  absl::Status Read(ByteRange range, Priority priority = Priority::kForeground) {
    Pending<absl::Status> pending;
    Begin(*Open(), range, priority, pending);
    return pending.Wait();
  }

  FakeRegistry server_;
  SourceFactory::Options options_;
  std::unique_ptr<SourceFactory> factory_;
  const std::string bytes_ = PatternBytes(90'000);
  Descriptor blob_;
  std::string path_;
  std::string received_ = std::string(90'000, '\0');
  uint64_t total_ = 0;
};

TEST_F(RegistryLimitsTest, ABlobThatTricklesEndsSoon) {
  options_.http.phases.least_rate = 16'000;
  options_.http.phases.end_window = milliseconds(300);
  Make();
  server_.On(path_, {.times = -1, .slow_body = true});
  const absl::Status status = Read({0, blob_.size});
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Mentions(status, "less than the least rate of 1000 bytes a second")) << status;
  EXPECT_TRUE(Mentions(status, server_.host())) << status;
  EXPECT_EQ(server_.RequestsFor(path_).size(), 2u);
}

TEST_F(RegistryLimitsTest, ARangeInAnswersOfAByteEnds) {
  Make();
  for (int i = 0; i < 100; ++i) {
    server_.On(path_,
               {.status = 206,
                .headers = {{"Content-Range", StrCat("bytes ", 10 + i, "-", 10 + i, "/90000")}},
                .body = bytes_.substr(static_cast<size_t>(10 + i), 1)});
  }
  const absl::Status status = Read({10, blob_.size});
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(Mentions(status, "a few bytes (1)")) << status;
  EXPECT_EQ(server_.RequestsFor(path_).size(), 16u);
}

TEST_F(RegistryLimitsTest, ASmallBlobHasATimeByItsSize) {
  options_.http.phases.collected = milliseconds(200);
  options_.http.phases.collected_rate = 1'000'000;
  Make();
  server_.On(path_, {.times = -1, .slow_body = true});
  Pending<absl::StatusOr<std::string>> pending;
  Open()->GetSmallBlob(blob_, 1 << 20, CancelToken(), pending.Done());
  EXPECT_TRUE(Mentions(pending.Wait().status(), "the whole of a small answer"))
      << pending.result.status();
}

TEST_F(RegistryLimitsTest, ABlobThatGaveWayGoesOnWhereItWas) {
  options_.http.shares.per_host = 1;
  options_.http.shares.patience = milliseconds(1);
  options_.max_attempts = 1;  // yielding does not count as a failed attempt
  server_.AddManifest("other", "1", "{}", "application/vnd.oci.image.manifest.v1+json");
  Make();
  ASSERT_EQ(Read({0, 10}), absl::OkStatus());  // establishes that ranges work
  total_ = 0;
  server_.On(path_, {.hold_after_bytes = 40'000});
  Pending<absl::Status> pending;
  Begin(*Open(), {0, blob_.size}, Priority::kBackground, pending);
  ASSERT_TRUE(server_.WaitForRequests(path_, 2));
  Pending<absl::StatusOr<ImageSource::FetchedManifest>> manifest;
  Open("other")->GetManifest("1", CancelToken(), manifest.Done());
  EXPECT_EQ(manifest.Wait().status(), absl::OkStatus());
  EXPECT_EQ(pending.Wait(), absl::OkStatus());
  EXPECT_TRUE(received_ == bytes_);
  EXPECT_EQ(total_, blob_.size);
  EXPECT_EQ(factory_->counters().retries, 0u);
  EXPECT_EQ(server_.RequestsFor(path_).size(), 3u);
}

TEST_F(RegistryLimitsTest, WhatIsOutOfReachIsRefusedAtOnce) {
  Make();
  server_.On(path_, {.times = -1, .status = 307, .headers = {{"Location", "http://10.1.2.3/x"}}});
  const absl::Status blob = Read({0, blob_.size});
  EXPECT_TRUE(absl::IsFailedPrecondition(blob)) << blob;
  EXPECT_TRUE(Mentions(blob, "127.0.0.1 leads to 10.1.2.3, a private address")) << blob;
  EXPECT_EQ(server_.RequestsFor(path_).size(), 1u);
  server_.SetAuth(
      {.kind = FakeRegistry::Auth::Kind::kBearer, .realm = "https://169.254.169.254/t"});
  Pending<absl::StatusOr<ImageSource::FetchedManifest>> manifest;
  Open()->GetManifest("1", CancelToken(), manifest.Done());
  EXPECT_TRUE(absl::IsFailedPrecondition(manifest.Wait().status())) << manifest.result.status();
  EXPECT_TRUE(Mentions(manifest.result.status(), "metadata service")) << manifest.result.status();
  EXPECT_EQ(factory_->counters().retries, 0u);
}

}  // namespace
}  // namespace imagefs
