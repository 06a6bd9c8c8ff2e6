// SPDX-License-Identifier: Apache-2.0
// Extended attributes of a mounted tree that do not come directly from its index. Thread-safe.
// Blocks only on /proc.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "cache/chain.h"

namespace imagefs {

// Returns true for attributes hidden from readers of the tree: this project's own, and overlayfs's
// markers, unless the tree is one layer in overlay form, where whoever stacks it needs them.
bool IsHiddenXattr(bool overlay_form, std::string_view name);

// Returns what the root of a tree says about its image: user.imagefs.chain-id, state, bytes-present
// or bytes-total (docs/cli.md), or nullopt for any other name. No listing includes these names, so
// that a copy of the tree does not contain them.
std::optional<std::string> ImageXattr(const Chain& chain, std::string_view name);

// Returns whether that process may list names of the trusted class: it has CAP_SYS_ADMIN in the
// initial user namespace, as every file system requires; FUSE leaves the check to the daemon.
// Returns false if the process cannot be inspected.
bool MayListTrusted(pid_t process_id);

}  // namespace imagefs
