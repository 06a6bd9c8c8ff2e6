// SPDX-License-Identifier: Apache-2.0
// Tests of the guarantees of ReadBlob (fetch/source.h) that every ImageSource must pass. A harness
// provides a source and a blob:
//
//   struct Harness {
//     // A source that contains these bytes, and the descriptor of their blob.
//     std::shared_ptr<ImageSource> Open(std::string bytes, Descriptor& blob);
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, SourceContractTest, Harness);
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/text.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {

// A sink that verifies the contract.
class ContractSink {
 public:
  explicit ContractSink(const std::string& truth) : truth_(truth) {}

  // `on_call` runs in each call; the sink returns its result.
  ImageSource::BlobSink Sink(std::function<absl::Status(uint64_t received)> on_call = nullptr) {
    return [this, on_call = std::move(on_call)](uint64_t offset, std::string_view data) {
      EXPECT_FALSE(busy_.exchange(true)) << "two calls at once";
      EXPECT_FALSE(over_) << "a call after the end or after an error";
      EXPECT_FALSE(data.empty());
      EXPECT_LE(offset + data.size(), truth_.size());
      EXPECT_EQ(truth_.compare(offset, data.size(), data), 0) << "other bytes at " << offset;
      EXPECT_EQ(present_.Missing({offset, offset + data.size()}).size(), 1U) << "bytes came twice";
      const uint64_t before = present_.total_bytes();
      present_.Add({offset, offset + data.size()});
      EXPECT_EQ(present_.total_bytes(), before + data.size()) << "bytes came twice";
      const absl::Status status = on_call ? on_call(present_.total_bytes()) : absl::OkStatus();
      if (!status.ok()) over_ = true;
      busy_ = false;
      return status;
    };
  }
  ImageSource::BlobDone Done() {
    return [this](absl::Status status) {
      EXPECT_FALSE(busy_) << "the end within a call";
      over_ = true;
      pending_.Done()(std::move(status));
    };
  }
  absl::Status Wait() { return pending_.Wait(); }
  // Call after Wait.
  std::vector<ByteRange> ranges() const { return present_.ranges(); }

 private:
  const std::string& truth_;
  RangeSet present_;
  std::atomic<bool> busy_{false}, over_{false};
  Pending<absl::Status> pending_;
};

template <typename Harness>
class SourceContractTest : public ::testing::Test {
 protected:
  void SetUp() override {
    truth_ = PatternBytes(700'001);
    source_ = harness_.Open(truth_, blob_);
    ASSERT_NE(source_, nullptr);
  }
  absl::Status Read(std::vector<ByteRange> ranges, ContractSink& sink) {
    source_->ReadBlob(blob_, std::move(ranges), nullptr, CancelToken(), sink.Sink(), sink.Done());
    return sink.Wait();
  }

  std::string truth_;
  Harness harness_;
  Descriptor blob_;
  std::shared_ptr<ImageSource> source_;
};
TYPED_TEST_SUITE_P(SourceContractTest);

TYPED_TEST_P(SourceContractTest, TheWholeOnce) {
  ContractSink sink(this->truth_);
  ASSERT_TRUE(this->Read({{0, this->blob_.size}}, sink).ok());
  EXPECT_EQ(sink.ranges(), std::vector<ByteRange>({{0, this->blob_.size}}));
}

TYPED_TEST_P(SourceContractTest, TheUnionOfRangesInAnyOrderOnce) {
  ContractSink sink(this->truth_);
  const absl::Status status = this->Read(
      {{600'000, 700'001}, {10, 20}, {15, 30}, {10, 20}, {5, 5}, {30, 40}, {400'000, 400'001}},
      sink);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(sink.ranges(),
            std::vector<ByteRange>({{10, 40}, {400'000, 400'001}, {600'000, 700'001}}));
}

TYPED_TEST_P(SourceContractTest, NothingAskedForIsNothing) {
  ContractSink none(this->truth_), empty(this->truth_);
  EXPECT_TRUE(this->Read({}, none).ok());
  EXPECT_TRUE(this->Read({{7, 7}, {this->blob_.size, this->blob_.size}}, empty).ok());
  EXPECT_TRUE(none.ranges().empty());
  EXPECT_TRUE(empty.ranges().empty());
}

TYPED_TEST_P(SourceContractTest, WhatIsNotInTheBlobIsRefusedBeforeAnyByte) {
  for (const ByteRange& bad : {ByteRange{0, 700'002}, ByteRange{700'002, 700'003}, ByteRange{9, 8},
                               ByteRange{1, UINT64_MAX}}) {
    ContractSink sink(this->truth_);
    const absl::Status status = this->Read({{0, 10}, bad}, sink);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(sink.ranges().empty());
  }
}

TYPED_TEST_P(SourceContractTest, TheSinksErrorEndsIt) {
  ContractSink sink(this->truth_);
  this->source_->ReadBlob(this->blob_, {{0, this->blob_.size}}, nullptr, CancelToken(),
                          sink.Sink([](uint64_t received) {
                            return received < 50'000 ? absl::OkStatus()
                                                     : absl::ResourceExhaustedError("full");
                          }),
                          sink.Done());
  const absl::Status status = sink.Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TYPED_TEST_P(SourceContractTest, CancelledBeforeItBegins) {
  ContractSink sink(this->truth_);
  CancelSource cancel;
  cancel.Cancel();
  this->source_->ReadBlob(this->blob_, {{0, this->blob_.size}}, nullptr, cancel.token(),
                          sink.Sink(), sink.Done());
  EXPECT_TRUE(absl::IsCancelled(sink.Wait()));
}

TYPED_TEST_P(SourceContractTest, CancelledInTheMiddle) {
  ContractSink sink(this->truth_);
  CancelSource cancel;
  this->source_->ReadBlob(this->blob_, {{0, this->blob_.size}}, nullptr, cancel.token(),
                          sink.Sink([&cancel](uint64_t) {
                            cancel.Cancel();
                            return absl::OkStatus();
                          }),
                          sink.Done());
  const absl::Status status = sink.Wait();
  // The bytes in flight may have been the last ones.
  EXPECT_TRUE(absl::IsCancelled(status) || status.ok()) << status;
  EXPECT_FALSE(sink.ranges().empty());
}

TYPED_TEST_P(SourceContractTest, ReadersOfOneBlobDoNotMeet) {
  ContractSink whole(this->truth_), part(this->truth_);
  this->source_->ReadBlob(this->blob_, {{0, this->blob_.size}}, nullptr, CancelToken(),
                          whole.Sink(), whole.Done());
  this->source_->ReadBlob(this->blob_, {{100'000, 300'000}}, nullptr, CancelToken(), part.Sink(),
                          part.Done());
  EXPECT_TRUE(whole.Wait().ok());
  EXPECT_TRUE(part.Wait().ok());
  EXPECT_EQ(whole.ranges(), std::vector<ByteRange>({{0, this->blob_.size}}));
  EXPECT_EQ(part.ranges(), std::vector<ByteRange>({{100'000, 300'000}}));
}

TYPED_TEST_P(SourceContractTest, AnotherSizeThanTheManifestSaysIsDataLoss) {
  ContractSink sink(this->truth_);
  Descriptor other = this->blob_;
  other.size -= 1;
  this->source_->ReadBlob(other, {{0, other.size}}, nullptr, CancelToken(), sink.Sink(),
                          sink.Done());
  EXPECT_TRUE(absl::IsDataLoss(sink.Wait()));
}

TYPED_TEST_P(SourceContractTest, AnEmptyBlobIsOneWithoutBytes) {
  const std::string nothing;
  TypeParam harness;
  Descriptor blob;
  const std::shared_ptr<ImageSource> source = harness.Open(nothing, blob);
  ASSERT_NE(source, nullptr);
  ContractSink sink(nothing);
  source->ReadBlob(blob, {{0, 0}}, nullptr, CancelToken(), sink.Sink(), sink.Done());
  EXPECT_TRUE(sink.Wait().ok());
  ContractSink refused(nothing);
  source->ReadBlob(blob, {{0, 1}}, nullptr, CancelToken(), refused.Sink(), refused.Done());
  EXPECT_TRUE(absl::IsInvalidArgument(refused.Wait()));
}

TYPED_TEST_P(SourceContractTest, TheSourceMayGoMeanwhile) {
  ContractSink sink(this->truth_);
  this->source_->ReadBlob(this->blob_, {{0, this->blob_.size}}, nullptr, CancelToken(), sink.Sink(),
                          sink.Done());
  this->source_.reset();
  EXPECT_TRUE(sink.Wait().ok());
  EXPECT_EQ(sink.ranges(), std::vector<ByteRange>({{0, this->blob_.size}}));
}

TYPED_TEST_P(SourceContractTest, AnUnknownBlobIsNotFound) {
  ContractSink sink(this->truth_);
  Descriptor other = this->blob_;
  other.digest = Sha256Of("nobody has it");
  this->source_->ReadBlob(other, {{0, 10}}, nullptr, CancelToken(), sink.Sink(), sink.Done());
  const absl::Status status = sink.Wait();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_TRUE(sink.ranges().empty());
}

REGISTER_TYPED_TEST_SUITE_P(SourceContractTest, TheWholeOnce, TheUnionOfRangesInAnyOrderOnce,
                            NothingAskedForIsNothing, WhatIsNotInTheBlobIsRefusedBeforeAnyByte,
                            TheSinksErrorEndsIt, CancelledBeforeItBegins, CancelledInTheMiddle,
                            ReadersOfOneBlobDoNotMeet, AnotherSizeThanTheManifestSaysIsDataLoss,
                            AnEmptyBlobIsOneWithoutBytes, TheSourceMayGoMeanwhile,
                            AnUnknownBlobIsNotFound);

}  // namespace imagefs
