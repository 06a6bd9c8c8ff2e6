// SPDX-License-Identifier: Apache-2.0
// The control calls about space: what images occupy, who uses them, and what can be given back.
// Each blocks on the disk.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cache/image_store.h"
#include "cmd/image_users.h"
#include "fs/mount_table.h"
#include "proto/control.pb.h"
#include "snap/podman_store.h"

namespace imagefs {

// Lists the images of a directory made by export-store.
absl::Status ListSharedImages(const std::string& directory, control::v1::ListImagesReply* reply);

struct SpaceCalls {
  ImageStore& store;
  MountTable& mounts;
  PodmanStore* podman;  // may be null
  const RuntimeUsers& runtimes;

  absl::Status ListImages(bool all, control::v1::ListImagesReply* reply) const;
  absl::Status Remove(const control::v1::RemoveRequest& request,
                      control::v1::RemoveReply* reply) const;
  absl::Status Evict(const control::v1::RemoveRequest& request,
                     control::v1::RemoveReply* reply) const;
  absl::Status Drop(const control::v1::DropRequest& request, control::v1::RemoveReply* reply) const;
  absl::Status Pin(const control::v1::PinRequest& request) const;
  absl::Status DiskUsage(control::v1::DiskUsageReply* reply) const;
  absl::Status Prune(const control::v1::PruneRequest& request,
                     control::v1::PruneReply* reply) const;

 private:
  std::vector<ImageUser> Users() const { return FindImageUsers(mounts, runtimes); }
  absl::Status RemoveOne(const Reference& reference, bool force,
                         control::v1::RemoveReply* reply) const;
  absl::StatusOr<std::vector<ImageRecord>> RecordsOf(const Reference& reference) const;
  absl::Status UnmountImages(const std::vector<Digest>& manifests) const;
};

}  // namespace imagefs
