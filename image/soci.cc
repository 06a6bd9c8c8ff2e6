// SPDX-License-Identifier: Apache-2.0
#include "image/soci.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kIndexDigest = "com.amazon.soci.index-digest";
constexpr std::string_view kLayerDigest = "com.amazon.soci.image-layer-digest";
constexpr std::string_view kZtocType = "application/octet-stream";

bool IsSociType(std::string_view type) {
  return std::find(std::begin(kSociIndexTypes), std::end(kSociIndexTypes), type) !=
         std::end(kSociIndexTypes);
}

}  // namespace

absl::StatusOr<std::map<Digest, Descriptor>> ParseSociIndex(std::string_view manifest_json) {
  if (manifest_json.size() > kMaxManifestBytes) {
    return absl::InvalidArgumentError("the SOCI index is larger than a manifest may be");
  }
  IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed, ParseManifest(manifest_json, ""));
  if (!parsed.manifest.has_value()) {
    return absl::InvalidArgumentError("the SOCI index is not a manifest");
  }
  // For registries that do not support artifactType, the configuration's type is the artifact type.
  if (!IsSociType(parsed.manifest->config.media_type)) {
    IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(manifest_json));
    if (const std::string type = json.StringOr("artifactType"); !IsSociType(type)) {
      return absl::InvalidArgumentError(
          StrCat("a manifest of type \"",
                 Printable(type.empty() ? parsed.manifest->config.media_type : type),
                 "\" is not a SOCI index"));
    }
  }
  std::map<Digest, Descriptor> out;
  for (Descriptor& ztoc : parsed.manifest->layers) {
    if (ztoc.media_type != kZtocType) continue;  // e.g. a list of files to prefetch
    const auto layer = ztoc.annotations.find(std::string(kLayerDigest));
    if (layer == ztoc.annotations.end()) continue;
    IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, Digest::Parse(layer->second));
    const auto [it, is_new] = out.try_emplace(digest, ztoc);
    if (!is_new && it->second.digest != ztoc.digest) {
      return absl::InvalidArgumentError(
          StrCat("the SOCI index has two zTOCs for layer ", digest.ToString()));
    }
  }
  return out;
}

std::optional<Digest> SociIndexOf(const Manifest& image_manifest) {
  const auto it = image_manifest.annotations.find(std::string(kIndexDigest));
  if (it == image_manifest.annotations.end()) return std::nullopt;
  const absl::StatusOr<Digest> digest = Digest::Parse(it->second);
  if (!digest.ok()) return std::nullopt;
  return *digest;
}

}  // namespace imagefs
