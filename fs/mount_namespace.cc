// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string_view>

#include "base/status.h"

namespace imagefs {
namespace {

// Of headers that are newer than Debian 12's.
constexpr unsigned long kGetMountNamespaceId = _IOR(0xb7, 0x5, __u64);  // NOLINT: ioctl's type
constexpr unsigned kStatxMountIdUnique = 0x4000;
constexpr long kStatmount = 457;  // NOLINT: syscall's type
constexpr long kListmount = 458;  // NOLINT
constexpr uint64_t kRootMount = UINT64_MAX;
constexpr uint64_t kSuperblock = 0x1, kMount = 0x2, kFsType = 0x20, kSource = 0x200;

struct StatmountRequest {
  uint32_t size = sizeof(StatmountRequest);
  uint32_t spare = 0;
  uint64_t mount = 0;
  uint64_t wanted = 0;
  uint64_t name_space = 0;
};
static_assert(sizeof(StatmountRequest) == 32);

struct StatmountReply {
  uint32_t size, options;
  uint64_t mask;
  uint32_t major, minor;
  uint64_t magic;
  uint32_t superblock_flags, fs_type;
  uint64_t mount, parent;
  uint32_t old_mount, old_parent;
  uint64_t attributes, propagation, peer_group, master, propagate_from;
  uint32_t root, point;
  uint64_t name_space;
  uint32_t subtype, source;
  uint64_t spare[48];
  char strings[4096];  // the fields of strings are offsets in here
};
static_assert(offsetof(StatmountReply, strings) == 512);

std::string StringAt(const StatmountReply& reply, uint64_t field, uint32_t offset) {
  if ((reply.mask & field) == 0 || offset >= sizeof(reply.strings)) return "";
  const char* const begin = reply.strings + offset;
  return std::string(begin, strnlen(begin, sizeof(reply.strings) - offset));
}

}  // namespace

absl::StatusOr<uint64_t> OwnMountNamespace() {
  constexpr char kPath[] = "/proc/thread-self/ns/mnt";
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(kPath, O_RDONLY));
  __u64 id = 0;
  if (ioctl(fd.get(), kGetMountNamespaceId, &id) == 0) return id;
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, kPath);
  return st.st_ino;
}

bool NamespaceExists(uint64_t name_space) {
  StatmountRequest request;
  request.mount = kRootMount;
  request.name_space = name_space;
  uint64_t mount = 0;
  // One that is ending has no mounts any more, but still a number for a moment.
  return syscall(kListmount, &request, &mount, size_t{1}, 0) > 0;
}

uint64_t UniqueMountId(const Fd& root) {
  struct statx found;
  memset(&found, 0, sizeof(found));
  if (statx(root.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, kStatxMountIdUnique, &found) != 0 ||
      (found.stx_mask & kStatxMountIdUnique) == 0) {
    return 0;
  }
  return found.stx_mnt_id;
}

absl::StatusOr<MountInfo> FindMountIn(uint64_t name_space, uint64_t unique_id) {
  StatmountRequest request;
  request.mount = unique_id;
  request.wanted = kSuperblock | kMount | kFsType | kSource;
  request.name_space = name_space;
  StatmountReply reply;
  memset(&reply, 0, sizeof(reply));
  if (unique_id == 0) return absl::UnimplementedError("this kernel numbers mounts again");
  if (syscall(kStatmount, &request, &reply, sizeof(reply), 0) != 0) {
    if (errno == ENOENT) return absl::NotFoundError("the mount or its namespace is gone");
    return absl::UnimplementedError(strerror(errno));
  }
  MountInfo out;
  out.id = reply.old_mount;
  out.parent = reply.old_parent;
  out.major = reply.major;
  out.minor = reply.minor;
  out.fs_type = StringAt(reply, kFsType, reply.fs_type);
  out.source = StringAt(reply, kSource, reply.source);
  return out;
}

}  // namespace imagefs
