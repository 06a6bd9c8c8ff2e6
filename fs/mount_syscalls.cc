// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/directory.h"
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kFuseType[] = "fuse.imagefs";
constexpr char kOverlayType[] = "overlay";
// Of a string that fsconfig(2) takes.
constexpr size_t kMaxSourceBytes = 255;
// MOVE_MOUNT_BENEATH of Linux 6.5, which Debian 12's headers lack.
constexpr unsigned int kBeneathFlag = 0x200;
constexpr uint64_t kMaxMountInfoBytes = uint64_t{64} << 20;

// Decodes the octal escapes of mountinfo (\040 for a space).
std::string Unescape(std::string_view text) {
  std::string out;
  const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
        is_octal(text[i + 3])) {
      const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
      out.push_back(static_cast<char>(code));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::optional<MountInfo> ParseLine(std::string_view line) {
  const std::vector<std::string_view> fields = Split(line, ' ');
  const auto dash =
      std::find(fields.begin() + std::min<size_t>(6, fields.size()), fields.end(), "-");
  if (fields.size() < 6 || std::distance(dash, fields.end()) < 3) return std::nullopt;
  const auto id = ParseDecimal(fields[0]), parent = ParseDecimal(fields[1]);
  const std::vector<std::string_view> device = Split(fields[2], ':');
  if (device.size() != 2) return std::nullopt;
  const auto major = ParseDecimal(device[0]);
  const auto minor = ParseDecimal(device[1]);
  if (!id || !parent || !major || !minor || *major > UINT32_MAX || *minor > UINT32_MAX)
    return std::nullopt;
  MountInfo out;
  out.id = *id;
  out.parent = *parent;
  out.major = static_cast<uint32_t>(*major);
  out.minor = static_cast<uint32_t>(*minor);
  out.mount_point = Unescape(fields[4]);
  for (auto tag = fields.begin() + 6; tag != dash; ++tag) {
    std::string_view group = *tag;
    if (!ConsumePrefix(&group, "shared:")) continue;
    out.shared = true;
    out.peer_group = ParseDecimal(group).value_or(0);
  }
  out.fs_type = Unescape(dash[1]);
  out.source = Unescape(dash[2]);
  return out;
}

// Explains those mount errors that the user can fix.
absl::Status MountError(int error_number, std::string_view what) {
  if (error_number == EPERM || error_number == EACCES) {
    return WithKind(
        absl::FailedPreconditionError(StrCat(what, ": ", strerror(error_number),
                                             "; mounting needs CAP_SYS_ADMIN: run the daemon as "
                                             "root or as a user with fusermount3")),
        FailureKind::kDenied);
  }
  if (error_number == ENODEV) {
    return absl::FailedPreconditionError(StrCat(
        what, ": the kernel has no such file system; load it (modprobe fuse, modprobe overlay)"));
  }
  return ErrnoStatus(error_number, what);
}

bool IsHexDigest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Returns the lines of a uid_map (user_namespaces(7)): image id, host id, count.
absl::StatusOr<std::string> ParseIdMap(std::string_view id_map) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        StrCat("id map \"", Printable(id_map), "\": ", why, "; write IMAGE:HOST:COUNT[,...]"));
  };
  constexpr uint64_t kIds = uint64_t{1} << 32;
  struct Range {
    uint64_t image, host, count;
  };
  std::vector<Range> ranges;
  std::string lines;
  for (const std::string_view word : Split(id_map, ',')) {
    const std::vector<std::string_view> fields = Split(word, ':');
    if (fields.size() != 3) return bad("it is malformed");
    const auto image = ParseDecimal(fields[0]), host = ParseDecimal(fields[1]),
               count = ParseDecimal(fields[2]);
    if (!image || !host || !count || *count == 0) return bad("it is malformed");
    if (*image >= kIds || *host >= kIds || *count >= kIds || *image + *count >= kIds ||
        *host + *count >= kIds) {
      return bad("ids have 32 bits");
    }
    for (const Range& other : ranges) {
      const auto meet = [](uint64_t a, uint64_t a_count, uint64_t b, uint64_t b_count) {
        return a < b + b_count && b < a + a_count;
      };
      if (meet(other.image, other.count, *image, *count) ||
          meet(other.host, other.count, *host, *count)) {
        return bad("two ranges overlap");
      }
    }
    ranges.push_back({*image, *host, *count});
    if (ranges.size() > 340) return bad("more than 340 ranges");  // the kernel's limit
    StrAppend(&lines, *image, " ", *host, " ", *count, "\n");
  }
  return lines;
}

