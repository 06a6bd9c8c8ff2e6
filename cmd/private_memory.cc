// SPDX-License-Identifier: Apache-2.0
#include "cmd/private_memory.h"

#include <sys/prctl.h>
#include <sys/resource.h>

namespace imagefs {

void KeepMemoryPrivate() {
  // Neither call can fail: the values are valid, and limits may always be lowered.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  constexpr rlimit kNone{0, 0};
  setrlimit(RLIMIT_CORE, &kNone);
}

}  // namespace imagefs
