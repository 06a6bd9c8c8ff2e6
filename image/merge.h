// SPDX-License-Identifier: Apache-2.0
// Merges layers into the tree that a container sees, following the runtimes' overlayfs semantics.
//   whiteout      removes the entry with that name in lower layers
//   opaque        removes all entries of lower layers in that directory
//   dir over dir  merges; the upper attributes win, unless the upper directory is only implied
//   otherwise     an entry replaces the whole lower tree of that name
//   Paths are never resolved through symbolic links of lower layers (lib/x over lib -> usr/lib
//   yields a real directory lib).
//   Hard links stay shared within their layer; link counts are those of the visible names.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "image/erofs_reader.h"
#include "image/tree.h"

namespace imagefs {

// `layers`: overlay-form indexes, bottom first; layer i (0-based) gets device i+1. The root's
// attributes come from the topmost layer with explicit ones, else 0755 root:root.
absl::StatusOr<Tree> MergeLayers(const std::vector<const ErofsImage*>& layers);

}  // namespace imagefs
