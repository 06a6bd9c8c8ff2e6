// SPDX-License-Identifier: Apache-2.0
#include "fetch/archive_source.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxMembers = 200'000;
constexpr size_t kMaxNameBytes = 4096;
constexpr int kMaxLinks = 40;  // the kernel's limit
constexpr size_t kBlockBytes = 64 << 10;

absl::Status NoSuchFile(const std::string& path, std::string_view name) {
  return absl::NotFoundError(StrCat(path, ": there is no ", Printable(name), " in it"));
}

// Resolves `name` against the directory `base`, removing ".", ".." and empty parts; nullopt if it
// leads above the root.
std::optional<std::string> CleanName(std::string_view base, std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::string_view text : {name.starts_with('/') ? std::string_view() : base, name}) {
    for (std::string_view part : Split(text, '/')) {
      if (part.empty() || part == ".") continue;
      if (part != "..") {
        parts.push_back(part);
      } else if (parts.empty()) {
        return std::nullopt;
      } else {
        parts.pop_back();
      }
    }
  }
  std::string out;
  for (std::string_view part : parts) StrAppend(&out, out.empty() ? "" : "/", part);
  return out;
}

class DirectoryFiles : public NamedFiles {
 public:
  DirectoryFiles(std::string path, Fd directory)
      : NamedFiles(std::move(path)), directory_(std::move(directory)) {}

  absl::StatusOr<LocalBlob> Open(std::string_view name) const override {
    const std::optional<std::string> clean = CleanName("", name);
    if (!clean || clean->empty()) return NoSuchFile(path(), name);
    // Non-blocking, in case the name is a FIFO.
    Fd fd(openat(directory_.get(), clean->c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid() && errno == ENOENT) return NoSuchFile(path(), name);
    if (!fd.valid()) return ErrnoStatus(errno, StrCat(path(), "/", Printable(*clean)));
    struct stat st;
    if (fstat(fd.get(), &st) != 0) {
      return ErrnoStatus(errno, StrCat(path(), "/", Printable(*clean)));
    }
    if (!S_ISREG(st.st_mode)) {
      return absl::InvalidArgumentError(
          StrCat(path(), "/", Printable(*clean), " is not a regular file"));
    }
    return LocalBlob{std::move(fd), 0, static_cast<uint64_t>(st.st_size)};
  }

 private:
  const Fd directory_;
};

struct Member {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool is_link = false;
  std::optional<std::string> target;  // clean name of a link's target; none if it leads outside
};
using Members = absl::flat_hash_map<std::string, Member>;

class ArchiveFiles : public NamedFiles {
 public:
  ArchiveFiles(std::string path, Fd fd, Members members)
      : NamedFiles(std::move(path)), fd_(std::move(fd)), members_(std::move(members)) {}

  absl::StatusOr<LocalBlob> Open(std::string_view name) const override {
    std::optional<std::string> at = CleanName("", name);
    for (int followed = 0; followed <= kMaxLinks; ++followed) {
      if (!at) {
        return absl::InvalidArgumentError(
            StrCat(path(), ": ", Printable(name), " leads out of the archive"));
      }
      const auto found = members_.find(*at);
      if (found == members_.end()) return NoSuchFile(path(), name);
      const Member& member = found->second;
      if (member.is_link) {
        at = member.target;
        continue;
      }
      absl::StatusOr<Fd> fd = fd_.Duplicate();
      if (!fd.ok()) return Annotate(fd.status(), path());
      return LocalBlob{*std::move(fd), member.offset, member.length};
    }
    return absl::InvalidArgumentError(
        StrCat(path(), ": ", Printable(name), " is a loop of symbolic links"));
  }

 private:
  const Fd fd_;
  const Members members_;
};

// Reads the archive's headers and skips the contents.
class Scanner {
 public:
  Scanner(const std::string& path, int fd, uint64_t size) : path_(path), fd_(fd), size_(size) {}
  Scanner(const Scanner&) = delete;
  Scanner& operator=(const Scanner&) = delete;
  ~Scanner() {
    if (archive_ != nullptr) archive_read_free(archive_);
  }

