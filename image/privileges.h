// Takes out of a tree what gives power to its author, and what only a tree whose layer was
// checked as a whole may carry. Applied to every tree that an index or a table of contents
// describes before its layer is proven.
#pragma once

#include <string_view>

#include "image/tree.h"

namespace imagefs {

// True for the extended attributes that RemovePrivileges removes: security.* (capabilities, labels,
// IMA), trusted.* and user.overlay.* (what overlayfs obeys).
bool IsArmedXattr(std::string_view name);

// Removes those attributes. A device node becomes an empty regular file with its owner, time and
// no permissions, as umoci unpacks one without root; a whiteout (character device 0:0) stays.
// Opaque and implied are fields of the inode and stay.
void RemovePrivileges(Tree& tree);

}  // namespace imagefs
