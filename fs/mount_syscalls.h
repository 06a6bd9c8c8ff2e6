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
#include "base/directory.h"
#include "base/fd.h"

namespace imagefs {

inline constexpr char kErofsType[] = "erofs";

// One line of mountinfo (proc(5)).
struct MountInfo {
  uint64_t id = 0;                // the kernel gives the number of a mount that is gone to another
  uint64_t parent = 0;            // the mount that it lies on
  uint32_t major = 0, minor = 0;  // of the mounted file system: equal for bind mounts of it
  std::string mount_point;
  bool shared = false;  // mounts made below it appear in other namespaces
  std::string fs_type;
  std::string source;
};

// Lines that have not the form of proc(5) are left out.
std::vector<MountInfo> ParseMountInfo(std::string_view text);
// The mounts of this process's namespace, in no particular order. Touches no mount.
absl::StatusOr<std::vector<MountInfo>> ReadMountInfo();
// Those at `path`, each lying on the one before; the last one is visible.
std::vector<const MountInfo*> StackAt(const std::vector<MountInfo>& mounts, std::string_view path);
// The mount that is visible at `path`, or null; the innermost one that contains it.
const MountInfo* FindMountAt(const std::vector<MountInfo>& mounts, std::string_view path);
const MountInfo* FindMountOf(const std::vector<MountInfo>& mounts, std::string_view path);
// True for what MakeFuse, FusermountMount and MakeOverlay make and what shows a chain's index, and
// for bind mounts of it.
bool IsOurs(const MountInfo& mount);

// What a bind mount adds to the mount that it shows. It is read-only if that one is.
struct MountFlags {
  bool nosuid = false, nodev = false, noexec = false;
  // Ids of the image are shown as others: "IMAGE:HOST:COUNT[,...]"; all others are shown as the
  // overflow id. "" = as they are. Not for FUSE mounts.
  std::string id_map;   // of users
  std::string gid_map;  // of groups; "" = the users'

  friend bool operator==(const MountFlags&, const MountFlags&) = default;
};

// A detached mount (see below) of a FUSE file system, read-only unless `writable`. INIT is not
// answered yet. Needs CAP_SYS_ADMIN.
struct FuseMount {
  Fd device;
  Fd mount;
};
absl::StatusOr<FuseMount> MakeFuse(bool writable = false);
// kFailedPrecondition where FusermountMount is known to fail, so that nothing is fetched in vain.
absl::Status CheckFusermount(const std::string& directory);
// A FUSE mount at `directory` through fusermount3, for users; always nosuid and nodev. Returns its
// device.
absl::StatusOr<Fd> FusermountMount(const std::string& directory, const MountFlags& flags);
absl::Status FusermountUnmount(const std::string& directory, bool lazy);

// kInvalidArgument when it has another form or overlaps itself.
absl::Status CheckIdMap(std::string_view id_map);

// Detached mounts (fsmount(2), open_tree(2)) are visible to nobody until AttachMount, and end when
// their descriptor is closed before. They appear with all their flags at once. `shown` is the path
// that messages name.

// What is visible at `source` once more, with its flags and `flags`, or with `exactly` only the
// latter (an id map of `source` stays in any case).
absl::StatusOr<Fd> CloneMount(const Fd& source, const MountFlags& flags, const std::string& shown,
                              bool exactly = false);
struct OverlayLayers {
  const Fd& lower;
  const Fd& upper;
  const Fd& work;
};
absl::StatusOr<Fd> MakeOverlay(const OverlayLayers& layers, const MountFlags& flags,
                               const std::string& shown);
absl::Status AttachMount(const Fd& mount, const Fd& directory, const std::string& shown);
// Attaches `mount` in the place of the one whose root `top` is, so that one of both is seen at
// every moment and never the directory below. kBeneath: the old one is on top until it is
// unmounted. kOver: it stays below, which is the way before Linux 6.5, or where `beneath` is false.
enum class Attached { kBeneath, kOver };
absl::StatusOr<Attached> AttachInPlaceOf(const Fd& top, const Fd& mount, const std::string& shown,
                                         bool beneath = true);
// Attaches it to `path`, below which only this process's user can rename things, in the place of
// what is mounted there. Makes the directory where it is missing. The mount is then private.
absl::Status ReplaceMount(const Fd& mount, const std::string& path);
// Both at once, for directories below which only this process's user can rename things.
absl::Status BindMount(const std::string& source, const std::string& directory,
                       const MountFlags& flags, bool exactly = false);
// Keeps the mount out of other namespaces.
absl::Status MakePrivate(const std::string& directory);
// The directory that lies below the mount at `directory`, as a place (O_PATH), seen through a copy
// of the file system above without what is mounted on it. kNotFound where `mount`, the lowest one
// that lies there, is not; kFailedPrecondition where the directory above it is another mount's.
absl::StatusOr<Fd> OpenBelow(const MountInfo& mount, const std::string& directory);
// Which directory lies below the `mounts` uppermost ones at `directory`, whatever it is of: looked
// at in a copy of the mount namespace without them, which takes longer.
absl::StatusOr<FileId> IdBelow(size_t mounts, const std::string& directory);

// The kernel's number of the mount that is visible at `path`; 0 when there is no such path. Asks
// nothing of the file system.
uint64_t MountIdAt(const std::string& path);

// Which mount it is. Unlike a path it cannot be exchanged.
struct MountKey {
  uint64_t id = 0;  // 0 = none
  uint32_t major = 0, minor = 0;
  friend auto operator<=>(const MountKey&, const MountKey&) = default;
};
MountKey KeyOf(const MountInfo& mount);
absl::StatusOr<MountKey> KeyOf(const Fd& mount);

// kNotFound when nothing is mounted there, kFailedPrecondition when it is busy (never with `lazy`).
absl::Status UnmountPath(const std::string& directory, bool lazy);
// Lazily unmounts all that lies at `path`, which is below a directory of this process's own.
absl::Status UnmountStack(const std::string& path);
// Unmounts that mount, wherever a rename has taken it from `directory`, and no other. kNotFound
// when it is gone; kFailedPrecondition also when another mount hides it.
absl::Status UnmountExactly(const MountKey& mount, const std::string& directory, bool lazy);

// Lets the kernel read ahead `bytes` on that file system; false when it may not be set.
bool SetReadAhead(const MountKey& mount, uint64_t bytes);

}  // namespace imagefs
