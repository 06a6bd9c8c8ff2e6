// SPDX-License-Identifier: Apache-2.0
// Lazy layers whose span table came without its windows.
#include "cache/late_windows.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/layer_read.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

constexpr uint32_t kPiece = 16 << 10;

// Text, all of whose parts refer to what came before.
std::string Words(size_t size) {
  std::minstd_rand random(5);
  std::vector<std::string> words(5000);
  for (std::string& word : words) {
    for (size_t i = 2 + random() / 7 % 8; i > 0; --i) {
      word += static_cast<char>('a' + random() / 7 % 26);
    }
  }
  std::string text;
  while (text.size() < size) text += StrCat(words[random() / 7 % words.size()], " ");
  text.resize(size);
  return text;
}

class LateWindowsTest : public ::testing::Test {
 protected:
  LateWindowsTest() : directory_(StrCat(::testing::TempDir(), "/late-", RandomHex(8))) {
    options_.background = false;
    options_.quiet = absl::Milliseconds(20);
    options_.health.first.fill(absl::Microseconds(2500));
    tar_ = Words(6 << 20);
    const std::string blob = GzipBytes(tar_);
    whole_ = *WriteSpanTable(MakeTable(tar_, blob, 32 << 10));
    table_ = *SpanTableReader::FromBytes(whole_);
    repository_.AddBlob(blob);
    const std::string windows = whole_.substr(table_->windows().begin);
    windows_.blob.digest = Sha256Of(windows);
    windows_.blob.size = windows.size();
    windows_.piece_bytes = kPiece;
    for (size_t at = 0; at < windows.size(); at += kPiece) {
      windows_.pieces.push_back(Sha256Of(windows.substr(at, kPiece)));
    }
    repository_.AddBlob(windows);
    EXPECT_TRUE(MakeDirs(directory_).ok());
    std::string late = SpanTableWithoutWindows(whole_);
    late.resize(whole_.size());
    EXPECT_TRUE(WriteFileDurably(Access(), late).ok());
  }
  ~LateWindowsTest() override {
    Close();
    std::filesystem::remove_all(directory_);
  }
  std::string Access() const { return directory_ + "/access"; }

  absl::Status TryOpen() {
    Close();
    options_.guess = false;  // requests what is read, and nothing else
    scheduler_ = std::make_unique<FillScheduler>(options_);
    FillingLayer::Options options;
    options.directory = directory_;
    options.damaged = [this](const absl::Status&) { damaged_ = true; };
    options.open = [this](const Reference& reference) {
      opened_ = reference.ToString();
      return absl::StatusOr<std::shared_ptr<ImageSource>>(repository_.Open("indexes"));
    };
    IMAGEFS_ASSIGN_OR_RETURN(layer_, FillingLayer::Open(options, *scheduler_));
    layer_->Start();
    return absl::OkStatus();
  }
  void Open() {
    ASSERT_TRUE(LateWindows::Write(directory_, windows_).ok());
    ASSERT_TRUE(TryOpen().ok());
    layer_->AddSource(repository_.Open("alice"));
  }
  void Close() {
    scheduler_.reset();
    layer_.reset();
  }

  std::unique_ptr<LayerRead> Begin(uint64_t at) { return BeginRead(*layer_, {at, at + 100}); }
  // Reads a part of the span, and compares it.
  absl::Status Check(size_t span) {
    const uint64_t at = table_->span(span).data_begin;
    IMAGEFS_RETURN_IF_ERROR(Begin(at)->status());
    const Fd fd = *OpenFile(directory_ + "/data", O_RDONLY);
    std::string bytes(100, '\0');
    EXPECT_TRUE(PreadFull(fd.get(), absl::MakeSpan(bytes), at).ok());
    return bytes == tar_.substr(at, 100) ? absl::OkStatus() : absl::InternalError("wrong bytes");
  }
  uint64_t FetchedWindows() const {
    uint64_t bytes = 0;
    for (const ByteRange& range : repository_.Reads(windows_.blob.digest)) bytes += range.size();
    return bytes;
  }
  bool Becomes(const std::string& state) {
    return Eventually([&] { return layer_->Report().state == state; });
  }
  size_t last() const { return table_->span_count() - 1; }

  FakeRepository repository_{8};
  const std::string directory_;
  FillScheduler::Options options_;
  std::string tar_, whole_;
  std::unique_ptr<SpanTableReader> table_;
  PublishedWindows windows_;
  std::unique_ptr<FillScheduler> scheduler_;
  std::shared_ptr<FillingLayer> layer_;
  std::atomic<bool> damaged_{false};
  std::string opened_;
};

