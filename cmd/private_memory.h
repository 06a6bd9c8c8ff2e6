// SPDX-License-Identifier: Apache-2.0
// What is in the memory of this process, credentials among it, is its own: no core file, and no
// other process of the same user may read it or attach to it.
#pragma once

namespace imagefs {

// For main, before anything else. What this process executes later gets the core limit, but not the
// rest, and has to call this itself. Files of /proc/self belong to root afterwards; the process
// itself may read them still.
void KeepMemoryPrivate();

}  // namespace imagefs
