// SPDX-License-Identifier: Apache-2.0
// What the status page shows of an image (docs/status-page.md): for each layer that is or was lazy
// in this process its byte map and what was requested, and the steps of the last cold start. A
// value type.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/timeline.h"
#include "cache/byte_map.h"
#include "cache/chain.h"
#include "cache/fill_report.h"

namespace imagefs {

struct ImagePicture {
  struct Layer {
    ByteMap map;
    uint64_t blob_bytes = 0;  // of the whole blob: what the map's offsets are of
    Timeline::Reading events;
  };
  std::vector<std::optional<Layer>> layers;  // bottom first; nullopt: its bytes are all local
  Timeline::Reading start;

  // Limits over all layers of an image, so that the page stays small.
  static constexpr size_t kMostRunsOfLayer = 2000, kMostRuns = 8000;
  static constexpr size_t kMostNameBytes = 1 << 20;
};

// The layers of a picture. Reads the indexes of lazy layers once.
std::vector<std::optional<ImagePicture::Layer>> PictureLayers(const Chain& chain);
// Of each layer; nullopt: its bytes are all local.
std::vector<std::optional<FillReport>> ReportLayers(const Chain& chain);

}  // namespace imagefs
