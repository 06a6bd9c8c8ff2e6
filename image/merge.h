// The tree that a container sees: layers stacked as the runtimes' overlayfs does it.
//   whiteout      removes what lower layers have under that name
//   opaque        removes all that lower layers have in that directory
//   dir over dir  merges; the upper one's attributes win, unless it is only implied, which keeps
//   the
//                 lower one's; anything else over anything replaces the whole tree
//   entry paths are never resolved through lower symbolic links (lib/x over lib -> usr/lib gives a
//   real directory lib)
//   hard links    stay shared inside their layer; link counts are those of visible names
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "image/erofs_reader.h"
#include "image/tree.h"

namespace imagefs {

// `layers`: overlay-form indexes, bottom first; layer i (0-based) gets device i+1. The root's
// attributes are those of the topmost layer that has explicit ones, else 0755 root:root.
absl::StatusOr<Tree> MergeLayers(const std::vector<const ErofsImage*>& layers);

}  // namespace imagefs
