// SPDX-License-Identifier: Apache-2.0
// What sources promise whose bytes come later, in addition to source_contract.h. Their harness also
// has
//   void Hold(uint64_t offset);   // of the blob, from now on
//   void AwaitHeld();             // a transfer stands there
//   void Release();
#pragma once

#include <vector>

#include "tests/fakes/fetch/source_contract.h"

namespace imagefs {

template <typename Harness>
class HeldSourceContractTest : public SourceContractTest<Harness> {};
TYPED_TEST_SUITE_P(HeldSourceContractTest);

TYPED_TEST_P(HeldSourceContractTest, WhoCancelsDoesNotWaitForBytes) {
  for (const uint64_t offset : {0, 40'000}) {
    this->harness_.Hold(offset);
    ContractSink sink(this->truth_);
    CancelSource cancel;
    this->source_->ReadBlob(this->blob_, {{0, 90'000}}, nullptr, cancel.token(), sink.Sink(),
                            sink.Done());
    this->harness_.AwaitHeld();
    cancel.Cancel();
    EXPECT_TRUE(absl::IsCancelled(sink.Wait())) << offset;
    this->harness_.Release();
  }
}

TYPED_TEST_P(HeldSourceContractTest, WhoCancelsDisturbsNoOtherReader) {
  this->harness_.Hold(0);
  ContractSink goes(this->truth_), stays(this->truth_);
  CancelSource cancel;
  this->source_->ReadBlob(this->blob_, {{0, 90'000}}, nullptr, cancel.token(), goes.Sink(),
                          goes.Done());
  this->source_->ReadBlob(this->blob_, {{0, 90'000}}, nullptr, CancelToken(), stays.Sink(),
                          stays.Done());
  this->harness_.AwaitHeld();
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(goes.Wait()));
  this->harness_.Release();
  EXPECT_TRUE(stays.Wait().ok());
  EXPECT_EQ(stays.ranges(), std::vector<ByteRange>({{0, 90'000}}));
}

REGISTER_TYPED_TEST_SUITE_P(HeldSourceContractTest, WhoCancelsDoesNotWaitForBytes,
                            WhoCancelsDisturbsNoOtherReader);

}  // namespace imagefs
