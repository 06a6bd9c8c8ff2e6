// SPDX-License-Identifier: Apache-2.0
// Guards the bytes of a layer that is fully present. While it is unknown whether they are still
// right (they are of another boot, or somebody wrote to the file), each span is verified by its
// digest before the daemon serves it. Wrong bytes are fetched from the registry again. The kernel
// reads a layer's file directly and is not covered.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "cache/chain.h"
#include "image/span_table.h"

namespace imagefs {

class LayerGuard final : public LayerFill, public std::enable_shared_from_this<LayerGuard> {
 public:
  // Reads the whole layer and calls Trust, FillFrom or Fail with the result. Called on a worker if
  // a span is wrong or cannot be verified by its digest.
  using CheckWhole = std::function<void()>;
  // `work` must outlive everything but the last pin.
  LayerGuard(std::string directory, Executor& work, CheckWhole check_whole)
      : directory_(std::move(directory)), work_(work), check_whole_(std::move(check_whole)) {}

  void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) override;
  // False from the detection of damage until it is repaired.
  bool complete() const override;
  bool readable() const override { return trusted_.load(std::memory_order_acquire); }
  void AllowWaiting(absl::Duration at_most) override;

  // From now on nothing is trusted before it is verified.
  void Recheck();
  // The whole layer was found right by a read that began after recheck number `rechecks`.
  void Trust(uint64_t rechecks);
  uint64_t rechecks() const { return rechecks_.load(std::memory_order_acquire); }
  // The layer is damaged. Wrong bytes come through `layer`, which has the same file.
  void FillFrom(LayerRef layer);
  // The layer is damaged, and reads fail.
  void Fail(const absl::Status& why);
  // The file that failed is right again; writes to it are not watched any more.
  void Heal();
  LayerRef filling() const;

 private:
  void Check(ByteRange range, ReaderId reader, const CancelToken& cancel, Done done);
  bool SpansHold(ByteRange range);

  const std::string directory_;
  Executor& work_;
  const CheckWhole check_whole_;
  std::atomic<bool> trusted_{true};
  std::atomic<uint64_t> rechecks_{0};
  mutable absl::Mutex mu_;
  absl::Duration deadline_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();
  std::shared_ptr<const SpanTableReader> table_ ABSL_GUARDED_BY(mu_);  // opened on first use
  std::vector<bool> right_ ABSL_GUARDED_BY(mu_);                       // by span
  LayerRef filling_ ABSL_GUARDED_BY(mu_);
  absl::Status failed_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
