// SPDX-License-Identifier: Apache-2.0
// What tests of FillingLayer share: a layer over a FakeRepository, and readers.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/filling_layer.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/layer_read.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {

inline size_t SpanOf(const SpanTable& table, uint64_t offset) {
  size_t i = 0;
  while (table.spans[i].data_end() <= offset) ++i;
  return i;
}

class FillingLayerTest : public ::testing::Test {
 protected:
  FillingLayerTest() : directory_(StrCat(::testing::TempDir(), "/fill-", RandomHex(8))) {
    options_.background = false;
    options_.guess = false;
    options_.quiet = absl::Milliseconds(20);
    // Like the defaults, a hundred times as fast.
    options_.health.first.fill(absl::Microseconds(2500));
    options_.health.most = {absl::Milliseconds(20), absl::Milliseconds(150),
                            absl::Milliseconds(600), absl::Seconds(3)};
    options_.health.certain_after = absl::Milliseconds(600);
    options_.health.most_certain = absl::Milliseconds(100);
    // Only tests that lower this hedge silent requests.
    options_.health.least_silence = absl::Seconds(30);
    tar_ = MixedBytes(3 << 20, 11);
    Make(GzipBytes(tar_));
  }
  ~FillingLayerTest() override {
    Close();
    std::filesystem::remove_all(directory_);
  }

  // Opens a layer of tar_ with this blob.
  void Make(const std::string& bytes) {
    if (scheduler_ != nullptr) Close();
    table_ = MakeTable(tar_, bytes, 32 << 10, whole_frame_bytes_);
    blob_ = repository_.AddBlob(bytes);
    std::filesystem::remove_all(directory_);
    EXPECT_TRUE(MakeDirs(directory_).ok());
    EXPECT_TRUE(WriteFileDurably(directory_ + "/access", *WriteSpanTable(table_)).ok());
    Open();
  }
  // Opens an unproven layer of tar_ whose blob is the tar, without digests of its spans.
  void MakeStored() {
    if (scheduler_ != nullptr) Close();
    table_ = StoredSpanTable(Sha256Of(tar_), tar_.size());
    blob_ = repository_.AddBlob(tar_);
    std::filesystem::remove_all(directory_);
    EXPECT_TRUE(MakeDirs(directory_).ok());
    EXPECT_TRUE(WriteFileDurably(directory_ + "/access", *WriteSpanTable(table_)).ok());
    unproven_ = true;
    Open();
  }
  // Uses incompressible bytes, so that each frame of them is one large span.
  void MakeFrames(size_t size, int frames) {
    tar_.resize(size);
    std::minstd_rand random(7);
    for (char& c : tar_) c = static_cast<char>(random() >> 8);
    Make(ZstdBytes(tar_, frames));
    ASSERT_EQ(table_.spans.size(), static_cast<size_t>(frames));
    repository_.Interleave(blob_.digest, 8 << 20, 3);
  }

  void Open(bool unverified = false) {
    scheduler_ = std::make_unique<FillScheduler>(options_);
    FillingLayer::Options options;
    options.directory = directory_;
    options.unverified = unverified;
    options.unproven = unproven_;
    options.check = [this](FillingLayer&) {
      ++checks_;
      return check_;
    };
    options.failing = [this](const absl::Status& why, bool for_good) {
      absl::MutexLock lock(&mu_);
      if (for_good) told_ = why;
    };
    auto layer = FillingLayer::Open(options, *scheduler_);
    ASSERT_TRUE(layer.ok()) << layer.status();
    layer_ = *layer;
    layer_->AddSource(repository_.Open("alice"));
    layer_->Start();
  }
  void Close() {
    // Readers are notified first; the layer is destroyed with its last request.
    scheduler_.reset();
    layer_.reset();
  }

