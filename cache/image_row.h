// The value of an image's record in the store's database, `image/...` and `held/...`
// (docs/formats/store.md). A value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// Of the exact bytes of configurations in the database; the rest of the key is the digest's hex.
inline constexpr std::string_view kConfigKeyPrefix = "config/";

struct ImageRow {
  std::string reference;  // of a held image only; elsewhere the key has it
  Digest manifest, config;
  Digest index;  // empty: there was none
  std::string content_type;
  int64_t created = 0;  // Unix seconds
  // The names under which the image has its layers (cache/identity.h); an empty digest where that
  // is not known.
  std::vector<Digest> layers;
  bool has_layers = false;  // false: written by format 1

  static absl::StatusOr<ImageRow> Parse(std::string_view json);
  std::string ToJson() const;
};

}  // namespace imagefs
