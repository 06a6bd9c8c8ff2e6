// SPDX-License-Identifier: Apache-2.0
// One value in memory that may outlive this process: an anonymous file (memfd_create(2)) whose
// descriptor somebody else keeps open (fs/descriptor_keeper.h). It is on no disk, except for swap.
//
// A value is replaced as a whole: a reader finds, after a crash in the middle of Write, the old one
// or the new one. What is replaced is wiped. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/secret.h"

namespace imagefs {

class KeptMemory {
 public:
  // Room for values of up to `most_bytes`. Memory is used only for what is written.
  static absl::StatusOr<std::unique_ptr<KeptMemory>> Create(const char* name, size_t most_bytes);
  // One that an earlier process has created with the same size. Returns kInvalidArgument for any
  // other descriptor.
  static absl::StatusOr<std::unique_ptr<KeptMemory>> Adopt(Fd fd, size_t most_bytes);
  ~KeptMemory();

  const Fd& fd() const { return fd_; }
  size_t most_bytes() const { return most_bytes_; }
  // Returns the value written last; empty if there is none that is whole.
  Secret Read() const;
  // REQUIRES: at most most_bytes().
  void Write(std::string_view value);

 private:
  struct Slot;
  KeptMemory(Fd fd, size_t most_bytes, char* map);
  Slot* SlotAt(int i) const;
  bool IsWhole(const Slot& slot) const;

  const Fd fd_;
  const size_t most_bytes_;
  char* const map_;
};

}  // namespace imagefs
