// SPDX-License-Identifier: Apache-2.0
#include "fs/erofs_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "absl/cleanup/cleanup.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fs/loop_devices.h"
#include "image/erofs_writer.h"
#include "image/tree.h"

namespace imagefs {
namespace {

// Returns the kernel's messages about a rejected mount ("e cannot find dev..."), one per line.
std::string KernelMessages(int context) {
  std::string out;
  char line[1024];
  for (int i = 0; i < 8; ++i) {
    const ssize_t size = read(context, line, sizeof(line));
    if (size <= 0) break;
    std::string_view text(line, static_cast<size_t>(size));
    if (text.size() > 2 && text[1] == ' ') text.remove_prefix(2);  // the level
    while (text.ends_with('\n')) text.remove_suffix(1);
    StrAppend(&out, "; the kernel says: ", Printable(text));
  }
  return out;
}

absl::Status Refused(int error, int context, std::string_view what) {
  std::string hint;
  if (error == ENODEV) hint = "; load the module (modprobe erofs)";
  if (error == ENOTBLK) {
    hint = "; Linux mounts EROFS from files since 6.12, but not from files on tmpfs";
  }
  if (error == EPERM) hint = "; mounting needs CAP_SYS_ADMIN";
  return absl::FailedPreconditionError(
      StrCat(what, ": ", strerror(error), context < 0 ? "" : KernelMessages(context), hint));
}

// Mounts `source` with its devices, which are files or block devices. `index` leads to its index.
absl::StatusOr<Fd> MountThese(const ErofsSource& source, const std::string& index) {
  const Fd context(fsopen("erofs", FSOPEN_CLOEXEC));
  if (!context.valid()) return Refused(errno, -1, "the kernel's EROFS cannot be used");
  const auto set = [&](const char* key, const std::string& value) -> absl::Status {
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0) {
      return absl::OkStatus();
    }
    return Refused(errno, context.get(), StrCat("EROFS rejects the ", key, " ", value));
  };
  IMAGEFS_RETURN_IF_ERROR(set("source", index));
  for (const std::string& device : source.devices) IMAGEFS_RETURN_IF_ERROR(set("device", device));
  if (!source.context.empty()) IMAGEFS_RETURN_IF_ERROR(set("context", source.context));
  // Otherwise the kernel opens a block device for writing.
  if (fsconfig(context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0) {
    return Refused(errno, context.get(), "EROFS rejects the read-only flag");
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return Refused(errno, context.get(), StrCat("the kernel cannot mount ", source.index));
  }
  Fd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY));
  if (!mount.valid()) return Refused(errno, context.get(), StrCat("cannot mount ", source.index));
  return mount;
}

// Gives this thread a working directory of its own, in which the relative path `name` is a link to
// `target`. It lies in a file system that nobody else sees and that ends with `out` and the thread,
// so that names cannot collide, and a killed daemon leaves nothing behind.
absl::Status EnterDirectoryWith(const std::string& name, const std::string& target, Fd& out) {
  const auto failed = [] { return ErrnoStatus(errno, "no directory for the name of a source"); };
  const Fd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.valid() || fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return failed();
  }
  out = Fd(fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!out.valid()) return failed();
  for (size_t slash = name.find('/'); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    if (mkdirat(out.get(), name.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST) {
      return failed();
    }
  }
  if (symlinkat(target.c_str(), out.get(), name.c_str()) != 0 || unshare(CLONE_FS) != 0 ||
      fchdir(out.get()) != 0) {
    return failed();
  }
  return absl::OkStatus();
}

// The kernel opens the source when the file system is made, relative to the calling thread's
// working directory, and keeps the string.
absl::StatusOr<Fd> MountNamed(const ErofsSource& source) {
  if (source.shown.empty()) return MountThese(source, source.index);
  absl::StatusOr<Fd> mount = absl::UnknownError("");
  std::thread([&] {
    EnterThread(ThreadRole::kBrief);
    Fd directory;
    const absl::Status named = EnterDirectoryWith(source.shown, source.index, directory);
    if (!named.ok()) {
      LogWarning("source_not_shown source=", source.shown, " error=", named.message());
    }
    mount = MountThese(source, named.ok() ? source.shown : source.index);
  }).join();
  return mount;
}

