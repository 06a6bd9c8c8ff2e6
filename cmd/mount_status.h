// SPDX-License-Identifier: Apache-2.0
// What the command and the status page say about mounts: converts the parts' own descriptions into
// the control service's messages.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cache/image_store.h"
#include "fs/mount_table.h"
#include "proto/control.pb.h"

namespace imagefs {

void FillState(const MountState& mount, control::v1::Mount* out);
void FillLayers(const ImageStore& store, control::v1::StatusReply* reply);

// The mount on `directory`, whose parents are resolved (cmd/calls.h), in that mount namespace (0 =
// the daemon's). With `picture`, also the byte
// maps of its layers and the events of its start, within the limits of ImagePicture and
// kMostEvents, so that a reply is at most about 2 MiB. Blocks on the disk.
absl::Status FillMountStatus(ImageStore& store, const MountTable& mounts,
                             const std::string& directory, uint64_t name_space, bool picture,
                             control::v1::MountStatusReply* reply);

inline constexpr size_t kMostEventsShown = 4000;

}  // namespace imagefs
