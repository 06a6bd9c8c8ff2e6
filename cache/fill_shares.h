// SPDX-License-Identifier: Apache-2.0
// How many requests for parts of layers each source may have in flight (cache/fill_scheduler.h). A
// source always has a few, whatever others have. It gets more only while the total is below the
// slots of the request's priority, and then at most an equal share among the sources that want
// some.
//
// Pure policy; not thread-safe.
#pragma once

#include <array>
#include <map>
#include <string>

#include "base/executor.h"
#include "fetch/source.h"

namespace imagefs {

// Identifies an image source for sharing: a registry accessed with one authorization.
inline std::string SourceKey(const ImageSource& source) {
  return source.registry() + ' ' + source.auth_scope();
}

class FillShares {
 public:
  using Slots = std::array<int, 4>;  // by priority
  explicit FillShares(const Slots& slots) : slots_(slots) {}

  void Take(const std::string& source, Priority priority);
  // REQUIRES: taken.
  void Release(const std::string& source, Priority priority);
  // `wanting`: the number of sources, including this one, that now want a request of that priority
  // or a more urgent one.
  bool MayTake(const std::string& source, Priority priority, int wanting) const;

  int total() const { return total_; }
  int Of(const std::string& source) const;
  // The maximum that a source may have beyond the slots.
  static constexpr int kMostBeyond = 8;

 private:
  using Taken = std::array<int, 4>;
  // Sum over that priority and the more urgent ones: a reader does not wait for less urgent
  // requests.
  static int UpTo(const Taken& taken, Priority priority);

  const Slots slots_;
  int total_ = 0;
  std::map<std::string, Taken> taken_;
};

}  // namespace imagefs