// The kernel mounts a device once and returns the same file system for later mounts, whatever their
// options. So each mount gets its own device for the index; only the data devices are shared.
absl::StatusOr<Fd> MountLoopDevices(const ErofsSource& source) {
  IMAGEFS_ASSIGN_OR_RETURN(const LoopDevices index, MakeLoopDevice(source.index));
  IMAGEFS_ASSIGN_OR_RETURN(const LoopDevices data, ShareLoopDevices(source.devices));
  // Left behind by a killed daemon.
  if (unlink(source.link.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, source.link);
  if (symlink(index.paths[0].c_str(), source.link.c_str()) != 0) {
    return ErrnoStatus(errno, source.link);
  }
  const absl::Cleanup remove = [&] { unlink(source.link.c_str()); };
  return MountNamed({source.link, data.paths, source.context, "", source.shown});
}

// Writes a tree with one file, "file".
absl::Status WriteProbe(const std::string& directory, const std::string& content,
                        const ErofsSource& source) {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  Tree tree;
  Inode file;
  file.mode = S_IFREG | 0644;
  file.size = content.size();
  const InodeId id = tree.NewInode(file);
  tree.SetExtents(id, {{0, 0, content.size(), 1}});
  tree.Link(Tree::kRoot, "file", id);
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(source.index, O_CREAT | O_RDWR));
  IMAGEFS_RETURN_IF_ERROR(
      WriteErofs(tree, {.devices = {{std::string(64, '0'), content.size()}}}, index.get()));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(source.devices[0], O_CREAT | O_WRONLY));
  return PwriteFull(data.get(), content, 0);
}

absl::Status TryToRead(const ErofsSource& source, ErofsWay way, const std::string& content) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd mount, MountErofs(source, way));
  // Read through the detached mount: mounting is not enough if the kernel cannot read a device.
  const Fd opened(openat(mount.get(), "file", O_RDONLY | O_CLOEXEC));
  std::string got(content.size(), '\0');
  if (!opened.valid() ||
      read(opened.get(), got.data(), got.size()) != static_cast<ssize_t>(content.size()) ||
      got != content) {
    return absl::FailedPreconditionError("the kernel mounts an EROFS image but cannot read it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fd> MountErofs(const ErofsSource& source, ErofsWay way) {
  return way == ErofsWay::kFiles ? MountNamed(source) : MountLoopDevices(source);
}

absl::StatusOr<ErofsWay> ProbeErofs(const std::string& scratch, const ErofsWays& ways) {
  const std::string directory = StrCat(scratch, "/probe-", RandomHex(8));
  absl::Cleanup remove = [&] { RemoveTree(directory).IgnoreError(); };
  const std::string content(512, 'x');
  ErofsSource source;
  source.index = directory + "/index";
  source.devices = {directory + "/data"};
  source.link = directory + "/link";
  const absl::Status written = WriteProbe(directory, content, source);
  if (absl::IsResourceExhausted(written) || absl::IsFailedPrecondition(written)) {
    // The disk is full or read-only, which says nothing about the kernel. The first mount will
    // show.
    LogWarning("erofs_not_probed cause=", written.message());
    return ways.files ? ErofsWay::kFiles : ErofsWay::kLoopDevices;
  }
  IMAGEFS_RETURN_IF_ERROR(written);
  const absl::Status by_files = ways.files ? TryToRead(source, ErofsWay::kFiles, content)
                                           : absl::FailedPreconditionError("files are not tried");
  if (by_files.ok()) return ErofsWay::kFiles;
  if (!ways.loop_devices) {
    return absl::FailedPreconditionError(
        StrCat(ToStd(by_files.message()), "; loop devices are switched off (mount.loop_devices)"));
  }
  const absl::Status by_devices = TryToRead(source, ErofsWay::kLoopDevices, content);
  if (!by_devices.ok()) {
    return absl::FailedPreconditionError(
        StrCat(ToStd(by_files.message()), "; by loop devices: ", ToStd(by_devices.message())));
  }
  LogInfo("kernel_presentation by=loop_devices not_by_files=", by_files.message());
  return ErofsWay::kLoopDevices;
}

}  // namespace imagefs
