// SPDX-License-Identifier: Apache-2.0
// Keeps descriptors in the test's own process. Thread-safe.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "fs/descriptor_keeper.h"

namespace imagefs {

class FakeKeeper : public DescriptorKeeper {
 public:
  absl::Status Keep(const std::string& name, const Fd& fd) override {
    absl::StatusOr<Fd> copy = fd.Duplicate();
    if (!copy.ok()) return copy.status();
    absl::MutexLock lock(&mu_);
    if (fail_) return absl::ResourceExhaustedError("full");
    kept_[name] = *std::move(copy);
    return absl::OkStatus();
  }
  void Drop(const std::string& name) override {
    absl::MutexLock lock(&mu_);
    kept_.erase(name);
  }
  std::vector<KeptDescriptor> Inherit() override {
    std::vector<KeptDescriptor> out;
    absl::MutexLock lock(&mu_);
    for (const auto& [name, fd] : kept_) {
      absl::StatusOr<Fd> copy = fd.Duplicate();
      if (copy.ok()) out.push_back({name, *std::move(copy)});
    }
    return out;
  }

  void Fail(bool fail) {
    absl::MutexLock lock(&mu_);
    fail_ = fail;
  }
  void Clear() {
    absl::MutexLock lock(&mu_);
    kept_.clear();
  }
  size_t size() const {
    absl::MutexLock lock(&mu_);
    return kept_.size();
  }

 private:
  mutable absl::Mutex mu_;
  bool fail_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, Fd> kept_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
