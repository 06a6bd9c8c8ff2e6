// SPDX-License-Identifier: Apache-2.0
// The layers whose data one FUSE mount serves as files, by name and by node number. Thread-safe.
//
// Name and number are derived from the layer alone: from its id, its size and its index, which says
// where each file lies in the data. A daemon that takes over a session can therefore interpret the
// numbers that the kernel uses, and two layouts of one layer are two files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "cache/chain.h"

namespace imagefs {

// Returns the node number of a layer's data, which is neither 0 nor the directory's.
uint64_t DataNodeOf(const Layer& layer);
// Returns its name in the mount's directory.
std::string DataNameOf(const Layer& layer);

class DataFiles {
 public:
  struct File {
    uint64_t node = 0;
    LayerRef layer;  // null: no such file
  };
  // Records what the kernel may know, for the next daemon.
  class Journal {
   public:
    virtual ~Journal() = default;
    // Called before the kernel can know the node.
    virtual void Added(uint64_t node, const Layer& layer, const Digest& chain_id) = 0;
    virtual void Gone(uint64_t node) = 0;
  };
  // `journal` may be null.
  explicit DataFiles(std::shared_ptr<Journal> journal = nullptr) : journal_(std::move(journal)) {}

  // Each Add must be matched by a Remove. `chain_id` is that of a chain containing the layer. The
  // last Remove drops the name; the node stays while the kernel knows it, because the file may
  // still be open. Returns kAlreadyExists if another layer has the number.
  absl::Status Add(const LayerRef& layer, const Digest& chain_id);
  void Remove(const LayerRef& layer);
  // Restores a file that the kernel knows from the previous daemon. It has no name until Add.
  void Restore(const LayerRef& layer);
  // Returns true if no file has a name.
  bool unused() const;

  // The kernel knows the node from Lookup until Forget.
  File Lookup(std::string_view name);
  void Forget(uint64_t node);
  File Find(uint64_t node) const;
  // Returns the files after node number `after` (0 = all), ordered by number.
  std::vector<File> List(uint64_t after) const;

 private:
  struct Entry {
    LayerRef layer;
    uint64_t users = 0;
    bool known = false;  // to the kernel
  };
  void EraseIfUnused(uint64_t node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<Journal> journal_;
  mutable absl::Mutex mu_;
  std::map<uint64_t, Entry> files_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, uint64_t, std::less<>> names_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
