// A layer that is not here yet: its data file is all zeros, and the true bytes are written when
// they are asked for, at once or when a test says so. Thread-safe.
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
  // Takes the bytes out of the data file of `layer` and leaves zeros. The layer's `fill` is set to
  // what is returned.
  static std::shared_ptr<FakeFill> Empty(const LayerRef& layer);

  // Keeps what is asked for from now on, and is not complete, until Release.
  void Hold();
  void Release();
  // Every Ensure of what is not complete fails with it, until it is OK again.
  void Fail(absl::Status status);
  // Those that are held fail with it.
  void FailHeld(const absl::Status& status);
  // All bytes are here.
  void Complete();
  // Waits until that many calls of Ensure are held.
  void AwaitHeld(size_t calls);

  RangeSet asked() const;
  size_t calls() const;

  void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) override;
  bool complete() const override;

 private:
  explicit FakeFill(Fd file) : file_(std::move(file)) {}
  void Bring(ByteRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

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
