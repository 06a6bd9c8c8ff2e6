// Extended attributes of a mounted tree that do not simply come from its index. Thread-safe; blocks
// on nothing but /proc.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "cache/chain.h"

namespace imagefs {

// True for attributes that no reader of the tree sees: this project's own, and overlayfs's markers
// unless the tree is one layer in overlay form, whose markers whoever stacks it needs.
bool IsHiddenXattr(bool overlay_form, std::string_view name);

// What the root of a tree says about its image: user.imagefs.chain-id, state, bytes-present and
// bytes-total (docs/cli.md). No listing names these, so that a copy of the tree is just a copy.
// nullopt: no such name.
std::optional<std::string> ImageXattr(const Chain& chain, std::string_view name);

// Whether that process may list names of the trusted class: it has CAP_SYS_ADMIN in the first user
// namespace, as every file system demands; for FUSE the kernel leaves that to the daemon. False for
// a process that cannot be looked at.
bool MayListTrusted(pid_t process_id);

}  // namespace imagefs