  using Read = LayerRead;
  std::unique_ptr<Read> Begin(ByteRange range, ReaderId reader = 0) {
    return BeginRead(*layer_, range, reader);
  }
  // Starts a reader for each of four large spans, with memory for one at a time; none gets a byte.
  std::vector<std::unique_ptr<Read>> ReadLargeSpansInLittleMemory() {
    options_.reads_memory = 25 << 20;
    MakeFrames(40 << 20, 4);
    repository_.HoldAt(blob_.digest, 0);
    std::vector<std::unique_ptr<Read>> reads;
    // Backwards: nothing is read ahead, which has memory of its own.
    for (auto span = table_.spans.rbegin(); span != table_.spans.rend(); ++span) {
      reads.push_back(Begin({span->data_begin, span->data_begin + 1}));
    }
    return reads;
  }
  // Reads and compares.
  absl::Status Check(ByteRange range) {
    const std::unique_ptr<Read> read = Begin(range);
    IMAGEFS_RETURN_IF_ERROR(read->status());
    const Fd fd = *OpenFile(directory_ + "/data", O_RDONLY);
    std::string bytes(range.size(), '\0');
    EXPECT_EQ(*PreadFull(fd.get(), absl::MakeSpan(bytes), range.begin), range.size());
    for (const ReadPin::Memory& part : read->pin->memory) {
      EXPECT_EQ(part.layer, layer_.get());
      const uint64_t first = std::max(range.begin, part.begin);
      const uint64_t last = std::min<uint64_t>(range.end, part.begin + part.bytes->size());
      if (first < last) {
        bytes.replace(first - range.begin, last - first, *part.bytes, first - part.begin,
                      last - first);
      }
    }
    if (bytes != tar_.substr(range.begin, range.size())) {
      return absl::DataLossError(StrCat("wrong bytes in ", range.begin, "-", range.end));
    }
    return absl::OkStatus();
  }
  // Eight readers of anything, which compare what they read.
  void ReadEverywhere(int reads_each) {
    std::vector<std::thread> readers;
    for (uint32_t seed = 0; seed < 8; ++seed) {
      readers.emplace_back([this, seed, reads_each] {
        std::mt19937 random(seed);
        for (int i = 0; i < reads_each; ++i) {
          const uint64_t begin = random() % tar_.size();
          const uint64_t end = std::min<uint64_t>(tar_.size(), begin + 1 + random() % 200'000);
          EXPECT_TRUE(Check({begin, end}).ok());
        }
      });
    }
    for (std::thread& reader : readers) reader.join();
  }
  // Returns what a caller that waits for the whole layer is told.
  absl::Status AwaitTold() {
    absl::MutexLock lock(&mu_);
    auto told = [this] { return told_.has_value(); };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&told), absl::Seconds(20)));
    return told_.value_or(absl::OkStatus());
  }
  void AwaitComplete() {
    ASSERT_TRUE(Eventually([this] { return layer_->complete(); }));
  }
  // Expects that no byte of the blob was requested twice, except the one that two adjacent spans
  // share.
  void ExpectEachOnce() {
    RangeSet seen;
    for (const ByteRange& range : repository_.Reads(blob_.digest)) {
      uint64_t missing = 0;
      for (const ByteRange& part : seen.Missing(range)) missing += part.size();
      EXPECT_GE(missing + 2, range.size()) << range.begin << "-" << range.end;
      seen.Add(range);
    }
  }
  uint64_t Asked() {
    uint64_t bytes = 0;
    for (const ByteRange& range : repository_.Reads(blob_.digest)) bytes += range.size();
    return bytes;
  }

  const std::string directory_;
  std::string tar_;
  SpanTable table_;
  FakeRepository repository_{16};
  Descriptor blob_;
  FillScheduler::Options options_;
  bool unproven_ = false;
  uint64_t whole_frame_bytes_ = UINT64_MAX;  // a zstd frame is one span
  std::atomic<int> checks_{0};
  absl::Status check_;
  absl::Mutex mu_;
  std::optional<absl::Status> told_;
  std::unique_ptr<FillScheduler> scheduler_;
  std::shared_ptr<FillingLayer> layer_;
};

}  // namespace imagefs