  absl::StatusOr<Members> Run() {
    IMAGEFS_RETURN_IF_ERROR(RefuseCompressed());
    archive_ = archive_read_new();
    if (archive_ == nullptr) return absl::ResourceExhaustedError("out of memory");
    archive_read_support_format_tar(archive_);
    archive_read_set_read_callback(archive_, &Scanner::OnRead);
    archive_read_set_skip_callback(archive_, &Scanner::OnSkip);
    archive_read_set_callback_data(archive_, this);
    if (archive_read_open1(archive_) != ARCHIVE_OK) return NoArchive();
    while (true) {
      struct archive_entry* entry = nullptr;
      const int result = archive_read_next_header(archive_, &entry);
      if (result != ARCHIVE_OK && result != ARCHIVE_WARN && result != ARCHIVE_EOF) {
        return NoArchive();
      }
      // The contents of the previous member end at this header.
      IMAGEFS_RETURN_IF_ERROR(FinishMember(archive_read_header_position(archive_)));
      if (result == ARCHIVE_EOF) break;
      IMAGEFS_RETURN_IF_ERROR(AddMember(entry));
    }
    return std::move(members_);
  }

 private:
  static la_ssize_t OnRead(struct archive* archive, void* self_pointer, const void** buffer) {
    Scanner* self = static_cast<Scanner*>(self_pointer);
    absl::StatusOr<size_t> got = PreadFull(self->fd_, absl::MakeSpan(self->buffer_), self->at_);
    if (!got.ok()) {
      archive_set_error(archive, EIO, "read error");
      return -1;
    }
    self->at_ += *got;
    *buffer = self->buffer_.data();
    return static_cast<la_ssize_t>(*got);
  }

  static la_int64_t OnSkip(struct archive*, void* self_pointer, la_int64_t request) {
    Scanner* self = static_cast<Scanner*>(self_pointer);
    if (request <= 0 || self->at_ >= self->size_) return 0;
    const uint64_t skipped = std::min(static_cast<uint64_t>(request), self->size_ - self->at_);
    self->at_ += skipped;
    return static_cast<la_int64_t>(skipped);
  }

  absl::Status NoArchive() const {
    const char* why = archive_error_string(archive_);
    return absl::InvalidArgumentError(StrCat(
        path_, ": not a tar archive, or damaged", why == nullptr ? "" : " (",
        Printable(why == nullptr ? "" : why), why == nullptr ? "" : ")", "; save the image again"));
  }

  absl::Status RefuseCompressed() const {
    char head[6] = {};
    IMAGEFS_ASSIGN_OR_RETURN(size_t got, PreadFull(fd_, absl::MakeSpan(head), 0));
    const std::string_view magic(head, got);
    const char* program = magic.starts_with("\x1f\x8b")           ? "gunzip"
                          : magic.starts_with("\x28\xb5\x2f\xfd") ? "unzstd"
                          : magic.starts_with(
                                "\xfd"
                                "7zXZ")
                              ? "unxz"
                          : magic.starts_with("BZh") ? "bunzip2"
                                                     : nullptr;
    if (program == nullptr) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat(path_, ": the archive is compressed; unpack it with ",
                                             program, " and use the plain tar"));
  }

