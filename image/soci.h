// SPDX-License-Identifier: Apache-2.0
// The SOCI index of an image: an OCI manifest that lists the zTOCs (image/ztoc.h) of its layers.
// The image's own manifest names a version 2 index; a version 1 index refers to the image and is
// found through the registry's referrers list. Pure functions.
#pragma once

#include <map>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/manifest.h"

namespace imagefs {

// The artifact types, in order of preference, for the registry's referrers list.
inline constexpr std::string_view kSociIndexTypes[] = {
    "application/vnd.amazon.soci.index.v2+json",
    "application/vnd.amazon.soci.index.v1+json",
};

// Maps layer digests to the descriptors of their zTOCs. Layers without one (small ones) are absent.
absl::StatusOr<std::map<Digest, Descriptor>> ParseSociIndex(std::string_view manifest_json);

// Returns the index that an image's manifest names (version 2).
std::optional<Digest> SociIndexOf(const Manifest& image_manifest);

}  // namespace imagefs
