// SPDX-License-Identifier: Apache-2.0
// The value of an image's record in the store's database, `image/...` and `held/...`
// (docs/formats/store.md). A value type.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// Key prefix of the exact bytes of configurations; the rest of the key is the digest in hex.
inline constexpr std::string_view kConfigKeyPrefix = "config/";

// Key prefix of layers that no image had when they were made; the rest of the key is the layer's
// name in hex, the value the time (Unix seconds).
inline constexpr std::string_view kUnclaimedKeyPrefix = "unclaimed/";

struct ImageRow {
  std::string reference;  // of a held image only; otherwise the key contains it
  Digest manifest, config;
  Digest index;  // empty: there was none
  // Of the index; "" and 0 in records of earlier versions.
  std::string index_type;
  uint64_t index_bytes = 0;
  std::string content_type;
  int64_t created = 0;  // Unix seconds
  // The names under which the image has its layers (cache/identity.h); an empty digest where
  // unknown.
  std::vector<Digest> layers;
  bool has_layers = false;  // false: written by format 1

  static absl::StatusOr<ImageRow> Parse(std::string_view json);
  std::string ToJson() const;
};

}  // namespace imagefs
