// SPDX-License-Identifier: Apache-2.0
// Recovers the mounts that are recorded but not mounted (fs/mount_table.h): fetches what their
// images lack (snap/image_uses.h) and mounts them again. Retries failures with a back-off of up to
// half a minute for as long as the daemon runs. The mount table holds the last error.
//
// Uses one thread, which runs while a mount is waiting. Thread-safe. Destroy it before what it
// uses.
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
  // Cancels running attempts and joins the thread.
  ~MountRecovery();

  // Tries every waiting mount. Returns at once. REQUIRES: called once, after ImageUses::Serve.
  void Start();
  // Returns true while a mount is being tried.
  bool busy() const;

 private:
  class State;
  const std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace imagefs
