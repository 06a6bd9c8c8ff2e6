// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_record.h"

#include "base/text.h"

namespace imagefs {

std::string PlaceName(uint64_t name_space, const std::string& directory) {
  return name_space == 0 ? directory : StrCat("@", name_space, ":", directory);
}

}  // namespace imagefs
