// SPDX-License-Identifier: Apache-2.0
// Mutual exclusion by name, for blocking operations that exclude each other only if they concern
// the same object. Thread-safe.
#pragma once

#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "base/thread_role.h"

namespace imagefs {

class KeyGate {
 public:
  // Holds the key until destruction.
  class [[nodiscard]] Hold {
   public:
    Hold(KeyGate& gate, std::string key) : gate_(gate), key_(std::move(key)) {
      MayBlock("waiting for a key");
      absl::MutexLock lock(&gate_.mu_);
      while (!gate_.held_.insert(key_).second) gate_.released_.Wait(&gate_.mu_);
    }
    ~Hold() {
      absl::MutexLock lock(&gate_.mu_);
      gate_.held_.erase(key_);
      gate_.released_.SignalAll();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    KeyGate& gate_;
    const std::string key_;
  };

 private:
  absl::Mutex mu_;
  absl::CondVar released_;
  absl::flat_hash_set<std::string> held_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
