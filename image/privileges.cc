// SPDX-License-Identifier: Apache-2.0
#include "image/privileges.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace imagefs {

bool IsArmedXattr(std::string_view name) {
  return name.starts_with("security.") || name.starts_with("trusted.") ||
         name.starts_with("user.overlay.");
}

void RemovePrivileges(Tree& tree) {
  for (InodeId id = 0; id < tree.inode_count(); ++id) {
    const auto xattrs = tree.Xattrs(id);
    const auto armed = [](const Xattr& xattr) { return IsArmedXattr(xattr.name); };
    if (std::any_of(xattrs.begin(), xattrs.end(), armed)) {
      std::vector<Xattr> kept;
      for (const Xattr& xattr : xattrs) {
        if (!armed(xattr)) kept.push_back(xattr);
      }
      tree.SetXattrs(id, std::move(kept));
    }
    Inode& inode = tree.inode(id);
    if (!S_ISCHR(inode.mode) && !S_ISBLK(inode.mode)) continue;
    const bool numbered = inode.rdev_major != 0 || inode.rdev_minor != 0;
    if (S_ISCHR(inode.mode) && !numbered) continue;  // a whiteout
    inode.mode = S_IFREG;
    inode.rdev_major = inode.rdev_minor = 0;
    inode.size = 0;
  }
}

}  // namespace imagefs
