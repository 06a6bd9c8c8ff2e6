// SPDX-License-Identifier: Apache-2.0
#include "cmd/tree_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/directory.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

absl::Status OutOfOrder() {
  return absl::DataLossError("the daemon sent files in an impossible order or by impossible names");
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

// Splits an absolute path into its directory ("/" for "/a") and its name.
std::pair<std::string, std::string> SplitPath(const std::string& path) {
  const size_t slash = path.rfind('/');
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

TreeWriter::TreeWriter(Fd directory, std::string name, std::string shown)
    : name_(std::move(name)), shown_(std::move(shown)), top_(std::move(directory)) {}

TreeWriter::~TreeWriter() {
  if (pending_ == nullptr) return;
  const int parent = open_.empty() ? top_.get() : open_.back().fd.get();
  (void)unlinkat(parent, pending_->temporary.c_str(), 0);
}

// Returns the path of an entry below the first one, "" for that one.
std::string TreeWriter::RelativePath(std::string_view path) const {
  return std::string(path.substr(std::min(path.size(), root_ == "/" ? 1 : root_.size() + 1)));
}

// Returns the path on this machine.
std::string TreeWriter::Shown(std::string_view path) const {
  const std::string below = RelativePath(path);
  std::string out = shown_;
  for (const std::string_view part : {std::string_view(name_), std::string_view(below)}) {
    if (!part.empty()) StrAppend(&out, out.ends_with('/') ? "" : "/", part);
  }
  return PrintableName(out);
}

bool TreeWriter::Lost(int error_number, const std::string& what) {
  const bool lost = error_number == EPERM || error_number == EACCES || error_number == EINVAL ||
                    error_number == EOPNOTSUPP || error_number == ENOSYS;
  if (lost) ++not_kept_[what];
  return lost;
}

absl::Status TreeWriter::Add(const FileEntry& entry) {
  IMAGEFS_RETURN_IF_ERROR(EndFile());
  if (!entry.path().starts_with('/')) return OutOfOrder();
  if (!std::exchange(begun_, true)) {
    root_ = entry.path();
    if (S_ISDIR(entry.mode())) return AddDirectory(entry, name_);
    return name_.empty() ? OutOfOrder() : MakeFile(entry, name_);
  }
  const auto [directory, name] = SplitPath(entry.path());
  IMAGEFS_RETURN_IF_ERROR(Leave(directory));
  if (open_.empty() || !IsName(name)) return OutOfOrder();
  return S_ISDIR(entry.mode()) ? AddDirectory(entry, name) : MakeFile(entry, name);
}

// Ends the directories that `path` is not in.
absl::Status TreeWriter::Leave(std::string_view path) {
  while (!open_.empty() && open_.back().path != path) {
    const Open& last = open_.back();
    if (last.keep) {
      IMAGEFS_RETURN_IF_ERROR(SetAttributes(last.entry, -1, "", last.fd.get()));
    }
    open_.pop_back();
  }
  return absl::OkStatus();
}

absl::Status TreeWriter::AddDirectory(const FileEntry& entry, const std::string& name) {
  Open directory;
  directory.path = entry.path();
  if (name.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(directory.fd, top_.Duplicate());
    directory.keep = false;
  } else {
    const Fd& parent = open_.empty() ? top_ : open_.back().fd;
    IMAGEFS_ASSIGN_OR_RETURN(MadeDir made, MakeDirIn(parent, name, 0700, Shown(entry.path())));
    directory.fd = std::move(made.fd);
    directory.entry = entry;
    ++files_;
  }
  open_.push_back(std::move(directory));
  return absl::OkStatus();
}

absl::Status TreeWriter::MakeFile(const FileEntry& entry, const std::string& name) {
  auto file = std::make_unique<Pending>();
  file->entry = entry;
  file->name = name;
  file->temporary = StrCat(".imagefs-cp-", RandomHex(8));
  file->bytes = AnnouncedBytes(entry);
  Fd fd;
  const absl::Status created = Create(*file, &fd);
  // Only root may make device nodes; the rest of the tree is worth having.
  if (absl::IsPermissionDenied(created) && (S_ISCHR(entry.mode()) || S_ISBLK(entry.mode())) &&
      Lost(EPERM, "device nodes, which were left out")) {
    return absl::OkStatus();
  }
  IMAGEFS_RETURN_IF_ERROR(created);
  file->fd = std::move(fd);
  pending_ = std::move(file);
  ++files_;
  return absl::OkStatus();
}

absl::Status TreeWriter::Create(const Pending& file, Fd* fd) {
  const FileEntry& entry = file.entry;
  const int parent = open_.empty() ? top_.get() : open_.back().fd.get();
  const char* const name = file.temporary.c_str();
  if (!entry.hard_link_to().empty()) return LinkTo(entry, file.temporary);
  int result = 0;
  if (S_ISREG(entry.mode())) {
    *fd = Fd(openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    result = fd->valid() ? 0 : -1;
  } else if (S_ISLNK(entry.mode())) {
    result = symlinkat(entry.target().c_str(), parent, name);
  } else {
    result = mknodat(parent, name, (entry.mode() & S_IFMT) | 0600,
                     makedev(entry.rdev_major(), entry.rdev_minor()));
  }
  return result == 0 ? absl::OkStatus() : ErrnoStatus(errno, Shown(entry.path()));
}

// Links the copy of an earlier entry, whose directories are opened anew.
absl::Status TreeWriter::LinkTo(const FileEntry& entry, const std::string& temporary) {
  const int parent = open_.empty() ? top_.get() : open_.back().fd.get();
  std::string below = RelativePath(entry.hard_link_to());
  if (!name_.empty()) below = StrCat(name_, "/", below);
  IMAGEFS_ASSIGN_OR_RETURN(Fd at, top_.Duplicate());
  const std::vector<std::string_view> names = Split(below, '/');
  for (size_t i = 0; i < names.size(); ++i) {
    if (!IsName(names[i])) return OutOfOrder();
    const std::string one(names[i]);
    if (i + 1 == names.size()) {
      if (linkat(at.get(), one.c_str(), parent, temporary.c_str(), 0) == 0) break;
      return ErrnoStatus(errno, Shown(entry.path()));
    }
    Fd next(openat(at.get(), one.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) return ErrnoStatus(errno, Shown(entry.hard_link_to()));
    at = std::move(next);
  }
  return absl::OkStatus();
}

absl::Status TreeWriter::Write(const control::v1::FileData& data) {
  if (pending_ == nullptr) return OutOfOrder();
  IMAGEFS_RETURN_IF_ERROR(pending_->bytes.Take(data));
  bytes_ += data.bytes().size();
  return Annotate(PwriteFull(pending_->fd.get(), data.bytes(), data.offset()),
                  Shown(pending_->entry.path()));
}

absl::Status TreeWriter::EndFile() {
  if (pending_ == nullptr) return absl::OkStatus();
  const Pending& file = *pending_;
  const FileEntry& entry = file.entry;
  const int parent = open_.empty() ? top_.get() : open_.back().fd.get();
  IMAGEFS_RETURN_IF_ERROR(file.bytes.CheckEnd());
  if (file.fd.valid() && ftruncate(file.fd.get(), static_cast<off_t>(entry.size())) != 0) {
    return ErrnoStatus(errno, Shown(entry.path()));
  }
  if (entry.hard_link_to().empty()) {
    IMAGEFS_RETURN_IF_ERROR(SetAttributes(entry, parent, file.temporary, file.fd.get()));
  }
  if (renameat(parent, file.temporary.c_str(), parent, file.name.c_str()) != 0) {
    return ErrnoStatus(errno, Shown(entry.path()));
  }
  // Where both names were links to one file already, rename(2) leaves both.
  (void)unlinkat(parent, file.temporary.c_str(), 0);
  pending_.reset();
  return absl::OkStatus();
}

// Of the open file, or of `name` in `directory`, which is not followed.
absl::Status TreeWriter::SetAttributes(const FileEntry& entry, int directory,
                                       const std::string& name, int fd) {
  const bool opened = fd >= 0;
  const std::string shown = Shown(entry.path());
  const char* const path = opened ? "" : name.c_str();
  const int at = opened ? fd : directory;
  mode_t mode = entry.mode() & 07777;
  if (fchownat(at, path, entry.uid(), entry.gid(), AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    if (!Lost(errno, "owners")) return ErrnoStatus(errno, shown);
    // Another owner must not get the rights of the image's.
    mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
  }
  if (!S_ISLNK(entry.mode())) {
    const int result = opened ? fchmod(fd, mode) : fchmodat(directory, path, mode, 0);
    if (result != 0) return ErrnoStatus(errno, shown);
  }
  IMAGEFS_RETURN_IF_ERROR(SetXattrs(entry, at, name, opened));
  const timespec times[] = {
      {0, UTIME_OMIT},
      {static_cast<time_t>(entry.mtime_seconds()), static_cast<long>(entry.mtime_nanoseconds())}};
  const int result =
      opened ? futimens(fd, times) : utimensat(directory, path, times, AT_SYMLINK_NOFOLLOW);
  if (result != 0 && !Lost(errno, "times")) return ErrnoStatus(errno, shown);
  return absl::OkStatus();
}

// There is no setxattr(2) relative to a directory: /proc leads to the open one.
absl::Status TreeWriter::SetXattrs(const FileEntry& entry, int at, const std::string& name,
                                   bool opened) {
  const std::string path = StrCat("/proc/self/fd/", at, opened ? "" : "/", opened ? "" : name);
  const auto set = opened ? &setxattr : &lsetxattr;
  for (const FileEntry::Xattr& xattr : entry.xattrs()) {
    const std::string& value = xattr.value();
    if (set(path.c_str(), xattr.name().c_str(), value.data(), value.size(), 0) == 0) continue;
    if (Lost(errno, StrCat("attributes ", Printable(xattr.name(), 60)))) continue;
    return ErrnoStatus(errno, Shown(entry.path()));
  }
  return absl::OkStatus();
}

absl::Status TreeWriter::Finish() {
  IMAGEFS_RETURN_IF_ERROR(EndFile());
  return Leave("");
}

}  // namespace imagefs
