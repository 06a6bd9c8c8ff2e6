// SPDX-License-Identifier: Apache-2.0
// The order of the mounts: a tmpfs over a directory of this machine has the directories for the
// image and the overlay. The image is mounted there and becomes the root of the namespace; the
// overlay covers it and becomes the root of the process. So the image stays mounted for as long as
// the namespace, which is what the daemon asks the kernel about, and a process that leaves its root
// sees nothing but the image.
#include "cmd/container_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <initializer_list>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cmd/mount_channel.h"
#include "cmd/rooted_path.h"
#include "fs/mount_syscalls.h"
#include "fs/overlay_upper.h"

namespace imagefs {
namespace {

constexpr unsigned kHarmless = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
constexpr unsigned kWithoutPrograms = kHarmless | MOUNT_ATTR_NOEXEC;

absl::Status SetAttributes(const Fd& mount, uint64_t attributes, bool recursive,
                           const std::string& shown) {
  mount_attr set = {};
  set.attr_set = attributes;
  const unsigned flags = AT_EMPTY_PATH | (recursive ? unsigned{AT_RECURSIVE} : 0);
  if (mount_setattr(mount.get(), "", flags, &set, sizeof(set)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, StrCat("cannot set the flags of ", shown));
}

// A copy of what is at the path, with the flags added.
absl::StatusOr<Fd> CloneTree(const std::string& path, bool recursive, uint64_t attributes) {
  Fd copy(
      open_tree(AT_FDCWD, path.c_str(),
                OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? unsigned{AT_RECURSIVE} : 0)));
  if (!copy.valid()) return ErrnoStatus(errno, path);
  if (attributes != 0) {
    IMAGEFS_RETURN_IF_ERROR(SetAttributes(copy, attributes, recursive, path));
  }
  return copy;
}

struct Option {
  const char* name;
  const char* value;
};
absl::StatusOr<Fd> NewMount(const char* type, std::initializer_list<Option> options,
                            unsigned attributes) {
  const auto failed = [type] { return ErrnoStatus(errno, StrCat("cannot mount ", type)); };
  const Fd context(fsopen(type, FSOPEN_CLOEXEC));
  if (!context.valid()) return failed();
  for (const Option& option : options) {
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, option.name, option.value, 0) != 0) {
      return failed();
    }
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return failed();
  Fd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!mount.valid()) return failed();
  return mount;
}

// Covers a file or a directory with nothing, if it exists.
absl::Status Hide(const Fd& root, const char* path) {
  const Fd place(openat(root.get(), path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!place.valid() || fstat(place.get(), &st) != 0) return absl::OkStatus();
  absl::StatusOr<Fd> nothing =
      S_ISDIR(st.st_mode) ? NewMount("tmpfs", {{"size", "0"}}, kWithoutPrograms | MOUNT_ATTR_RDONLY)
                          : CloneTree("/dev/null", false, 0);
  IMAGEFS_RETURN_IF_ERROR(nothing.status());
  return AttachMount(*nothing, place, path);
}

// Makes a part of a file system read-only, if it exists.
absl::Status Protect(const Fd& root, const char* path) {
  const Fd copy(openat(root.get(), path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!copy.valid()) return absl::OkStatus();
  const Fd part(open_tree(copy.get(), "",
                          AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!part.valid()) return ErrnoStatus(errno, path);
  IMAGEFS_RETURN_IF_ERROR(
      SetAttributes(part, MOUNT_ATTR_RDONLY | kWithoutPrograms, /*recursive=*/true, path));
  return AttachMount(part, copy, path);
}

// Overlays of a user namespace keep their records in user.*.
absl::Status CheckUserAttributes(const Fd& upper) {
  const std::string path = StrCat("/proc/self/fd/", upper.get());
  constexpr char kProbe[] = "user.imagefs.probe";
  if (setxattr(path.c_str(), kProbe, "y", 1, 0) == 0) {
    removexattr(path.c_str(), kProbe);
    return absl::OkStatus();
  }
  if (errno != EOPNOTSUPP) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this kernel's tmpfs keeps no attributes of users (Linux 6.6); run it with --keep DIR, or as "
      "root");
}

}  // namespace

absl::Status ContainerTree::OpenBind(const BindArg& bind) {
  const uint64_t attributes = kHarmless | (bind.read_only ? unsigned{MOUNT_ATTR_RDONLY} : 0);
  absl::StatusOr<Fd> mount = CloneTree(bind.source, /*recursive=*/true, attributes);
  if (!mount.ok()) return Annotate(mount.status(), "--bind");
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(*mount, bind.source));
  binds_.push_back({bind.destination, *std::move(mount), S_ISDIR(st.st_mode)});
  return absl::OkStatus();
}

