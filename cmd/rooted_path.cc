// SPDX-License-Identifier: Apache-2.0
#include "cmd/rooted_path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "absl/types/span.h"
#include "base/directory.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kInside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

Fd Open(const Fd& root, const std::string& path, int flags, uint64_t resolve) {
  return OpenAt2(root.get(), path, flags, resolve);
}

absl::Status Failed(int error, std::string_view path) {
  if (error == EXDEV) {
    return absl::FailedPreconditionError(StrCat(
        PrintableName(path), " is not there, and would be outside of the image's own tree (in ",
        "a bind, or behind a link), where nothing is made; make it first"));
  }
  if (error == ELOOP) {
    return absl::FailedPreconditionError(
        StrCat(PrintableName(path), ": links of the image lead nowhere, or out of it"));
  }
  return ErrnoStatus(error, StrCat(PrintableName(path), " in the image"));
}

}  // namespace

absl::StatusOr<Fd> MakeDirsInRoot(const Fd& root, const std::string& path) {
  Fd fd = Open(root, path, O_PATH | O_DIRECTORY, kInside);
  if (fd.valid()) return fd;
  if (errno != ENOENT) return Failed(errno, path);
  std::string made;
  fd = Open(root, "/", O_PATH | O_DIRECTORY, kInside);
  for (const std::string_view part : Split(path, '/')) {
    if (part.empty()) continue;
    const std::string name(part);
    StrAppend(&made, "/", name);
    Fd next = Open(root, made, O_PATH | O_DIRECTORY, kInside | RESOLVE_NO_XDEV);
    if (!next.valid() && errno == ENOENT) {
      if (mkdirat(fd.get(), name.c_str(), 0755) != 0) return Failed(errno, made);
      next = Open(root, made, O_PATH | O_DIRECTORY, kInside | RESOLVE_NO_XDEV);
    }
    if (!next.valid()) return Failed(errno, made);
    fd = std::move(next);
  }
  return fd;
}

absl::StatusOr<Fd> MakeRealDirInRoot(const Fd& root, const std::string& name) {
  constexpr uint64_t kReal = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
  if (mkdirat(root.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return Failed(errno, StrCat("/", name));
  }
  Fd fd = Open(root, name, O_PATH | O_DIRECTORY, kReal);
  if (fd.valid()) return fd;
  if (errno != ELOOP && errno != ENOTDIR) return Failed(errno, StrCat("/", name));
  return absl::FailedPreconditionError(
      StrCat("/", name, " is no directory in the image, but a link or a file; it cannot be run"));
}

absl::StatusOr<Fd> MakeFileInRoot(const Fd& root, const std::string& path) {
  Fd fd = Open(root, path, O_PATH, kInside);
  if (!fd.valid()) {
    if (errno != ENOENT) return Failed(errno, path);
    const std::string name = path.substr(path.rfind('/') + 1);
    IMAGEFS_RETURN_IF_ERROR(MakeDirsInRoot(root, ParentOf(path)).status());
    const Fd parent = Open(root, ParentOf(path), O_PATH | O_DIRECTORY, kInside | RESOLVE_NO_XDEV);
    if (!parent.valid()) return Failed(errno, path);
    struct stat st;
    if (fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
      unlinkat(parent.get(), name.c_str(), 0);
    }
    fd = Fd(openat(parent.get(), name.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   0644));
    if (!fd.valid()) return Failed(errno, path);
  }
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return Failed(errno, path);
  if (S_ISDIR(st.st_mode)) return Failed(EISDIR, path);
  return fd;
}

absl::StatusOr<std::string> ReadInRoot(const Fd& root, const std::string& path,
                                       uint64_t max_bytes) {
  const Fd fd = Open(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, kInside);
  if (!fd.valid() && (errno == ENOENT || errno == ENOTDIR)) return "";
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) != 0) return Failed(errno, path);
  if (!S_ISREG(st.st_mode)) return Failed(EINVAL, path);
  if (static_cast<uint64_t>(st.st_size) > max_bytes) return Failed(EFBIG, path);
  std::string out(static_cast<size_t>(st.st_size), '\0');
  IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                           PreadFull(fd.get(), absl::MakeSpan(out.data(), out.size()), 0));
  out.resize(got);
  return out;
}

}  // namespace imagefs