TEST_F(LateWindowsTest, AReadWaitsForItsWindowAndBringsOnlyWhatIsNear) {
  ASSERT_GT(windows_.blob.size, 256U << 10);
  Open();
  repository_.HoldAt(windows_.blob.digest, 0);
  const auto read = Begin(table_->span(last()).data_begin);
  ASSERT_TRUE(Eventually([&] { return layer_->Report().blob_bytes_fetched > 0; }));
  EXPECT_TRUE(Check(0).ok());  // it needs none
  EXPECT_FALSE(read->ended.HasBeenNotified());
  repository_.Release(windows_.blob.digest);
  EXPECT_TRUE(read->status().ok());
  EXPECT_TRUE(Check(last()).ok());
  EXPECT_GT(FetchedWindows(), 0U);
  EXPECT_LE(FetchedWindows(), 128U << 10);
  EXPECT_FALSE(damaged_);
}

TEST_F(LateWindowsTest, FewAreFetchedAtOnce) {
  tar_.resize(400'000);
  const std::string blob = GzipBytes(tar_);
  whole_ = *WriteSpanTable(MakeTable(tar_, blob, 64 << 10));
  table_ = *SpanTableReader::FromBytes(whole_);
  ASSERT_LE(table_->windows().size(), 256U << 10);
  const std::string windows = whole_.substr(table_->windows().begin);
  windows_ = {repository_.AddBlob(windows), 1 << 20, {Sha256Of(windows)}, ""};
  std::string late = SpanTableWithoutWindows(whole_);
  late.resize(whole_.size());
  ASSERT_TRUE(WriteFileDurably(Access(), late).ok());
  Open();
  EXPECT_TRUE(Eventually([&] { return *ReadFile(Access(), 1 << 30) == whole_; }));
  EXPECT_EQ(repository_.Reads(windows_.blob.digest).size(), 1U);
}

TEST_F(LateWindowsTest, WhenItIsQuietTheRestComes) {
  options_.background = true;
  options_.quiet = absl::Hours(1);
  Open();
  EXPECT_TRUE(Eventually([&] { return *ReadFile(Access(), 1 << 30) == whole_; }));
  EXPECT_EQ(FetchedWindows(), windows_.blob.size);
}

TEST_F(LateWindowsTest, ALayerIsCompleteWithItsWindowsOnly) {
  Open();
  repository_.HoldAt(windows_.blob.digest, windows_.blob.size - 1);
  layer_->WantAll(Priority::kForeground);
  repository_.AwaitHeld(windows_.blob.digest);
  EXPECT_NE(*ReadFile(Access(), 1 << 30), whole_);
  EXPECT_FALSE(layer_->complete());
  repository_.Release(windows_.blob.digest);
  EXPECT_TRUE(Becomes("complete"));
  EXPECT_EQ(*ReadFile(Access(), 1 << 30), whole_);
  EXPECT_NE(access((directory_ + "/windows").c_str(), F_OK), 0);
  EXPECT_EQ(FetchedWindows(), windows_.blob.size);
}

TEST_F(LateWindowsTest, WhatCameIsThereAfterTheProcess) {
  Open();
  ASSERT_TRUE(Check(last()).ok());
  const uint64_t fetched = FetchedWindows();
  std::filesystem::remove(directory_ + "/present");  // so that the span has to be decoded again
  ASSERT_TRUE(TryOpen().ok());
  layer_->AddSource(repository_.Open("alice"));
  EXPECT_TRUE(Check(last()).ok());
  EXPECT_EQ(FetchedWindows(), fetched);
  EXPECT_TRUE(Check(last() / 2).ok());
  EXPECT_GT(FetchedWindows(), fetched);
  // A byte that a crash has lost.
  {
    const Fd fd = *OpenFile(Access(), O_WRONLY);
    ASSERT_TRUE(PwriteFull(fd.get(), "?", whole_.size() - 1).ok());
  }
  std::filesystem::remove(directory_ + "/present");
  ASSERT_TRUE(TryOpen().ok());
  layer_->AddSource(repository_.Open("alice"));
  EXPECT_TRUE(Check(last()).ok());
}

TEST_F(LateWindowsTest, WrongBytesAreFetchedAgain) {
  Open();
  repository_.CorruptAt(windows_.blob.digest, windows_.blob.size - 10, 1);
  EXPECT_TRUE(Check(last()).ok());
  EXPECT_FALSE(damaged_);
}

TEST_F(LateWindowsTest, WindowsOfAnotherLayerDamageThisOne) {
  std::swap(windows_.pieces.front(), windows_.pieces.back());
  Open();
  EXPECT_TRUE(Check(0).ok());
  EXPECT_TRUE(absl::IsDataLoss(Check(last())));
  EXPECT_TRUE(Eventually([&] { return damaged_.load(); }));
  EXPECT_TRUE(absl::IsDataLoss(Check(0)));
}

TEST_F(LateWindowsTest, WindowsThatDoNotExistDamageTheLayer) {
  windows_.blob.digest = Sha256Of("a blob that nobody has");
  Open();
  const absl::Status status = Check(last());
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(Eventually([&] { return damaged_.load(); }));
}

TEST_F(LateWindowsTest, AWindowThatEndsEarlyIsAskedForAgain) {
  Open();
  repository_.EndEarly(windows_.blob.digest, windows_.blob.size - 10, 1);
  EXPECT_TRUE(Check(last()).ok());
}

TEST_F(LateWindowsTest, WhoMayNotHaveThemIsTold) {
  repository_.Deny("alice", windows_.blob.digest);
  Open();
  const absl::Status status = Check(last());
  EXPECT_TRUE(IsCredentialFailure(status)) << status;
  EXPECT_FALSE(damaged_);
  layer_->AddSource(repository_.Open("bob"));
  EXPECT_TRUE(Check(last()).ok());
}

TEST_F(LateWindowsTest, TheRepositoryOfTheIndexIsAskedAgainAfterTheProcess) {
  windows_.repository = "other.test/indexes";
  repository_.Deny("alice", windows_.blob.digest);
  Open();
  EXPECT_TRUE(Check(last()).ok());
  EXPECT_EQ(opened_, "other.test/indexes:latest");
}

TEST_F(LateWindowsTest, SpansThatComeBeforeThemWait) {
  Open();
  repository_.HoldAt(windows_.blob.digest, 0);
  const auto read = Begin(table_->span(last()).data_begin);
  repository_.AwaitHeld(windows_.blob.digest);
  layer_->WantAll(Priority::kReadahead);
  EXPECT_TRUE(Eventually([&] { return layer_->Report().blob_bytes_fetched > 1 << 20; }));
  repository_.Release(windows_.blob.digest);
  EXPECT_TRUE(read->status().ok());
  layer_->WantAll(Priority::kForeground);
  EXPECT_TRUE(Becomes("complete"));
}

TEST_F(LateWindowsTest, WhatWaitsIsCounted) {
  ASSERT_TRUE(LateWindows::Write(directory_, windows_).ok());
  scheduler_ = std::make_unique<FillScheduler>(options_);
  const auto late =
      *LateWindows::Open({directory_, table_->windows(), nullptr, nullptr}, *scheduler_);
  int ran = 0;
  const ByteRange last_one = table_->span(last()).window();
  late->When(last_one, 3 << 20, [&] { ++ran; });
  EXPECT_FALSE(late->crowded());
  late->When(last_one, 3 << 20, [&] { ++ran; });
  EXPECT_TRUE(late->crowded());
  late->When({0, 0}, 3 << 20, [&] { ran += 10; });
  EXPECT_EQ(ran, 10);
  absl::Notification all;
  late->WhenComplete([&] { all.Notify(); });
  late->AddSource(repository_.Open("alice"), true);
  all.WaitForNotification();
  EXPECT_EQ(ran, 12);
  EXPECT_FALSE(late->crowded());
  EXPECT_TRUE(late->complete());
  late->Cancel();  // they are here nevertheless
  late->When(last_one, 1, [&] { ++ran; });
  EXPECT_EQ(ran, 13);
}

TEST_F(LateWindowsTest, FilesThatDoNotFitAreRefused) {
  EXPECT_TRUE(absl::IsDataLoss(TryOpen()));  // there is none
  const auto refused = [&](auto change) {
    PublishedWindows wrong = windows_;
    change(wrong);
    std::filesystem::remove(directory_ + "/windows");
    EXPECT_TRUE(LateWindows::Write(directory_, wrong).ok());
    return absl::IsDataLoss(TryOpen());
  };
  EXPECT_FALSE(refused([](PublishedWindows&) {}));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.blob.size += kPiece; }));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.blob.size -= 1; }));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.blob.size = 0; }));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.piece_bytes = 0; }));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.piece_bytes *= 2; }));
  EXPECT_TRUE(refused([](PublishedWindows& w) { w.pieces.pop_back(); }));
  for (const char* text : {"", "{}", "[]", "{\"version\": 2}"}) {
    std::filesystem::remove(directory_ + "/windows");
    ASSERT_TRUE(WriteFileDurably(directory_ + "/windows", text).ok());
    EXPECT_TRUE(absl::IsDataLoss(TryOpen())) << text;
  }
}

}  // namespace
}  // namespace imagefs
