// SPDX-License-Identifier: Apache-2.0
// The labels that containerd sends with a layer of an image: which image it belongs to, and which
// of its layers it is. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/manifest.h"
#include "image/reference.h"
#include "snap/snapshot.h"

namespace imagefs {

// The contents of the labels of a layer's Prepare.
struct LayerLabels {
  std::string chain_id;            // of the stack ending with this layer, as text
  Reference reference;             // with the manifest's digest if the labels have it
  std::optional<Digest> manifest;  // of the platform's manifest
  std::string listed_by;           // the digest of the index, if the labels have it
};
// Returns nullopt if the labels name no image, so that the layer must be unpacked. Understands the
// labels of containerd's image handlers (containerd.io/snapshot/cri.*) and of the stargz family
// (containerd.io/snapshot/remote/stargz.*). Returns kInvalidArgument if they are contradictory.
absl::StatusOr<std::optional<LayerLabels>> ParseLayerLabels(const SnapshotLabels& labels);

// Returns which layer of the image it is (0 = bottom). Returns kNotFound if the image has no such
// layer, or if `parent` (the snapshot.ref label of the layer below, "" = none) does not match.
absl::StatusOr<uint32_t> FindLevel(const ResolvedImage& image, const LayerLabels& labels,
                                   std::string_view parent_ref);

}  // namespace imagefs
