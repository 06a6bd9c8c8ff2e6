// SPDX-License-Identifier: Apache-2.0
// Keeps the memory of this process, including credentials, private: no core file, and no other
// process of the same user may read it or attach to it.
#pragma once

namespace imagefs {

// Call first in main. Programs that this process executes inherit only the core limit and must call
// this themselves. Afterwards the files of /proc/self belong to root; the process itself can still
// read them.
void KeepMemoryPrivate();

}  // namespace imagefs
