// SPDX-License-Identifier: Apache-2.0
// Strips from a tree whatever would give its author privileges, and whatever only a tree from a
// fully verified layer may carry. Applied to every tree built from an index or a table of contents
// before its layer has been verified.
#pragma once

#include <string_view>

#include "image/tree.h"

namespace imagefs {

// True for the extended attributes that RemovePrivileges removes: security.* (capabilities, labels,
// IMA), trusted.* and user.overlay.* (which overlayfs honors).
bool IsArmedXattr(std::string_view name);

// Removes those attributes. Turns a device node into an empty regular file with the same owner and
// time and no permissions, as umoci does when it unpacks without root. Keeps whiteouts (character
// device 0:0), and opaque and implied, which are fields of the inode.
void RemovePrivileges(Tree& tree);

}  // namespace imagefs
