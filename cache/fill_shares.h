// How many requests for parts of layers each source may have in flight (cache/fill_scheduler.h).
// A source always has a few, whatever others have; more only while the whole is below the slots of
// the request's priority, and then no more than an equal share of those that want some.
//
// Pure policy; not thread-safe.
#pragma once

#include <array>
#include <map>
#include <string>

#include "base/executor.h"
#include "fetch/source.h"

namespace imagefs {

// A source of images as the shares know it: a registry reached with one authorisation.
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
  // `wanting`: how many sources, this one among them, want a request of that priority or a more
  // urgent one now.
  bool MayTake(const std::string& source, Priority priority, int wanting) const;

  int total() const { return total_; }
  int Of(const std::string& source) const;
  // The most that a source has beyond the slots.
  static constexpr int kMostBeyond = 8;

 private:
  using Taken = std::array<int, 4>;
  // Of that priority and more urgent ones: a reader does not wait for what is less urgent.
  static int UpTo(const Taken& taken, Priority priority);

  const Slots slots_;
  int total_ = 0;
  std::map<std::string, Taken> taken_;
};

}  // namespace imagefs
