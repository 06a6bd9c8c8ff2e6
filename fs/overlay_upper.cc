// SPDX-License-Identifier: Apache-2.0
#include "fs/overlay_upper.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "fs/mount_target.h"

namespace imagefs {
namespace {

absl::Status ForeignError(const std::string& path) {
  return absl::FailedPreconditionError(
      StrCat(path,
             " already exists and belongs to another user; remove it, or choose an --upper that "
             "only root can write to"));
}

absl::Status SetAttributes(const Fd& fd, const RootAttributes& root, const std::string& shown) {
  const timespec times[2] = {root.mtime, root.mtime};
  const bool owned = fchown(fd.get(), root.uid, root.gid) == 0 || !IsMachineRoot();
  if (!owned || fchmod(fd.get(), root.mode & 07777) != 0 || futimens(fd.get(), times) != 0) {
    return ErrnoStatus(errno, StrCat("cannot prepare ", shown));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ResolveUpper(const std::string& asked) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(asked, "--upper"));
  if (!asked.starts_with('/')) {
    return absl::InvalidArgumentError(StrCat(PrintableName(asked), " is not an absolute path"));
  }
  std::string there = asked, missing;
  while (true) {
    absl::StatusOr<Fd> place = OpenPlace(there);
    if (place.ok()) {
      IMAGEFS_RETURN_IF_ERROR(CheckOrdinary(*place, asked));
      // Not moved out: GCC for arm64 would warn about an uninitialized string.
      const absl::StatusOr<std::string> path = PathOf(*place, asked);
      if (!path.ok()) return path.status();
      const std::string whole =
          StrCat(*path == "/" ? "" : *path, missing.empty() && *path == "/" ? "/" : missing);
      IMAGEFS_RETURN_IF_ERROR(CheckResolved(whole, "--upper"));
      return whole;
    }
    const size_t slash = there.rfind('/');
    if (!absl::IsNotFound(place.status()) || there.size() == 1) return place.status();
    missing = there.substr(slash) + missing;
    there = ParentOf(there);
  }
}

absl::StatusOr<OverlayUpper> OverlayUpper::Open(const std::string& path, const UpperIds& expected,
                                                const RootAttributes& root) {
  OverlayUpper out;
  absl::Status status = out.OpenDirectory(path, /*make=*/!expected.directory.known());
  if (status.ok()) status = out.OpenParts(path, root);
  if (status.ok() &&
      !(expected.directory.Allows(out.ids_.directory) && expected.upper.Allows(out.ids_.upper) &&
        expected.work.Allows(out.ids_.work))) {
    status = absl::FailedPreconditionError(StrCat(
        path, " does not have the directories in which the changes of the mount were; it was ",
        "replaced, and is left unchanged"));
  }
  if (status.ok()) return out;
  out.Undo();
  return status;
}

absl::Status OverlayUpper::OpenDirectory(const std::string& path, bool make) {
  IMAGEFS_ASSIGN_OR_RETURN(directory_, OpenFile("/", O_PATH | O_DIRECTORY));
  std::string shown;
  for (const std::string_view part : Split(std::string_view(path).substr(1), '/')) {
    if (part.empty()) continue;
    const std::string name(part);
    StrAppend(&shown, "/", name);
    Fd next(openat(directory_.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid() && errno == ENOENT && !make) {
      return absl::NotFoundError(StrCat(
          path, ", where the changes of the mount are, does not exist (", shown, " is missing)"));
    }
    if (!next.valid() && errno == ENOENT) {
      IMAGEFS_RETURN_IF_ERROR(CheckOrdinary(directory_, path));
      IMAGEFS_ASSIGN_OR_RETURN(MadeDir made, MakeDirIn(directory_, name, 0700, shown));
      if (made.created) {
        IMAGEFS_ASSIGN_OR_RETURN(Fd parent, directory_.Duplicate());
        made_.push_back({std::move(parent), name});
      }
      next = std::move(made.fd);
    }
    if (!next.valid()) {
      if (errno != ENOTDIR && errno != ELOOP) return ErrnoStatus(errno, shown);
      return absl::FailedPreconditionError(StrCat(
          shown, ": a symbolic link or not a directory; it may have been replaced meanwhile"));
    }
    directory_ = std::move(next);
  }
  return CheckOrdinary(directory_, path);
}

absl::Status OverlayUpper::OpenParts(const std::string& path, const RootAttributes& root) {
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat dir, StatFd(directory_, path));
  ids_.directory = IdOf(dir);
  const uid_t self = geteuid();
  // In that case nobody else can have created anything there.
  const bool own = dir.st_uid == self && (dir.st_mode & 022) == 0;

  const std::string upper = path + "/upper", work = path + "/work";
  IMAGEFS_ASSIGN_OR_RETURN(MadeDir made_work, MakeDirIn(directory_, "work", 0700, work));
  work_ = std::move(made_work.fd);
  made_work_ = made_work.created;
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat work_is, StatFd(work_, work));
  if (!own && (work_is.st_uid != self || (work_is.st_mode & 022) != 0)) return ForeignError(work);
  ids_.work = IdOf(work_is);

  IMAGEFS_ASSIGN_OR_RETURN(MadeDir made_upper, MakeDirIn(directory_, "upper", 0700, upper));
  upper_ = std::move(made_upper.fd);
  made_upper_ = made_upper.created;
  if (made_upper_) IMAGEFS_RETURN_IF_ERROR(SetAttributes(upper_, root, upper));
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat upper_is, StatFd(upper_, upper));
  if (!own && upper_is.st_uid != self && upper_is.st_uid != root.uid) return ForeignError(upper);
  ids_.upper = IdOf(upper_is);
  return absl::OkStatus();
}

void OverlayUpper::Undo() {
  // The contents are removed through the descriptor; removal by name can only hit an empty
  // directory.
  const auto remove = [&](bool made, Fd& fd, const char* name) {
    if (!made || !fd.valid()) return;
    absl::Status status = EmptyFolder(fd, name);
    if (status.ok() && unlinkat(directory_.get(), name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
      status = ErrnoStatus(errno, name);
    }
    if (!status.ok()) LogWarning("upper_not_removed cause=", status.message());
  };
  remove(std::exchange(made_upper_, false), upper_, "upper");
  remove(std::exchange(made_work_, false), work_, "work");
  for (auto made = made_.rbegin(); made != made_.rend(); ++made) {
    if (unlinkat(made->parent.get(), made->name.c_str(), AT_REMOVEDIR) != 0) break;
  }
  made_.clear();
}

}  // namespace imagefs
