// Whether the description of a layer, from a table of contents or a published index, says what its
// tar says. Pure but for the two data files, which are read.
#pragma once

#include "absl/status/status.h"
#include "image/tree.h"

namespace imagefs {

// A layer's tree in overlay form, disarmed (image/privileges.h), and its data file, open for
// reading.
struct DescribedLayer {
  const Tree& tree;
  int data_fd = -1;
};

// kDataLoss, with the path and both values, when `described` has another name, type, mode, owner,
// time, size, link, attribute or byte than `own`, which was made of the tar. What may differ:
//   the root's attributes, which no entry of a tar sets
//   nanoseconds, where the description has none (eStargz keeps seconds)
//   extended attributes that the description lacks
absl::Status CheckDescription(const DescribedLayer& described, const DescribedLayer& own);

}  // namespace imagefs
