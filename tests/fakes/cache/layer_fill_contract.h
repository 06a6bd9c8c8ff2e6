// SPDX-License-Identifier: Apache-2.0
// The contract of LayerFill (cache/chain.h), as tests that every implementation must pass. A
// harness provides a layer that has no bytes yet:
//
//   struct Harness {
//     LayerFill& fill();
//     const std::string& truth();  // the bytes of its data file
//     std::string data();          // the path of the data file
//     void Hold();                 // nothing arrives from now on
//     void AwaitHeld();            // waits until a request is held
//     void Release();
//     void BringAll();             // fetches everything until it is complete
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, LayerFillContractTest, Harness);
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "cache/chain.h"

namespace imagefs {

template <typename Harness>
class LayerFillContractTest : public ::testing::Test {
 protected:
  struct Read {
    absl::StatusOr<ReadPin>& Wait() {
      ended.WaitForNotification();
      return pin;
    }
    absl::Notification ended;
    absl::StatusOr<ReadPin> pin;
    CancelSource cancel;
    std::atomic<int> calls{0};
  };
  void Begin(ByteRange range, Read& read) {
    harness_.fill().Ensure(range, /*reader=*/7, read.cancel.token(),
                           [&read](absl::StatusOr<ReadPin> pin) {
                             ASSERT_EQ(++read.calls, 1) << "done ran twice";
                             read.pin = std::move(pin);
                             read.ended.Notify();
                           });
  }
  // Reads the data file, as a reader does once it is told that the bytes are present.
  std::string Bytes(ByteRange range) {
    const absl::StatusOr<Fd> file = OpenFile(harness_.data(), O_RDONLY);
    EXPECT_TRUE(file.ok()) << file.status();
    std::string bytes(range.size(), '\0');
    EXPECT_EQ(PreadFull(file->get(), absl::MakeSpan(bytes.data(), bytes.size()), range.begin),
              absl::StatusOr<size_t>(bytes.size()));
    return bytes;
  }
  void ExpectHere(ByteRange range) {
    EXPECT_TRUE(Bytes(range) == harness_.truth().substr(range.begin, range.size()))
        << range.begin << "-" << range.end;
  }
  uint64_t size() { return harness_.truth().size(); }

  Harness harness_;
};
TYPED_TEST_SUITE_P(LayerFillContractTest);

TYPED_TEST_P(LayerFillContractTest, WhenItIsDoneTheBytesAreThere) {
  EXPECT_EQ(this->Bytes({4096, 8192}), std::string(4096, '\0')) << "nothing is here yet";
  EXPECT_FALSE(this->harness_.fill().complete());
  EXPECT_FALSE(this->harness_.fill().readable());
  for (const ByteRange range :
       {ByteRange{4096, 8192}, ByteRange{0, 1}, ByteRange{this->size() - 1, this->size()},
        ByteRange{5000, this->size() / 2}, ByteRange{4096, 8192}}) {
    typename TestFixture::Read read;
    this->Begin(range, read);
    ASSERT_TRUE(read.Wait().ok()) << read.pin.status();
    EXPECT_TRUE(read.pin->memory.empty()) << "there is room on the disk";
    this->ExpectHere(range);
  }
}

TYPED_TEST_P(LayerFillContractTest, WhatIsBehindTheEndIsThere) {
  const uint64_t size = this->size();
  this->harness_.Hold();
  for (const ByteRange range : {ByteRange{size, size + 4096}, ByteRange{size + 1, size + 2}}) {
    typename TestFixture::Read read;
    this->Begin(range, read);
    EXPECT_TRUE(read.Wait().ok()) << read.pin.status();
  }
  this->harness_.Release();
  // The kernel requests whole pages.
  typename TestFixture::Read last;
  this->Begin({size - 100, size + 4000}, last);
  ASSERT_TRUE(last.Wait().ok()) << last.pin.status();
  this->ExpectHere({size - 100, size});
}

TYPED_TEST_P(LayerFillContractTest, WhoCancelsWaitsNoLongerAndDisturbsNobody) {
  this->harness_.Hold();
  typename TestFixture::Read goes, stays;
  this->Begin({0, 4096}, goes);
  this->Begin({0, 4096}, stays);
  this->harness_.AwaitHeld();
  EXPECT_FALSE(goes.ended.HasBeenNotified());
  goes.cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(goes.Wait().status()));
  EXPECT_FALSE(stays.ended.HasBeenNotified());
  this->harness_.Release();
  ASSERT_TRUE(stays.Wait().ok()) << stays.pin.status();
  this->ExpectHere({0, 4096});
  stays.cancel.Cancel();
}

TYPED_TEST_P(LayerFillContractTest, CancelledBeforeItBegins) {
  this->harness_.Hold();
  typename TestFixture::Read read;
  read.cancel.Cancel();
  this->Begin({0, 4096}, read);
  EXPECT_TRUE(absl::IsCancelled(read.Wait().status()));
  this->harness_.Release();
}

TYPED_TEST_P(LayerFillContractTest, WhatIsCompleteWaitsForNothing) {
  this->harness_.BringAll();
  EXPECT_TRUE(this->harness_.fill().complete());
  EXPECT_TRUE(this->harness_.fill().readable());
  this->harness_.Hold();
  typename TestFixture::Read read;
  this->Begin({0, this->size()}, read);
  ASSERT_TRUE(read.Wait().ok()) << read.pin.status();
  this->ExpectHere({0, this->size()});
  this->harness_.Release();
  EXPECT_TRUE(this->harness_.fill().complete());
}

REGISTER_TYPED_TEST_SUITE_P(LayerFillContractTest, WhenItIsDoneTheBytesAreThere,
                            WhatIsBehindTheEndIsThere, WhoCancelsWaitsNoLongerAndDisturbsNobody,
                            CancelledBeforeItBegins, WhatIsCompleteWaitsForNothing);

}  // namespace imagefs
