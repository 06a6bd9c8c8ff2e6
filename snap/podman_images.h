// What podman and CRI-O (containers/storage with its overlay driver) read of a read-only image
// store, "additional image store": the records of images and layers, and the documents of an image.
// Pure functions.
//
// The top layer of an image is the merged tree of all its layers; those below are empty and say
// only that there are as many, which podman compares with the configuration when an image is built
// on top. Their digests are made up, so that no pull takes one for a layer of another image; who
// reads them to push or save an image finds bytes of another digest and fails.
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
  std::vector<uint64_t> layer_bytes;  // what podman says of their sizes, bottom first

  const ResolvedImage& first() const { return *manifests.front(); }
};

// 64 hex digits: the configuration's digest, as everywhere.
std::string PodmanImageId(const ResolvedImage& image);

// The layers of an image, bottom first: those of images with the same ChainID are the same.
struct PodmanLayer {
  std::string id;      // 64 hex digits, derived from the digests as podman does it
  std::string parent;  // "" = none
  std::string link;    // its short name, for mount options
  Digest digest;
};
std::vector<PodmanLayer> PodmanLayers(const ResolvedImage& image);

// The documents of an image by their keys, and the name of a key's file.
std::vector<std::pair<std::string, std::string>> PodmanDocuments(const PodmanImage& image);
std::string PodmanFileName(std::string_view key);

// The records of all images (overlay-images/images.json) and of the layers that they have
// (overlay-layers/layers.json).
std::string PodmanImagesJson(absl::Span<const PodmanImage> images);
std::string PodmanLayersJson(absl::Span<const PodmanImage> images);

}  // namespace imagefs