absl::Status ContainerTree::Open() {
  // Nothing of this namespace may appear in another one.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoStatus(errno, "cannot make the mounts of the container private");
  }
  IMAGEFS_ASSIGN_OR_RETURN(old_root_, OpenFile("/", O_PATH | O_DIRECTORY));
  for (const BindArg& bind : options_.binds) IMAGEFS_RETURN_IF_ERROR(OpenBind(bind));
  for (const char* path : {"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"}) {
    absl::StatusOr<Fd> file =
        CloneTree(path, /*recursive=*/false, kWithoutPrograms | MOUNT_ATTR_RDONLY);
    if (file.ok()) files_.push_back({path, *std::move(file), false});
  }
  for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) {
    absl::StatusOr<Fd> device = CloneTree(StrCat("/dev/", name), /*recursive=*/false, 0);
    if (device.ok()) devices_.push_back({name, *std::move(device), false});
  }
  if (options_.terminal) {
    // By its path, since the descriptor is of another mount namespace.
    const char* const name = ttyname(STDIN_FILENO);
    absl::StatusOr<Fd> console = CloneTree(name == nullptr ? "" : name, /*recursive=*/false, 0);
    if (console.ok()) devices_.push_back({"console", *std::move(console), false});
  }
  // A user namespace may not uncover what is below the mounts that it was given.
  absl::StatusOr<Fd> sys = CloneTree("/sys", /*recursive=*/options_.user_namespace,
                                     kWithoutPrograms | MOUNT_ATTR_RDONLY);
  if (sys.ok()) sys_ = *std::move(sys);
  if (options_.keep.empty()) return absl::OkStatus();
  IMAGEFS_RETURN_IF_ERROR(Annotate(MakeDirs(options_.keep, 0700), "--keep"));
  IMAGEFS_ASSIGN_OR_RETURN(keep_lock_, OpenFile(options_.keep, O_RDONLY | O_DIRECTORY));
  if (flock(keep_lock_.get(), LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("--keep ", options_.keep, ": another run writes to it; wait for its end"));
}

absl::Status ContainerTree::MountImage(const Fd& channel, const std::string& run) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd below, OpenFile(run, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd parts, NewMount("tmpfs", {{"mode", "0755"}}, kHarmless));
  IMAGEFS_RETURN_IF_ERROR(AttachMount(parts, below, run));
  place_ = run;
  if (mkdirat(parts.get(), "image", 0755) != 0) return ErrnoStatus(errno, run);
  const Fd image(openat(parts.get(), "image", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!image.valid()) return ErrnoStatus(errno, run);
  ServeMount(channel, image, "the container");
  // Through the mount.
  image_ = Fd(openat(parts.get(), "image", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!image_.valid()) return ErrnoStatus(errno, "the image");
  return absl::OkStatus();
}

absl::Status ContainerTree::MakeOverlayHere() {
  struct stat st;
  if (fstat(image_.get(), &st) != 0) return ErrnoStatus(errno, "the root of the image");
  // Who owns the root in the image may have no number in this namespace.
  RootAttributes attributes = {st.st_uid, st.st_gid, st.st_mode & 07777, st.st_mtim};
  if (options_.user_namespace && !options_.all_ids) attributes.uid = attributes.gid = 0;
  std::string path = StrCat(place_, "/changes");
  if (!options_.keep.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(path, ResolveUpper(options_.keep));
  }
  IMAGEFS_ASSIGN_OR_RETURN(OverlayUpper upper, OverlayUpper::Open(path, {}, attributes));
  if (options_.user_namespace) IMAGEFS_RETURN_IF_ERROR(CheckUserAttributes(upper.upper()));
  MountFlags flags;
  flags.nodev = true;
  IMAGEFS_ASSIGN_OR_RETURN(root_, MakeOverlay({image_, upper.upper(), upper.work(), kOwnSource,
                                               /*user_xattrs=*/options_.user_namespace},
                                              flags, path));
  return AttachMount(root_, image_, "the image");
}

absl::Status ContainerTree::MountProc() {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd place, MakeRealDirInRoot(root_, "proc"));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd proc, NewMount("proc", {}, kWithoutPrograms));
  IMAGEFS_RETURN_IF_ERROR(AttachMount(proc, place, "/proc"));
  if (sys_.valid()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Fd sys_place, MakeRealDirInRoot(root_, "sys"));
    IMAGEFS_RETURN_IF_ERROR(AttachMount(sys_, sys_place, "/sys"));
  }
  // Root of a user namespace has no rights there that these would take away.
  if (options_.user_namespace) return absl::OkStatus();
  for (const char* path : {"acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug",
                           "scsi", "timer_list", "timer_stats", "interrupts"}) {
    IMAGEFS_RETURN_IF_ERROR(Hide(proc, path));
  }
  for (const char* path : {"bus", "fs", "irq", "sys", "sysrq-trigger"}) {
    IMAGEFS_RETURN_IF_ERROR(Protect(proc, path));
  }
  for (const char* path : {"firmware", "devices/virtual/powercap"}) {
    if (sys_.valid()) IMAGEFS_RETURN_IF_ERROR(Hide(sys_, path));
  }
  return absl::OkStatus();
}

