// SPDX-License-Identifier: Apache-2.0
// What podman and CRI-O (containers/storage with its overlay driver) read from a read-only image
// store ("additional image store"): the records of images and layers, and the documents of an
// image. Pure functions.
//
// The top layer of an image is the merged tree of all its layers. Those below are empty and exist
// only for their number, which podman compares with the configuration when it builds on top of the
// image. Their digests are made up, so that no pull mistakes one for a layer of another image; an
// attempt to push or save an image finds bytes with another digest and fails.
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

// Returns the name under which podman knows an image of a registry: with a tag, or with a digest
// and no tag. Returns kInvalidArgument for other transports, which have no such names, and for
// names that podman cannot parse.
absl::StatusOr<std::string> PodmanName(const Reference& reference);

// One image. Manifests with the same configuration (layers that differ only in compression) are one
// image to podman.
struct PodmanImage {
  std::vector<std::string> names;  // unique among images
  // At least one; podman uses the first. All have the same configuration.
  std::vector<std::shared_ptr<const ResolvedImage>> manifests;
  int64_t added_unix = 0;
  std::vector<uint64_t> layer_bytes;  // the sizes to report to podman, bottom first

  const ResolvedImage& first() const { return *manifests.front(); }
};

// 64 hex digits: the configuration's digest, as in podman itself.
std::string PodmanImageId(const ResolvedImage& image);

// The layers of an image, bottom first. Images with the same ChainID share them.
struct PodmanLayer {
  std::string id;      // 64 hex digits, derived from the digests like podman's
  std::string parent;  // "" = none
  std::string link;    // its short name, for mount options
  Digest digest;
};
std::vector<PodmanLayer> PodmanLayers(const ResolvedImage& image);

// PodmanDocuments returns the documents of an image by key; PodmanFileName the file name of a key.
std::vector<std::pair<std::string, std::string>> PodmanDocuments(const PodmanImage& image);
std::string PodmanFileName(std::string_view key);

// The records of all images (overlay-images/images.json) and of their layers
// (overlay-layers/layers.json).
std::string PodmanImagesJson(absl::Span<const PodmanImage> images);
std::string PodmanLayersJson(absl::Span<const PodmanImage> images);

}  // namespace imagefs
