// SPDX-License-Identifier: Apache-2.0
// The system calls that mount and unmount, with actionable errors. Paths are absolute. Functions
// are thread-safe and block on the kernel. Mounts without root: fs/user_mount.h.
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
// The subtype of FUSE mounts.
inline constexpr char kFuseSubtype[] = "imagefs";
// The source in mountinfo of FUSE and overlay mounts that have no better one.
inline constexpr char kOwnSource[] = "imagefs";

// One line of mountinfo (proc(5)).
struct MountInfo {
  uint64_t id = 0;                // the kernel reuses the number of a mount that is gone
  uint64_t parent = 0;            // the mount that it is mounted on
  uint32_t major = 0, minor = 0;  // of the mounted file system; equal for its bind mounts
  std::string mount_point;
  bool shared = false;      // mounts made below it appear in the others of its peer group
  uint64_t peer_group = 0;  // if shared
  std::string fs_type;
  std::string source;
};

// Skips lines that do not match the format of proc(5).
std::vector<MountInfo> ParseMountInfo(std::string_view text);
// Returns the mounts of this thread's namespace, in no particular order. Accesses no mount.
absl::StatusOr<std::vector<MountInfo>> ReadMountInfo();
// Returns the mounts at `path`, each on top of the one before; the last one is visible.
std::vector<const MountInfo*> StackAt(const std::vector<MountInfo>& mounts, std::string_view path);
// FindMountAt returns the mount visible at `path`, FindMountOf the innermost one that contains it;
// null if there is none.
const MountInfo* FindMountAt(const std::vector<MountInfo>& mounts, std::string_view path);
const MountInfo* FindMountOf(const std::vector<MountInfo>& mounts, std::string_view path);
// Returns true for mounts that can be recognized without a record of them: FUSE mounts made here,
// overlays with kOwnSource, mounts of a chain's index by its path, and bind mounts of these. With
// `source`, if it is not empty, also for EROFS and overlay mounts with that source. As anybody can
// mount with any source, the caller must also know the mount's device number or directory.
bool IsOurs(const MountInfo& mount, std::string_view source = "");
// What mountinfo shows as the source of an image's mounts: its reference, or "" if the kernel does
// not accept that as a source.
std::string SourceOf(const std::string& reference);

// What a bind mount adds to its source. It is read-only if the source is.
struct MountFlags {
  bool nosuid = false, nodev = false, noexec = false;
  // Maps ids of the image to others: "IMAGE:HOST:COUNT[,...]"; all other ids appear as the overflow
  // id. "" = no mapping. Not for FUSE mounts.
  std::string id_map;   // of users
  std::string gid_map;  // of groups; "" = same as for users

  friend bool operator==(const MountFlags&, const MountFlags&) = default;
};

// A detached mount (see below) of a FUSE file system, read-only unless `writable`. INIT has not
// been answered yet. `flags` have no id map. Needs CAP_SYS_ADMIN over the mount namespace.
struct FuseMount {
  Fd device;
  Fd mount;
};
enum class FuseAccess {
  kAll,   // everybody, as the image's permissions say
  kUser,  // only this process's user, to everything
};
absl::StatusOr<FuseMount> MakeFuse(bool writable = false, const std::string& source = kOwnSource,
                                   const MountFlags& flags = {},
                                   FuseAccess access = FuseAccess::kAll);
// Returns kInvalidArgument if the map is malformed or overlaps itself.
absl::Status CheckIdMap(std::string_view id_map);

// Detached mounts (fsmount(2), open_tree(2)) are invisible until AttachMount, and closing their
// descriptor before that ends them. They appear with all their flags at once. `shown` is the path
// used in messages.

// Clones what is visible at `source`, with its flags plus `flags`, or with `exactly`, with `flags`
// only (an id map of `source` always stays).
absl::StatusOr<Fd> CloneMount(const Fd& source, const MountFlags& flags, const std::string& shown,
                              bool exactly = false);
struct OverlayLayers {
  const Fd& lower;
  const Fd& upper;
  const Fd& work;
  std::string source = kOwnSource;
  // Its own attributes are those that a user may set (user.overlay.*), as in a user namespace.
  bool user_xattrs = false;
};
absl::StatusOr<Fd> MakeOverlay(const OverlayLayers& layers, const MountFlags& flags,
                               const std::string& shown);
absl::Status AttachMount(const Fd& mount, const Fd& directory, const std::string& shown);
// Attaches `mount` in place of the mount whose root is `top`. At every moment one of the two is
// visible, and never the directory below. kBeneath: the old mount is on top until it is unmounted.
// kOver: the old mount stays below; used before Linux 6.5, or if `beneath` is false.
enum class Attached { kBeneath, kOver };
absl::StatusOr<Attached> AttachInPlaceOf(const Fd& top, const Fd& mount, const std::string& shown,
                                         bool beneath = true);
// Attaches `mount` to `path`, replacing what is mounted there. Creates the directory if it is
// missing. The mount becomes private. REQUIRES: only this process's user can rename things below
// `path`.
absl::Status ReplaceMount(const Fd& mount, const std::string& path);
// CloneMount and AttachMount in one. REQUIRES: only this process's user can rename things below the
// directories.
absl::Status BindMount(const std::string& source, const std::string& directory,
                       const MountFlags& flags, bool exactly = false);
// Keeps the mount out of other namespaces.
absl::Status MakePrivate(const std::string& directory);
// Returns the directory below the mount at `directory`, as a location (O_PATH), seen through a copy
// of the parent file system without what is mounted on it. `mount` is the lowest mount there.
// Returns kNotFound if `mount` is gone, and kFailedPrecondition if the directory above it belongs
// to another mount.
absl::StatusOr<Fd> OpenBelow(const MountInfo& mount, const std::string& directory);
// Identifies the directory below the topmost `mounts` mounts at `directory`, whichever file system
// it belongs to. Slower: looks in a copy of the mount namespace from which they are removed.
absl::StatusOr<FileId> IdBelow(size_t mounts, const std::string& directory);

// Returns the kernel's number of the mount visible at `path`, or 0 if there is no such path. Does
// not send any request to the file system.
uint64_t MountIdAt(const std::string& path);

// Identifies a mount. Unlike a path, it cannot be redirected.
struct MountKey {
  uint64_t id = 0;  // 0 = none
  uint32_t major = 0, minor = 0;
  friend auto operator<=>(const MountKey&, const MountKey&) = default;
};
MountKey KeyOf(const MountInfo& mount);
absl::StatusOr<MountKey> KeyOf(const Fd& mount);

// The failure to unmount what is in use.
absl::Status BusyError(const std::string& directory);
// Returns kNotFound if nothing is mounted there, and kFailedPrecondition if it is busy (never with
// `lazy`).
absl::Status UnmountPath(const std::string& directory, bool lazy);
// Lazily unmounts everything at `path`, which must be below a directory owned by this process.
absl::Status UnmountStack(const std::string& path);
// Unmounts exactly that mount, which has this source (see IsOurs), even if a rename has moved it
// away from `directory`. Returns kNotFound if it is gone, and kFailedPrecondition also if another
// mount hides it.
absl::Status UnmountExactly(const MountKey& mount, std::string_view source,
                            const std::string& directory, bool lazy);

// Lets the kernel read ahead `bytes` on that file system. Returns false if it cannot be set.
bool SetReadAhead(const MountKey& mount, uint64_t bytes);

}  // namespace imagefs
