// SPDX-License-Identifier: Apache-2.0
// Registers an image with containerd whose layers the daemon mounts lazily. `ctr image pull` of
// containerd 1.6 and 1.7 cannot do this, because it tells the snapshotter nothing about the image.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "snap/containerd_client.h"

namespace imagefs {

namespace control::v1 {
class InspectReply;
}

struct RpullRequest {
  std::string reference;  // canonical; also the name of containerd's image record
  std::string snapshotter;
};

// Creates content, snapshots and an image record from the daemon's description of the image
// (`about`). Calls `progress` for each layer. Returns kFailedPrecondition if the daemon cannot
// mount a layer. Blocks.
absl::Status Rpull(ContainerdClient& containerd, const RpullRequest& request,
                   const control::v1::InspectReply& about,
                   const std::function<void(std::string_view line)>& progress);

// Returns "DIGEST,DIGEST,..." of the layer `first` and those above, as many as fit into a label of
// that name.
std::string LayersLabel(std::string_view name, const control::v1::InspectReply& about, int first);

}  // namespace imagefs
