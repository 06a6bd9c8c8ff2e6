// SPDX-License-Identifier: Apache-2.0
// Gives containerd an image whose layers the daemon shows: what `ctr image pull` of containerd 1.6
// and 1.7 cannot do, since it tells the snapshotter nothing of the image.
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
  std::string reference;  // canonical, also the name of containerd's record
  std::string snapshotter;
};

// What the daemon says about an image (`about`) becomes content, snapshots and a record, in this
// order. `progress` is told of each layer. kFailedPrecondition when the daemon cannot show one.
// Blocks.
absl::Status Rpull(ContainerdClient& containerd, const RpullRequest& request,
                   const control::v1::InspectReply& about,
                   const std::function<void(std::string_view line)>& progress);

// "DIGEST,DIGEST,...": of this layer and those above, as many as a label of that name can hold.
std::string LayersLabel(std::string_view name, const control::v1::InspectReply& about, int first);

}  // namespace imagefs