absl::Status WriteProc(pid_t pid, std::string_view name, std::string_view text) {
  const std::string path = StrCat("/proc/", pid, "/", name);
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_WRONLY));
  // In a single write(2), as the kernel requires.
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(errno, StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

// Makes an empty user namespace with these maps.
absl::StatusOr<Fd> MakeUserNamespace(std::string_view uids, std::string_view gids) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string uid_lines, ParseIdMap(uids));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string gid_lines, ParseIdMap(gids));
  // The daemon is not dumpable, and its child would inherit that, which would also deny access to
  // the child's user namespace. So the child makes itself dumpable, for those who may inspect
  // root's processes.
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a user namespace");
  const Fd ready(ends[0]);
  Fd child_end(ends[1]);
  // Not fork(3): the child runs no handlers and touches no memory; it only has to exist.
  const auto pid = static_cast<pid_t>(
      syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (pid < 0) return ErrnoStatus(errno, "cannot make a user namespace");
  if (pid == 0) {
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    syscall(SYS_write, ends[1], "", 1);
    while (true) syscall(SYS_ppoll, nullptr, 0, nullptr, nullptr, 0);
  }
  child_end.Reset();
  const auto make = [&]() -> absl::StatusOr<Fd> {
    char byte;
    if (read(ready.get(), &byte, 1) != 1) {
      return absl::InternalError("the process of a user namespace ended immediately");
    }
    IMAGEFS_RETURN_IF_ERROR(WriteProc(pid, "uid_map", uid_lines));
    IMAGEFS_RETURN_IF_ERROR(WriteProc(pid, "gid_map", gid_lines));
    return OpenFile(StrCat("/proc/", pid, "/ns/user"), O_RDONLY);
  };
  absl::StatusOr<Fd> made = make();
  kill(pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return made;
}

// `path` is passed to the kernel, `directory` is used in messages.
absl::Status UnmountAt(const std::string& path, const std::string& directory, bool lazy) {
  if (umount2(path.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) {
    return absl::OkStatus();
  }
  switch (errno) {
    case EBUSY:
      return BusyError(directory);
    case EINVAL:
    case ENOENT:
      return absl::NotFoundError(StrCat("nothing is mounted at ", directory));
    default:
      return MountError(errno, StrCat("cannot unmount ", directory));
  }
}

// Sends no request to the file system.
std::optional<MountKey> KeyIn(const Fd& parent, const char* name, int flags) {
  struct statx found = {};
  if (statx(parent.get(), name, flags | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID,
            &found) != 0 ||
      (found.stx_mask & STATX_MNT_ID) == 0) {
    return std::nullopt;
  }
  return MountKey{found.stx_mnt_id, found.stx_dev_major, found.stx_dev_minor};
}

// Sends no request to the mounted file system.
bool IsMountPoint(const std::string& path) {
  const uint64_t here = MountIdAt(path);
  return here != 0 && here != MountIdAt(ParentOf(path));
}

// In the form that mount_setattr(2) and fsmount(2) take.
unsigned int AttributesOf(const MountFlags& flags) {
  return (flags.nosuid ? MOUNT_ATTR_NOSUID : 0U) | (flags.nodev ? MOUNT_ATTR_NODEV : 0U) |
         (flags.noexec ? MOUNT_ATTR_NOEXEC : 0U);
}

// Goes through the parent directory, because an open descriptor of the mount itself would keep it
// busy. The owner of the parent can rename things in it, but not mount points.
absl::Status UnmountIfAt(const MountKey& mount, const std::string& directory, bool lazy) {
  const absl::Status nothing = absl::NotFoundError(StrCat("nothing is mounted at ", directory));
  const size_t slash = directory.rfind('/');
  if (slash == std::string::npos) return nothing;
  const std::string name = directory.substr(slash + 1);
  const absl::StatusOr<Fd> parent = OpenWithoutLinks(ParentOf(directory), O_PATH | O_DIRECTORY);
  if (!parent.ok() || KeyIn(*parent, name.c_str(), AT_SYMLINK_NOFOLLOW) != mount) return nothing;
  return UnmountAt(StrCat("/proc/self/fd/", parent->get(), "/", name), directory, lazy);
}

}  // namespace

std::vector<MountInfo> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> out;
  for (std::string_view line : Split(text, '\n')) {
    if (auto mount = ParseLine(line)) out.push_back(*std::move(mount));
  }
  return out;
}

