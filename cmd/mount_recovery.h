// SPDX-License-Identifier: Apache-2.0
// Brings back the mounts that are recorded and are not there (fs/mount_table.h): has what their
// images lack fetched (snap/image_uses.h), and mounts them again. What fails is tried again after a
// pause that grows to half a minute, for as long as the daemon runs; why it failed last is in the
// mount table.
//
// One thread, which is there while something waits. Thread-safe. Destroy it before what it uses.
#pragma once

#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "cache/index_trust.h"
#include "fs/mount_table.h"
#include "snap/image_uses.h"

namespace imagefs {

class MountRecovery {
 public:
  struct Deps {
    MountTable& mounts;
    ImageUses& uses;
    TrustOf trust_of;
    absl::Duration first_pause = absl::Seconds(1);
    absl::Duration longest_pause = absl::Seconds(30);
  };
  explicit MountRecovery(Deps deps);
  // Gives up what is under way.
  ~MountRecovery();

  // Tries each that waits. Once, after ImageUses::Serve; returns at once.
  void Start();
  // True while one is being tried.
  bool busy() const;

 private:
  class State;
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace imagefs
