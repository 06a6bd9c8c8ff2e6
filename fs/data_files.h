// The layers whose data one FUSE mount serves as files, by name and by node number. Thread-safe.
//
// Both come from the layer alone: its id, its size and its index, which says where each file lies
// in the data. So a daemon that takes over the session of another one knows what the kernel asks
// for by number, and two layouts of one layer are two files.
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

// The node number of a layer's data: neither 0 nor that of the directory.
uint64_t DataNodeOf(const Layer& layer);
// Its name in the directory of the mount.
std::string DataNameOf(const Layer& layer);

class DataFiles {
 public:
  struct File {
    uint64_t node = 0;
    LayerRef layer;  // null: there is no such file
  };
  // Writes down what the kernel may know, for a daemon that comes after this one.
  class Journal {
   public:
    virtual ~Journal() = default;
    // Before the kernel can know the node.
    virtual void Added(uint64_t node, const Layer& layer, const Digest& chain_id) = 0;
    virtual void Gone(uint64_t node) = 0;
  };
  // `journal` may be null.
  explicit DataFiles(std::shared_ptr<Journal> journal = nullptr) : journal_(std::move(journal)) {}

  // Each Add needs its Remove. `chain_id`: of a chain that has the layer. With the last one the
  // name is gone; the node stays while the kernel knows it, since a file that is open there is read
  // on. kAlreadyExists where another layer has the number.
  absl::Status Add(const LayerRef& layer, const Digest& chain_id);
  void Remove(const LayerRef& layer);
  // A file that the kernel knows from the daemon before this one, without a name until Add.
  void Restore(const LayerRef& layer);
  // No file has a name.
  bool unused() const;

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
  void EraseIfUnused(uint64_t node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<Journal> journal_;
  mutable absl::Mutex mu_;
  std::map<uint64_t, Entry> files_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, uint64_t, std::less<>> names_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