absl::StatusOr<std::vector<MountInfo>> ReadMountInfo() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text,
                           ReadFile("/proc/thread-self/mountinfo", kMaxMountInfoBytes));
  return ParseMountInfo(text);
}

std::vector<const MountInfo*> StackAt(const std::vector<MountInfo>& mounts, std::string_view path) {
  std::vector<const MountInfo*> there, stack;
  for (const MountInfo& mount : mounts) {
    if (mount.mount_point == path) there.push_back(&mount);
  }
  const auto find = [&](auto same) -> const MountInfo* {
    const auto found = std::find_if(there.begin(), there.end(), same);
    return found == there.end() ? nullptr : *found;
  };
  // The top mount is the one with no other on it. A hidden mount at the same path is older than the
  // visible ones.
  std::reverse(there.begin(), there.end());
  const MountInfo* mount = find([&](const MountInfo* candidate) {
    return find([&](const MountInfo* other) { return other->parent == candidate->id; }) == nullptr;
  });
  // A mount that is its own parent is the root of the namespace.
  while (mount != nullptr && stack.size() < there.size()) {
    stack.push_back(mount);
    mount = find([&](const MountInfo* other) {
      return other->id == stack.back()->parent && other != stack.back();
    });
  }
  std::reverse(stack.begin(), stack.end());
  return stack;
}

const MountInfo* FindMountAt(const std::vector<MountInfo>& mounts, std::string_view path) {
  const std::vector<const MountInfo*> stack = StackAt(mounts, path);
  return stack.empty() ? nullptr : stack.back();
}

const MountInfo* FindMountOf(const std::vector<MountInfo>& mounts, std::string_view path) {
  while (true) {
    if (const MountInfo* mount = FindMountAt(mounts, path)) return mount;
    const size_t slash = path.rfind('/');
    if (slash == std::string_view::npos || path.size() == 1) return nullptr;
    path = path.substr(0, std::max<size_t>(slash, 1));
  }
}

bool IsOurs(const MountInfo& mount, std::string_view source) {
  if (mount.fs_type == kFuseType) return true;
  const bool erofs = mount.fs_type == kErofsType;
  if (!erofs && mount.fs_type != kOverlayType) return false;
  if (!source.empty() && mount.source == source) return true;
  if (erofs) {
    // The source of a chain's mount is its index: <store>/chains/<64 hex digits>.
    const std::vector<std::string_view> parts = Split(mount.source, '/');
    return parts.size() > 2 && parts[parts.size() - 2] == "chains" && IsHexDigest(parts.back());
  }
  return mount.source == kOwnSource;
}

std::string SourceOf(const std::string& reference) {
  // For EROFS it is a path that the kernel opens (fs/erofs_mount.h).
  const std::vector<std::string_view> parts = Split(reference, '/');
  const bool usable = reference.size() <= kMaxSourceBytes && !parts.back().empty() &&
                      std::find(parts.begin(), parts.end(), "..") == parts.end();
  return usable ? reference : "";
}

