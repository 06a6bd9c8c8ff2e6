// SPDX-License-Identifier: Apache-2.0
// The byte map of a lazy layer: what of its blob is present, and why, and which files these
// bytes belong to, in a bounded number of runs. For display (docs/status-page.md). Pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_range.h"
#include "cache/fill_report.h"
#include "image/erofs_reader.h"
#include "image/span_table.h"

namespace imagefs {

// A value type.
struct ByteMap {
  struct Run {
    ByteRange blob;
    // How many bytes of its spans are in each state; indexed by ByteState.
    std::array<uint64_t, kByteStates> bytes{};
    uint32_t files = 0;           // that have bytes in it
    std::vector<uint32_t> names;  // the largest of these, as indexes of `names` below
  };
  static constexpr size_t kNamesOfRun = 3;
  std::vector<Run> runs;           // ascending, disjoint; bytes between them belong to no span
  std::vector<std::string> names;  // paths in the layer, without a leading "/"; as in the image
};

// The runs of a layer: its spans, or, where there are more than `most_runs` (> 0), at most that
// many runs of neighbouring spans. `states` has one entry per span of `table`.
ByteMap MakeByteMap(const SpanTableReader& table, const std::vector<ByteState>& states,
                    size_t most_runs);

// Adds the names of the files, from the layer's own index, of about `most_name_bytes` together. A
// hostile or damaged index costs at most the time to read it once, and names are then missing.
void AddNames(const SpanTableReader& table, const ErofsImage& index, size_t most_name_bytes,
              ByteMap& map);

}  // namespace imagefs
