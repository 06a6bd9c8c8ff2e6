// SPDX-License-Identifier: Apache-2.0
// A layer index as earlier versions published it, with all in one blob (docs/formats/published.md).
#pragma once

#include <string>

#include "base/little_endian.h"
#include "image/index_bundle.h"
#include "image/zstd_frame.h"

namespace imagefs {

inline std::string PackOldBundle(const IndexBundle& bundle) {
  std::string plain = "imgfsidx";
  PutLittleEndian<uint64_t>(plain, bundle.index.size());
  return CompressZstd(plain + bundle.index + bundle.span_table, 3);
}

}  // namespace imagefs
