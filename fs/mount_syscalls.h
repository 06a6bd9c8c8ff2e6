// The system calls that mount and unmount, with the errors that people can act on. Paths are
// absolute. Functions are thread-safe; they block on the kernel and, for unprivileged mounts, on
// fusermount3.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

// One line of mountinfo (proc(5)).
struct MountInfo {
  uint32_t major = 0, minor = 0;  // of the mounted file system: equal for bind mounts of it
  std::string mount_point;
  bool shared = false;  // mounts made below it appear in other namespaces
  std::string fs_type;
  std::string source;
};

// Lines that have not the form of proc(5) are left out.
std::vector<MountInfo> ParseMountInfo(std::string_view text);
// The mounts of this process's namespace, a covering mount after the covered one. Touches no mount.
absl::StatusOr<std::vector<MountInfo>> ReadMountInfo();
// The mount that is visible at `path`, or null; the innermost one that contains it.
const MountInfo* FindMountAt(const std::vector<MountInfo>& mounts, std::string_view path);
const MountInfo* FindMountOf(const std::vector<MountInfo>& mounts, std::string_view path);
// True for what MountFuse, FusermountMount and MountOverlay make, and bind mounts of it.
bool IsOurs(const MountInfo& mount);

// Mounts a read-only FUSE file system and returns its descriptor; INIT is not answered yet. Needs
// CAP_SYS_ADMIN.
absl::StatusOr<Fd> MountFuse(const std::string& directory);
// The same through fusermount3, for users.
absl::StatusOr<Fd> FusermountMount(const std::string& directory);
absl::Status FusermountUnmount(const std::string& directory, bool lazy);

absl::Status BindMount(const std::string& source, const std::string& directory);
// Keeps the mount out of other namespaces.
absl::Status MakePrivate(const std::string& directory);

struct OverlayPaths {
  std::string lower, upper, work;
};
std::string OverlayOptions(const OverlayPaths& paths);
absl::Status MountOverlay(const OverlayPaths& paths, const std::string& directory);

// kNotFound when nothing is mounted there, kFailedPrecondition when it is busy (never with `lazy`).
absl::Status UnmountPath(const std::string& directory, bool lazy);

// Lets the kernel read ahead `bytes` on that file system; false when it may not be set.
bool SetReadAhead(const MountInfo& mount, uint64_t bytes);

}  // namespace imagefs
