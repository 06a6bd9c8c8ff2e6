// SPDX-License-Identifier: Apache-2.0
// The result of checking the store. Value types.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"

namespace imagefs {

struct CheckedLayer {
  Digest id, diff_id;
  uint64_t bytes = 0;      // size of its data
  std::string_view state;  // "right", "repaired", "lost", "filling", "absent": docs/cli.md
  std::string reason;      // of the damage
  std::string action;      // what was done about it; "" = nothing, it is fetched on demand
};

struct CheckFinding {
  std::string kind;     // "tree", "span table", "image", "record", "file"
  std::string name;     // a digest, a reference, a key of the database, or a path below the store
  std::string problem;  // what is wrong
  std::string action;   // what was done about it; "" = nothing, a repair would
};

struct CheckReport {
  std::vector<CheckedLayer> layers;
  std::vector<CheckFinding> findings;
};

}  // namespace imagefs
