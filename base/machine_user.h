// SPDX-License-Identifier: Apache-2.0
// Which user of the machine this process acts for. Root of a user namespace (unshare -r, rootless
// podman) has the number 0 but only the rights of the user who made the namespace, and so gets that
// user's directories and behaviour. Thread-safe.
#pragma once

#include <sys/types.h>

#include <string_view>

namespace imagefs {

struct MachineUser {
  bool root = false;  // of the machine: number 0, in a user namespace that maps every number
  uid_t uid = 0;      // as the enclosing user namespace has it, which is usually the machine's
  // Root of a user namespace that has other users as well, as that of rootless podman.
  bool root_of_users = false;
};

// The same for the user `uid` of a namespace with this map (uid_map, user_namespaces(7)). A map
// that is empty or cannot be understood counts as the machine's own. Pure.
MachineUser MachineUserOf(uid_t uid, std::string_view uid_map);

// For the effective user of this process.
MachineUser ThisUser();
inline bool IsMachineRoot() { return ThisUser().root; }

// Whether this process is in a user namespace other than the machine's.
bool InUserNamespace();

}  // namespace imagefs
