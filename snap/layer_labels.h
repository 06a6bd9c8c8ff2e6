// The labels that containerd sends with a layer of an image: which image it is of, and which of its
// layers. Pure.
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

// What the labels of a layer's Prepare say.
struct LayerLabels {
  std::string chain_id;            // of the stack that ends with this layer, as text
  Reference reference;             // with the manifest's digest where the labels have it
  std::optional<Digest> manifest;  // of the platform's manifest
};
// nullopt: the labels name no image, so that the layer has to be unpacked. Understands those of
// containerd's image handlers (containerd.io/snapshot/cri.*) and those of the stargz family
// (containerd.io/snapshot/remote/stargz.*). kInvalidArgument when they contradict themselves.
absl::StatusOr<std::optional<LayerLabels>> ParseLayerLabels(const SnapshotLabels& labels);

// Which layer of the image it is, 0 = bottom. kNotFound when the image has no such layer, or the
// parent (the label snapshot.ref of what lies below, "" = nothing) is not what lies below it.
absl::StatusOr<uint32_t> FindLevel(const ResolvedImage& image, const LayerLabels& labels,
                                   std::string_view parent_ref);

}  // namespace imagefs
