// SPDX-License-Identifier: Apache-2.0
#include "cmd/unmount.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "cmd/client.h"
#include "fs/mount_target.h"
#include "fs/user_mount.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::ListMountsReply;
using control::v1::Mount;
using control::v1::UnmountReply;
using control::v1::UnmountRequest;

}  // namespace

absl::Status Unmount(DaemonClient& client, UnmountRequest request, UnmountReply* reply) {
  const uint64_t own = client.NamespaceHere();
  const bool same = own == 0;
  if (same && !client.callers_mount()) return client.Unmount(request, reply);
  ListMountsReply mounts;
  IMAGEFS_RETURN_IF_ERROR(client.ListMounts(&mounts));
  std::vector<std::string> directories;
  for (const std::string& directory : request.directories()) {
    directories.push_back(MountPointOf(directory));
  }
  std::vector<std::string> here;
  for (auto mount = mounts.mounts().rbegin(); mount != mounts.mounts().rend(); ++mount) {
    if (mount->mount_namespace() == own) here.push_back(mount->directory());
  }
  if (request.all()) directories = here;
  UnmountRequest rest;
  rest.set_mount_namespace(own);
  rest.set_lazy(request.lazy());
  UnmountReply failed;
  for (const std::string& directory : directories) {
    const bool ours = std::find(here.begin(), here.end(), directory) != here.end();
    absl::Status status;
    if (ours) status = UserUnmount(directory, request.lazy());
    if (status.ok() && ours && same) {
      // The daemon sees by itself that it is gone.
      reply->add_unmounted(directory);
      continue;
    }
    if (status.ok() || absl::IsNotFound(status)) {
      rest.add_directories(directory);
      continue;
    }
    UnmountReply::Failure* failure = failed.add_failures();
    failure->set_directory(PrintableName(directory));
    failure->set_message(std::string(status.message()));
  }
  if (rest.directories_size() > 0) {
    UnmountReply answer;
    IMAGEFS_RETURN_IF_ERROR(client.Unmount(rest, &answer));
    reply->MergeFrom(answer);
  }
  reply->MergeFrom(failed);
  return absl::OkStatus();
}

}  // namespace imagefs
