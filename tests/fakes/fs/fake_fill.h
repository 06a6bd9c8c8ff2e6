// SPDX-License-Identifier: Apache-2.0
// The fill of a layer that is not local yet: its data file is all zeros, and the real bytes are
// written when they are requested, immediately or when a test says so. Thread-safe.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/fd.h"
#include "cache/chain.h"

namespace imagefs {

class FakeFill : public LayerFill {
 public:
  // Replaces the bytes in the data file of `layer` with zeros, and sets the layer's `fill` to the
  // result.
  static std::shared_ptr<FakeFill> Empty(const LayerRef& layer);

  // Holds all requests, and stays incomplete, until Release.
  void Hold();
  void Release();
  // Makes every Ensure of missing bytes fail with `status`, until it is OK again.
  void Fail(absl::Status status);
  // Fails the held requests.
  void FailHeld(const absl::Status& status);
  // Makes all bytes local.
  void Complete();
  // Waits until that many calls of Ensure are held.
  void AwaitHeld(size_t calls);

  RangeSet asked() const;
  size_t calls() const;

  void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) override;
  bool complete() const override;

 private:
  explicit FakeFill(Fd file) : file_(std::move(file)) {}
  void Deliver(ByteRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  struct Held {
    uint64_t id = 0;
    ByteRange range;
    Done done;
    CancelToken::Registration on_cancel;
  };
  void Cancelled(uint64_t id);
  const Fd file_;
  mutable absl::Mutex mu_;
  std::string bytes_ ABSL_GUARDED_BY(mu_);
  bool hold_ ABSL_GUARDED_BY(mu_) = false;
  bool complete_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  RangeSet asked_ ABSL_GUARDED_BY(mu_);
  size_t calls_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_held_ ABSL_GUARDED_BY(mu_) = 1;
  std::vector<Held> held_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