absl::Status ContainerTree::MountDev() {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd place, MakeRealDirInRoot(root_, "dev"));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd dev, NewMount("tmpfs", {{"mode", "0755"}, {"size", "65536k"}},
                                                  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  IMAGEFS_RETURN_IF_ERROR(AttachMount(dev, place, "/dev"));
  for (const FromMachine& device : devices_) {
    const Fd node(openat(dev.get(), device.destination.c_str(),
                         O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!node.valid()) return ErrnoStatus(errno, "/dev");
    IMAGEFS_RETURN_IF_ERROR(AttachMount(device.mount, node, device.destination));
  }
  struct Link {
    const char *target, *name;
  };
  for (const Link& link : {Link{"/proc/self/fd", "fd"},
                           {"/proc/self/fd/0", "stdin"},
                           {"/proc/self/fd/1", "stdout"},
                           {"/proc/self/fd/2", "stderr"},
                           {"pts/ptmx", "ptmx"}}) {
    if (symlinkat(link.target, dev.get(), link.name) != 0) return ErrnoStatus(errno, "/dev");
  }
  // Group 5 is tty in every distribution.
  const char* const tty = options_.user_namespace && !options_.all_ids ? "0" : "5";
  IMAGEFS_ASSIGN_OR_RETURN(
      Fd pts, NewMount("devpts", {{"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", tty}},
                       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  IMAGEFS_ASSIGN_OR_RETURN(Fd shm, NewMount("tmpfs", {{"mode", "1777"}}, kWithoutPrograms));
  absl::StatusOr<Fd> queues = NewMount("mqueue", {}, kWithoutPrograms);
  const auto attach = [&dev](const Fd& mount, const char* name) -> absl::Status {
    if (mkdirat(dev.get(), name, 0755) != 0) return ErrnoStatus(errno, "/dev");
    const Fd there(openat(dev.get(), name, O_PATH | O_DIRECTORY | O_CLOEXEC));
    return AttachMount(mount, there, name);
  };
  IMAGEFS_RETURN_IF_ERROR(attach(pts, "pts"));
  IMAGEFS_RETURN_IF_ERROR(attach(shm, "shm"));
  return queues.ok() ? attach(*queues, "mqueue") : absl::OkStatus();
}

absl::Status ContainerTree::Bind(const FromMachine& from) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd place, from.directory
                                               ? MakeDirsInRoot(root_, from.destination)
                                               : MakeFileInRoot(root_, from.destination));
  return AttachMount(from.mount, place, from.destination);
}

absl::Status ContainerTree::Pivot() {
  const auto failed = [] { return ErrnoStatus(errno, "cannot enter the tree of the container"); };
  // The overlay on the image stays on it. Then the old root is on top of both, until it is gone.
  if (fchdir(image_.get()) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
      fchdir(old_root_.get()) != 0 || umount2(".", MNT_DETACH) != 0 || fchdir(root_.get()) != 0 ||
      chroot(".") != 0 || chdir("/") != 0) {
    return failed();
  }
  return absl::OkStatus();
}

absl::Status ContainerTree::Enter(const std::string& directory) {
  IMAGEFS_RETURN_IF_ERROR(MakeOverlayHere());
  // First what is made in the overlay: a bind could show a place of the machine below it.
  for (const FromMachine& file : files_) IMAGEFS_RETURN_IF_ERROR(Bind(file));
  IMAGEFS_RETURN_IF_ERROR(MountProc());
  IMAGEFS_RETURN_IF_ERROR(MountDev());
  for (const FromMachine& bind : binds_) IMAGEFS_RETURN_IF_ERROR(Bind(bind));
  IMAGEFS_RETURN_IF_ERROR(Annotate(MakeDirsInRoot(root_, directory).status(), "--workdir"));
  if (options_.read_only) {
    IMAGEFS_RETURN_IF_ERROR(SetAttributes(root_, MOUNT_ATTR_RDONLY, /*recursive=*/false, "/"));
  }
  return Pivot();
}

}  // namespace imagefs
