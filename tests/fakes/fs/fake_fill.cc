// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fs/fake_fill.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "gtest/gtest.h"

namespace imagefs {

std::shared_ptr<FakeFill> FakeFill::Empty(const LayerRef& layer) {
  const std::string path = layer->directory + "/data";
  auto file = OpenFile(path, O_WRONLY);
  EXPECT_TRUE(file.ok()) << file.status();
  std::shared_ptr<FakeFill> fill(new FakeFill(file.ok() ? *std::move(file) : Fd()));
  {
    absl::MutexLock lock(&fill->mu_);
    auto bytes = ReadFile(path, uint64_t{1} << 30);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (bytes.ok()) fill->bytes_ = *std::move(bytes);
  }
  EXPECT_EQ(truncate(path.c_str(), 0), 0);
  EXPECT_EQ(truncate(path.c_str(), static_cast<off_t>(layer->data_bytes)), 0);
  // The test made the layer, and nothing else uses it yet.
  const_cast<Layer&>(*layer).fill = fill;
  return fill;
}

void FakeFill::Hold() {
  absl::MutexLock lock(&mu_);
  hold_ = true;
}

void FakeFill::Release() {
  std::vector<Held> held;
  {
    absl::MutexLock lock(&mu_);
    hold_ = false;
    held.swap(held_);
    for (const Held& one : held) Deliver(one.range);
  }
  for (Held& one : held) one.done(ReadPin());
}

void FakeFill::Fail(absl::Status status) {
  absl::MutexLock lock(&mu_);
  failure_ = std::move(status);
}

void FakeFill::FailHeld(const absl::Status& status) {
  std::vector<Held> held;
  {
    absl::MutexLock lock(&mu_);
    held.swap(held_);
  }
  for (Held& one : held) one.done(status);
}

void FakeFill::Complete() {
  absl::MutexLock lock(&mu_);
  Deliver({0, bytes_.size()});
  complete_ = true;
}

void FakeFill::AwaitHeld(size_t calls) {
  absl::MutexLock lock(&mu_);
  auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return held_.size() >= calls; };
  mu_.Await(absl::Condition(&enough));
}

RangeSet FakeFill::asked() const {
  absl::MutexLock lock(&mu_);
  return asked_;
}

size_t FakeFill::calls() const {
  absl::MutexLock lock(&mu_);
  return calls_;
}

void FakeFill::Deliver(ByteRange range) {
  const uint64_t begin = std::min<uint64_t>(range.begin, bytes_.size());
  const std::string_view part =
      std::string_view(bytes_).substr(begin, std::max(range.end, begin) - begin);
  EXPECT_TRUE(PwriteFull(file_.get(), part, begin).ok());
}

void FakeFill::Cancelled(uint64_t id) {
  Held held;
  {
    absl::MutexLock lock(&mu_);
    const auto found =
        std::find_if(held_.begin(), held_.end(), [&](const Held& one) { return one.id == id; });
    if (found == held_.end()) return;
    held = std::move(*found);
    held_.erase(found);
  }
  held.done(absl::CancelledError("the reader went away"));
}

void FakeFill::Ensure(ByteRange range, ReaderId, CancelToken cancel, Done done) {
  absl::Status status;
  uint64_t held = 0;
  {
    absl::MutexLock lock(&mu_);
    ++calls_;
    asked_.Add(range);
    // Requests for local bytes never wait.
    const bool here = complete_ || range.begin >= std::min<uint64_t>(range.end, bytes_.size());
    if (!here) status = failure_;
    if (status.ok() && hold_ && !here) {
      held = next_held_++;
      held_.push_back({held, range, std::move(done), {}});
    } else if (status.ok()) {
      Deliver(range);
    }
  }
  if (held == 0) return status.ok() ? done(ReadPin()) : done(status);
  CancelToken::Registration on_cancel = cancel.OnCancel([this, held] { Cancelled(held); });
  absl::MutexLock lock(&mu_);
  for (Held& one : held_) {
    if (one.id == held) one.on_cancel = std::move(on_cancel);
  }
}

bool FakeFill::complete() const {
  absl::MutexLock lock(&mu_);
  return complete_;
}

}  // namespace imagefs
