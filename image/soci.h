// The SOCI index of an image: an OCI manifest that lists the zTOCs (image/ztoc.h) of its layers.
// Version 2 of it is named by the image's own manifest, version 1 refers to the image and is found
// through the registry's list of referrers. Pure functions.
#pragma once

#include <map>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/manifest.h"

namespace imagefs {

// The artifact types, best first: for the registry's list of referrers.
inline constexpr std::string_view kSociIndexTypes[] = {
    "application/vnd.amazon.soci.index.v2+json",
    "application/vnd.amazon.soci.index.v1+json",
};

// Layer digest -> descriptor of its zTOC. Layers without one (small ones) are absent.
absl::StatusOr<std::map<Digest, Descriptor>> ParseSociIndex(std::string_view manifest_json);

// The index that an image's manifest names (version 2).
std::optional<Digest> SociIndexOf(const Manifest& image_manifest);

}  // namespace imagefs
