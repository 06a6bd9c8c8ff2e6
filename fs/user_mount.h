// SPDX-License-Identifier: Apache-2.0
// FUSE mounts without root of the machine: through fusermount3, or by this process itself if it may
// mount in its mount namespace, as root of a user namespace may that has one (unshare -rm). They
// are always nosuid and nodev. Functions are thread-safe; they block on the kernel and on
// fusermount3.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

// Whether this thread may mount in its mount namespace.
bool MayMount();
// Whether this process mounts for all users that there are: as root of the machine, or of a user
// namespace that has other users as well (rootless podman's).
bool MountsAsRoot();
// Whether a process of this user namespace cannot mount in its mount namespace at all: the
// namespace is another user's, and fusermount3 has no more rights here than anybody.
bool CannotMount();

// `place` is the directory (O_PATH), `directory` its path without symbolic links.
//
// Returns kFailedPrecondition if UserMount is known to fail, so that nothing is fetched in vain.
absl::Status CheckUserMount(const std::string& directory, const Fd& place, FuseAccess access);
// Mounts FUSE there. With kUser, the kernel admits this process's user only, also as another one of
// a user namespace, and does not check the image's permissions: the user who fetched an image may
// read all of it. With kAll, fusermount3 wants user_allow_other in /etc/fuse.conf. The
// result has the mount only if this process made it.
absl::StatusOr<FuseMount> UserMount(const std::string& directory, const Fd& place,
                                    const std::string& source, const MountFlags& flags,
                                    FuseAccess access);
// The failure to mount writable where this process may not mount: fusermount3 makes no overlays.
absl::Status UserOverlayDenied(const std::string& directory);
// Unmounts what is on top there, as root as well. Returns kNotFound if nothing is mounted there,
// and kFailedPrecondition if it is busy (never with `lazy`).
absl::Status UserUnmount(const std::string& directory, bool lazy);

}  // namespace imagefs
