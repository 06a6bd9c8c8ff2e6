// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kSpans = 4;
constexpr uint32_t kSpanBytes = 1024;

// Delivers everything at once.
class Giver final : public LayerFill {
 public:
  void Ensure(ByteRange range, ReaderId, CancelToken, Done done) override {
    asked = range;
    done(ReadPin());
  }
  bool complete() const override { return false; }
  ByteRange asked;
};

class LayerGuardTest : public ::testing::Test {
 protected:
  LayerGuardTest() {
    directory_ = StrCat(::testing::TempDir(), "/guard-", RandomHex(8));
    EXPECT_TRUE(MakeDirs(directory_).ok());
    SpanTable table;
    table.blob_digest = Sha256Of("blob");
    table.diff_id = Sha256Of("tar");
    table.blob_size = table.tar_bytes = kSpans * kSpanBytes;
    table.data_bytes = (kSpans + 1) * kSpanBytes;
    std::string data;
    for (size_t i = 0; i < kSpans; ++i) {
      SpanEntry span;
      span.data_begin = span.blob_begin = i * kSpanBytes;
      span.data_bytes = span.blob_bytes = kSpanBytes;
      span.digest = Sha256Of(std::string(kSpanBytes, static_cast<char>('a' + i)));
      table.spans.push_back(span);
      data += std::string(kSpanBytes, static_cast<char>('a' + i));
    }
    Write("access", *WriteSpanTable(table), 0);
    Write("data", data + std::string(kSpanBytes, 'z'), 0);
    guard_ = std::make_shared<LayerGuard>(directory_, work_, [this] {
      ++checks_;
      if (on_check_) on_check_();
    });
  }
  ~LayerGuardTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& bytes, uint64_t offset) {
    const absl::StatusOr<Fd> fd = OpenFile(StrCat(directory_, "/", name), O_RDWR | O_CREAT);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, offset).ok());
  }
  absl::Status Ensure(ByteRange range) {
    absl::Notification ended;
    absl::Status status;
    guard_->Ensure(range, 0, CancelToken(), [&](const absl::StatusOr<ReadPin>& pin) {
      status = pin.status();
      ended.Notify();
    });
    ended.WaitForNotification();
    return status;
  }

  std::string directory_;
  Executor work_{ThreadRole::kTest, 2};
  int checks_ = 0;
  std::function<void()> on_check_;
  std::shared_ptr<LayerGuard> guard_;
};

TEST_F(LayerGuardTest, WithoutDoubtNothingIsRead) {
  Write("data", "x", 0);
  EXPECT_TRUE(guard_->readable() && guard_->complete());
  EXPECT_TRUE(Ensure({0, 10}).ok());
  EXPECT_EQ(checks_, 0);
}

TEST_F(LayerGuardTest, EachSpanIsCheckedByItself) {
  guard_->Recheck();
  EXPECT_FALSE(guard_->readable());
  EXPECT_TRUE(guard_->complete());
  Write("data", "x", 3 * kSpanBytes);
  EXPECT_TRUE(Ensure({0, 3 * kSpanBytes}).ok());
  EXPECT_EQ(checks_, 0);
  on_check_ = [this] { guard_->Fail(absl::DataLossError("damaged")); };
  EXPECT_TRUE(absl::IsDataLoss(Ensure({2 * kSpanBytes, 3 * kSpanBytes + 1})));
  EXPECT_EQ(checks_, 1);
  EXPECT_FALSE(guard_->complete());
}

TEST_F(LayerGuardTest, WhatNoSpanTellsOfNeedsTheWhole) {
  guard_->Recheck();
  on_check_ = [this] { guard_->Trust(guard_->rechecks()); };
  EXPECT_TRUE(Ensure({kSpans * kSpanBytes, kSpans * kSpanBytes + 8}).ok());
  EXPECT_EQ(checks_, 1);
  EXPECT_TRUE(guard_->readable());
}

TEST_F(LayerGuardTest, TrustOfBeforeADoubtIsNone) {
  guard_->Recheck();
  const uint64_t rechecks = guard_->rechecks();
  guard_->Recheck();
  guard_->Trust(rechecks);
  EXPECT_FALSE(guard_->readable());
  EXPECT_TRUE(Ensure({0, 10}).ok());
  guard_->Recheck();
  Write("data", "x", 5);
  on_check_ = [this] { guard_->Fail(absl::DataLossError("damaged")); };
  EXPECT_FALSE(Ensure({0, 10}).ok());
}

TEST_F(LayerGuardTest, DamageComesFromWhoMendsIt) {
  const auto giver = std::make_shared<Giver>();
  const auto layer = std::make_shared<Layer>();
  layer->fill = giver;
  guard_->Recheck();
  Write("data", "x", 0);
  on_check_ = [&] { guard_->FillFrom(layer); };
  EXPECT_TRUE(Ensure({0, 10}).ok());
  EXPECT_EQ(giver->asked, (ByteRange{0, 10}));
  EXPECT_FALSE(guard_->complete());
  EXPECT_EQ(guard_->filling(), layer);
}

}  // namespace
}  // namespace imagefs