absl::StatusOr<FuseMount> MakeFuse(bool writable, const std::string& source,
                                   const MountFlags& flags, FuseAccess access) {
  FuseMount out;
  out.device = Fd(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!out.device.valid()) {
    return absl::FailedPreconditionError(
        StrCat("cannot open /dev/fuse: ", strerror(errno),
               "; load the module (modprobe fuse), or give the container the device"));
  }
  const auto failed = [] { return MountError(errno, "cannot make a FUSE mount"); };
  const Fd context(fsopen("fuse", FSOPEN_CLOEXEC));
  if (!context.valid()) return failed();
  const auto set = [&](const char* key, const std::string& value) {
    return fsconfig(context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  };
  const auto flag = [&](const char* key) {
    return fsconfig(context.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) == 0;
  };
  // For all, permissions are the image's, checked by the kernel. Read-only, so that reads do not
  // make the kernel request new access times.
  const bool all = access == FuseAccess::kAll;
  if (!set("source", source) || !set("subtype", kFuseSubtype) ||
      !set("fd", StrCat(out.device.get())) || !set("rootmode", "40000") ||
      !set("user_id", StrCat(geteuid())) || !set("group_id", StrCat(getegid())) ||
      (all && !flag("allow_other")) || (all && !flag("default_permissions")) ||
      !(writable || flag("ro")) ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return failed();
  }
  out.mount =
      Fd(fsmount(context.get(), FSMOUNT_CLOEXEC,
                 static_cast<unsigned>(AttributesOf(flags)) | (writable ? 0 : MOUNT_ATTR_RDONLY)));
  if (!out.mount.valid()) return failed();
  return out;
}

absl::Status CheckIdMap(std::string_view id_map) { return ParseIdMap(id_map).status(); }

absl::StatusOr<Fd> CloneMount(const Fd& source, const MountFlags& flags, const std::string& shown,
                              bool exactly) {
  Fd copy(open_tree(source.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!copy.valid()) return MountError(errno, StrCat("cannot mount at ", shown));
  mount_attr attributes = {};
  attributes.attr_set = AttributesOf(flags);
  if (exactly) {
    attributes.attr_clr =
        (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC) & ~attributes.attr_set;
  }
  Fd user_namespace;
  if (!flags.id_map.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(
        user_namespace,
        MakeUserNamespace(flags.id_map, flags.gid_map.empty() ? flags.id_map : flags.gid_map));
    attributes.attr_set |= MOUNT_ATTR_IDMAP;
    attributes.userns_fd = static_cast<uint64_t>(user_namespace.get());
  }
  if ((attributes.attr_set | attributes.attr_clr) != 0 &&
      mount_setattr(copy.get(), "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0) {
    const int error = errno;
    if (error == EINVAL && !flags.id_map.empty()) {
      return absl::FailedPreconditionError(StrCat(
          "cannot map ids at ", shown, ": the file system does not support it; use --mode kernel"));
    }
    return MountError(error, StrCat("cannot set the flags of the mount at ", shown));
  }
  return copy;
}

absl::Status AttachMount(const Fd& mount, const Fd& directory, const std::string& shown) {
  if (move_mount(mount.get(), "", directory.get(), "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
    return MountError(errno, StrCat("cannot attach the mount to ", shown));
  }
  return absl::OkStatus();
}

absl::StatusOr<Attached> AttachInPlaceOf(const Fd& top, const Fd& mount, const std::string& shown,
                                         bool beneath) {
  if (beneath &&
      move_mount(mount.get(), "", top.get(), "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | kBeneathFlag) == 0) {
    return Attached::kBeneath;
  }
  if (beneath && errno != EINVAL) {
    return MountError(errno, StrCat("cannot attach the mount to ", shown));
  }
  IMAGEFS_RETURN_IF_ERROR(AttachMount(mount, top, shown));
  return Attached::kOver;
}

absl::Status ReplaceMount(const Fd& mount, const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(mount));
  if (!IsMountPoint(path)) {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd directory, MakeOwnDir(path));
    IMAGEFS_RETURN_IF_ERROR(AttachMount(mount, directory, path));
    return MakePrivate(path);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd top, OpenWithoutLinks(path, O_PATH));
  IMAGEFS_RETURN_IF_ERROR(AttachInPlaceOf(top, mount, path).status());
  while (MountIdAt(path) != key.id) IMAGEFS_RETURN_IF_ERROR(UnmountPath(path, /*lazy=*/true));
  return MakePrivate(path);
}

absl::StatusOr<Fd> OpenBelow(const MountInfo& mount, const std::string& directory) {
  const std::string name = directory.substr(directory.rfind('/') + 1);
  IMAGEFS_ASSIGN_OR_RETURN(const Fd above,
                           OpenWithoutLinks(ParentOf(directory), O_PATH | O_DIRECTORY));
  const std::optional<MountKey> top = KeyIn(above, name.c_str(), AT_SYMLINK_NOFOLLOW);
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey parent, KeyOf(above));
  if (name.empty() || !top.has_value() || top == parent) {
    return absl::NotFoundError(StrCat("nothing is mounted at ", directory));
  }
  if (parent.id != mount.parent) {
    return absl::FailedPreconditionError(
        StrCat(directory, ": its parent directory is on another mount"));
  }
  const Fd copy(open_tree(above.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!copy.valid()) return MountError(errno, StrCat("cannot look below ", directory));
  Fd below(openat(copy.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!below.valid()) return ErrnoStatus(errno, directory);
  return below;
}

absl::StatusOr<FileId> IdBelow(size_t mounts, const std::string& directory) {
  struct Answer {
    int error = 0;
    struct statx found = {};
  } answer;
  const std::string name = directory;  // the child must not allocate
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a pipe");
  const Fd answers(ends[0]);
  Fd child_end(ends[1]);
  const auto pid = static_cast<pid_t>(
      syscall(SYS_clone, CLONE_NEWNS | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (pid < 0) return ErrnoStatus(errno, "cannot copy the mount namespace");
  if (pid == 0) {
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    // Private, so that unmounts in this namespace do not propagate.
    bool good = syscall(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    for (size_t i = 0; good && i < mounts; ++i) {
      good = syscall(SYS_umount2, name.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
    }
    const long fd =  // NOLINT: as syscall(2) has it
        good ? syscall(SYS_openat2, AT_FDCWD, name.c_str(), &how, sizeof(how)) : -1;
    if (fd < 0 || syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS,
                          &answer.found) != 0) {
      answer.error = errno;
    }
    syscall(SYS_write, ends[1], &answer, sizeof(answer));
    syscall(SYS_exit_group, 0);
  }
  child_end.Reset();
  ssize_t got;
  do {
    got = read(answers.get(), &answer, sizeof(answer));
  } while (got < 0 && errno == EINTR);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (got != sizeof(answer)) return absl::InternalError(StrCat("cannot look below ", directory));
  if (answer.error != 0) {
    return ErrnoStatus(answer.error, StrCat("cannot look below the mounts at ", directory));
  }
  return FileId{makedev(answer.found.stx_dev_major, answer.found.stx_dev_minor),
                answer.found.stx_ino};
}

absl::Status BindMount(const std::string& source, const std::string& directory,
                       const MountFlags& flags, bool exactly) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd from, OpenPlace(source));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd to, OpenPlace(directory));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd copy, CloneMount(from, flags, directory, exactly));
  return AttachMount(copy, to, directory);
}

absl::Status MakePrivate(const std::string& directory) {
  if (mount(nullptr, directory.c_str(), nullptr, MS_PRIVATE, nullptr) < 0) {
    return MountError(errno, StrCat("cannot make ", directory, " a private mount"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> MakeOverlay(const OverlayLayers& layers, const MountFlags& flags,
                               const std::string& shown) {
  if (!flags.id_map.empty()) {
    return absl::InvalidArgumentError(
        StrCat("cannot map ids at ", shown, ": writable mounts (--rw) do not support it"));
  }
  const auto failed = [&] {
    return MountError(errno, StrCat("cannot mount an overlay at ", shown));
  };
  const Fd context(fsopen(kOverlayType, FSOPEN_CLOEXEC));
  if (!context.valid()) return failed();
  const auto set = [&](const char* key, const std::string& value) {
    return fsconfig(context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
  };
  // Linux 6.13 accepts descriptors, and mountinfo then shows the directories; older kernels take
  // paths.
  const auto set_directory = [&](const char* key, const char* old_key, const Fd& fd) {
    return fsconfig(context.get(), FSCONFIG_SET_FD, key, nullptr, fd.get()) == 0 ||
           set(old_key, StrCat("/proc/self/fd/", fd.get()));
  };
  if (!set("source", layers.source) || !set_directory("lowerdir+", "lowerdir", layers.lower) ||
      !set_directory("upperdir", "upperdir", layers.upper) ||
      !set_directory("workdir", "workdir", layers.work) || !set("index", "off") ||
      (layers.user_xattrs &&
       fsconfig(context.get(), FSCONFIG_SET_FLAG, "userxattr", nullptr, 0) != 0) ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return failed();
  }
  Fd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, AttributesOf(flags)));
  if (!mount.valid()) return failed();
  return mount;
}

uint64_t MountIdAt(const std::string& path) {
  struct statx found = {};
  const int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW;
  if (statx(AT_FDCWD, path.c_str(), flags, STATX_MNT_ID, &found) < 0) return 0;
  return (found.stx_mask & STATX_MNT_ID) != 0 ? found.stx_mnt_id : 0;
}

MountKey KeyOf(const MountInfo& mount) { return {mount.id, mount.major, mount.minor}; }

absl::StatusOr<MountKey> KeyOf(const Fd& mount) {
  auto key = KeyIn(mount, "", AT_EMPTY_PATH);
  if (!key.has_value()) return ErrnoStatus(errno, "cannot identify the mount");
  return *key;
}

absl::Status BusyError(const std::string& directory) {
  return WithKind(
      absl::FailedPreconditionError(StrCat(
          directory, " is busy: a process has a file or its working directory there (fuser -vm ",
          directory, " lists them); end it, or unmount with --lazy")),
      FailureKind::kBusy);
}

absl::Status UnmountPath(const std::string& directory, bool lazy) {
  return UnmountAt(directory, directory, lazy);
}

absl::Status UnmountStack(const std::string& path) {
  while (IsMountPoint(path)) IMAGEFS_RETURN_IF_ERROR(UnmountPath(path, /*lazy=*/true));
  return absl::OkStatus();
}

absl::Status UnmountExactly(const MountKey& mount, std::string_view source,
                            const std::string& directory, bool lazy) {
  absl::Status status = UnmountIfAt(mount, directory, lazy);
  if (!absl::IsNotFound(status)) return status;
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> mounts, ReadMountInfo());
  const auto found = std::find_if(mounts.begin(), mounts.end(), [&](const MountInfo& other) {
    return KeyOf(other) == mount && IsOurs(other, source);
  });
  if (found == mounts.end()) return status;
  status = UnmountIfAt(mount, found->mount_point, lazy);
  if (!absl::IsNotFound(status)) return status;
  return WithKind(
      absl::FailedPreconditionError(StrCat("cannot unmount ", found->mount_point,
                                           ": another mount hides it; unmount that first")),
      FailureKind::kBusy);
}

bool SetReadAhead(const MountKey& mount, uint64_t bytes) {
  const std::string path =
      StrCat("/sys/class/bdi/", mount.major, ":", mount.minor, "/read_ahead_kb");
  auto file = OpenFile(path, O_WRONLY);
  return file.ok() && WriteFull(file->get(), StrCat(bytes / 1024)).ok();
}

}  // namespace imagefs
