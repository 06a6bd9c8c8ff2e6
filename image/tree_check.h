// SPDX-License-Identifier: Apache-2.0
// Checks whether the description of a layer, from a table of contents or a published index, matches
// its tar. No side effects; reads the two data files.
#pragma once

#include "absl/status/status.h"
#include "image/tree.h"

namespace imagefs {

// A layer's tree in overlay form, without privileges (image/privileges.h), and its data file, open
// for reading.
struct DescribedLayer {
  const Tree& tree;
  int data_fd = -1;
};

// Returns kDataLoss, with the path and both values, if a name, type, mode, owner, time, size, link,
// attribute or byte in `described` differs from `own`, which was built from the tar. Allowed
// differences:
//   the root's attributes, which no entry of a tar sets
//   nanoseconds, if the description has none (eStargz stores seconds)
//   extended attributes missing from the description
absl::Status CheckDescription(const DescribedLayer& described, const DescribedLayer& own);

}  // namespace imagefs
