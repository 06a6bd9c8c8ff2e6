// What podman and CRI-O (containers/storage with its overlay driver) read of a read-only image
// store, "additional image store": the records of images and layers, and the documents of an image.
// Pure functions.
//
// An image has one layer record here, the merged tree of all its layers. Its digest is made up, so
// that no pull takes the tree for a layer of another image.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

// The name under which podman knows an image of a registry: with a tag, or with a digest and no
// tag. kInvalidArgument for the other transports, which have no such names.
absl::StatusOr<std::string> PodmanName(const Reference& reference);

// One image. Manifests that share a configuration (one layer compressed in two ways) are one image
// of podman.
struct PodmanImage {
  std::vector<std::string> names;  // no two images have the same
  // At least one; the first is the one that podman shows. All have the same configuration.
  std::vector<std::shared_ptr<const ResolvedImage>> manifests;
  int64_t added_unix = 0;
  uint64_t bytes = 0;  // of the tree

  const ResolvedImage& first() const { return *manifests.front(); }
};

// Ids are 64 hex digits. That of an image is its configuration's digest, as everywhere.
std::string PodmanImageId(const ResolvedImage& image);
std::string PodmanLayerId(const Digest& chain_id);
// The name of a layer's short link, for mount options.
std::string PodmanLayerLink(const Digest& chain_id);

// The documents of an image by their keys, and the name of a key's file.
std::vector<std::pair<std::string, std::string>> PodmanDocuments(const PodmanImage& image);
std::string PodmanFileName(std::string_view key);

// The records of all images (overlay-images/images.json) and of the layers that they have
// (overlay-layers/layers.json).
std::string PodmanImagesJson(absl::Span<const PodmanImage> images);
std::string PodmanLayersJson(absl::Span<const PodmanImage> images);

}  // namespace imagefs
