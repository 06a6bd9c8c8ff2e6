// The layers whose data one FUSE mount serves as files, by name (Layer::id's hex digits) and by
// node number. A number is never used again. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "cache/chain.h"

namespace imagefs {

class DataFiles {
 public:
  struct File {
    uint64_t node = 0;
    LayerRef layer;  // null: there is no such file
  };

  // Each Add needs its Remove. With the last one the name is gone; the node stays while the kernel
  // knows it, since a file that is open there is read on.
  void Add(const LayerRef& layer);
  // True when no name is left.
  bool Remove(const Digest& layer);

  // The kernel knows the node from here until Forget.
  File Lookup(std::string_view name);
  void Forget(uint64_t node);
  File Find(uint64_t node) const;
  // The files behind node number `after` (0 = from the first), in the order of their numbers.
  std::vector<File> List(uint64_t after) const;

 private:
  struct Entry {
    LayerRef layer;
    uint64_t users = 0;
    bool known = false;  // to the kernel
  };
  mutable absl::Mutex mu_;
  uint64_t next_node_ ABSL_GUARDED_BY(mu_) = 2;  // 1 is the directory
  std::map<uint64_t, Entry> files_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, uint64_t, std::less<>> names_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