  absl::Status AddMember(struct archive_entry* entry) {
    const char* name = archive_entry_pathname(entry);
    if (name == nullptr || std::string_view(name).size() > kMaxNameBytes) return absl::OkStatus();
    // A member whose name leads outside is ignored.
    std::optional<std::string> clean = CleanName("", name);
    if (!clean || clean->empty()) return absl::OkStatus();
    const char* hard_link = archive_entry_hardlink(entry);
    Member member;
    if (hard_link != nullptr) {
      member.is_link = true;
      member.target = CleanName("", hard_link);
    } else if (archive_entry_filetype(entry) == AE_IFLNK) {
      const char* target = archive_entry_symlink(entry);
      const size_t slash = clean->rfind('/');
      member.is_link = true;
      member.target = CleanName(slash == std::string::npos ? "" : clean->substr(0, slash),
                                target == nullptr ? "" : target);
    } else if (archive_entry_filetype(entry) == AE_IFREG &&
               archive_entry_sparse_count(entry) == 0) {
      if (archive_entry_size(entry) < 0) return NoArchive();
      member.length = static_cast<uint64_t>(archive_entry_size(entry));
      open_member_ = *clean;
    } else {
      return absl::OkStatus();
    }
    if (member.target && member.target->size() > kMaxNameBytes) member.target.reset();
    if (members_.size() >= kMaxMembers) {
      return absl::InvalidArgumentError(
          StrCat(path_, ": the archive has more than ", kMaxMembers, " members"));
    }
    members_[*std::move(clean)] = std::move(member);
    return absl::OkStatus();
  }

  // `end` is the position after the padded contents of the last member added.
  absl::Status FinishMember(la_int64_t end) {
    if (!open_member_) return absl::OkStatus();
    Member& member = members_[*open_member_];
    open_member_.reset();
    const uint64_t padded = (member.length + 511) / 512 * 512;
    if (end < 0 || static_cast<uint64_t>(end) < padded ||
        static_cast<uint64_t>(end) - padded > size_ ||
        size_ - (static_cast<uint64_t>(end) - padded) < member.length) {
      return absl::DataLossError(StrCat(path_, ": the archive is truncated; save the image again"));
    }
    member.offset = static_cast<uint64_t>(end) - padded;
    return absl::OkStatus();
  }

  const std::string& path_;
  const int fd_;
  const uint64_t size_;
  uint64_t at_ = 0;
  std::vector<char> buffer_ = std::vector<char>(kBlockBytes);
  struct archive* archive_ = nullptr;
  Members members_;
  std::optional<std::string> open_member_;  // member whose offset the next header determines
};

}  // namespace

absl::StatusOr<std::string> ReadLocalBlob(const LocalBlob& blob) {
  std::string out(blob.length, '\0');
  IMAGEFS_ASSIGN_OR_RETURN(
      size_t got, PreadFull(blob.fd.get(), absl::MakeSpan(out.data(), out.size()), blob.offset));
  if (got != out.size()) return absl::DataLossError("the file became shorter while it was read");
  return out;
}

absl::StatusOr<std::string> NamedFiles::Read(std::string_view name, uint64_t max_bytes) const {
  IMAGEFS_ASSIGN_OR_RETURN(LocalBlob blob, Open(name));
  if (blob.length > max_bytes) {
    return absl::InvalidArgumentError(StrCat(path(), ": ", Printable(name), " has ", blob.length,
                                             " bytes; at most ", max_bytes, " are allowed"));
  }
  absl::StatusOr<std::string> text = ReadLocalBlob(blob);
  if (!text.ok()) return Annotate(text.status(), StrCat(path(), ": ", Printable(name)));
  return text;
}

absl::StatusOr<std::unique_ptr<NamedFiles>> OpenDirectory(const std::string& path) {
  absl::StatusOr<Fd> fd = OpenFile(path, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) {
    struct stat st;
    if (stat(path.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) {
      return absl::InvalidArgumentError(
          StrCat(path, ": not a directory; for an image in a tar write oci-archive:FILE"));
    }
    return fd.status();
  }
  return std::make_unique<DirectoryFiles>(path, *std::move(fd));
}

absl::StatusOr<std::unique_ptr<NamedFiles>> OpenArchive(const std::string& path) {
  absl::StatusOr<Fd> fd = OpenFile(path, O_RDONLY | O_NONBLOCK);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return ErrnoStatus(errno, path);
  if (!S_ISREG(st.st_mode)) {
    return absl::InvalidArgumentError(
        StrCat(path, ": not a regular file; for an image layout in a directory write oci:DIR"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(Members members,
                           Scanner(path, fd->get(), static_cast<uint64_t>(st.st_size)).Run());
  return std::make_unique<ArchiveFiles>(path, *std::move(fd), std::move(members));
}

}  // namespace imagefs
