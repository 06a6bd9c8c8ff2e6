// SPDX-License-Identifier: Apache-2.0
#include "fetch/archive_source.h"

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
#include "image/tar.h"

namespace imagefs {
namespace {

constexpr size_t kMaxMembers = 200'000;
constexpr size_t kMaxNameBytes = 4096;
constexpr int kMaxLinks = 40;  // the kernel's limit
constexpr size_t kBlockBytes = 64 << 10;
constexpr size_t kMaxHeaderBytes = 8 << 20;  // of names and PAX records before one member

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

  absl::StatusOr<Members> Run() {
    IMAGEFS_RETURN_IF_ERROR(RefuseCompressed());
    TarScan scan(size_);
    std::string bytes;
    uint64_t begin = 0;
    while (true) {
      absl::StatusOr<std::optional<uint64_t>> needed =
          scan.Continue(begin, bytes, [this](TarEntry& entry) { return AddMember(entry); });
      if (absl::IsResourceExhausted(needed.status())) return needed.status();
      if (!needed.ok()) return NoArchive(needed.status().message());
      if (!needed->has_value()) return std::move(members_);
      begin = scan.position();
      if (**needed - begin > kMaxHeaderBytes) {
        return NoArchive("more than 8 MiB of headers before a member");
      }
      bytes.resize(std::min(std::max<uint64_t>(**needed - begin, kBlockBytes), size_ - begin));
      absl::StatusOr<size_t> got =
          PreadFull(fd_, absl::MakeSpan(bytes.data(), bytes.size()), begin);
      if (!got.ok()) return Annotate(got.status(), path_);
      if (*got != bytes.size()) return NoArchive("it became shorter while it was read");
    }
  }

 private:
  // The remedies of TarScan are those for layers.
  absl::Status NoArchive(absl::string_view cause) const {
    return absl::InvalidArgumentError(StrCat(path_, ": not a tar archive, or damaged (",
                                             ToStd(cause.substr(0, cause.find(';'))),
                                             "); save the image again"));
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

  absl::Status AddMember(const TarEntry& entry) {
    if (entry.global || entry.path.size() > kMaxNameBytes) return absl::OkStatus();
    // A member whose name leads outside is ignored.
    std::optional<std::string> clean = CleanName("", entry.path);
    if (!clean || clean->empty()) return absl::OkStatus();
    Member member;
    if (entry.hard_link) {
      member.is_link = true;
      member.target = CleanName("", entry.link);
    } else if (S_ISLNK(entry.mode)) {
      const size_t slash = clean->rfind('/');
      member.is_link = true;
      member.target =
          CleanName(slash == std::string::npos ? "" : clean->substr(0, slash), entry.link);
    } else if (S_ISREG(entry.mode) && IsOnePiece(entry)) {
      member.length = entry.size;
      if (entry.size > 0) member.offset = entry.extents[0].data_offset;
    } else {
      return absl::OkStatus();
    }
    if (member.target && member.target->size() > kMaxNameBytes) member.target.reset();
    if (members_.size() >= kMaxMembers) {
      return absl::ResourceExhaustedError(
          StrCat(path_, ": the archive has more than ", kMaxMembers, " members"));
    }
    members_[*std::move(clean)] = std::move(member);
    return absl::OkStatus();
  }

  // Sparse files are not: no bytes of the archive are theirs as a whole.
  static bool IsOnePiece(const TarEntry& entry) {
    if (entry.size == 0) return true;
    return entry.extents.size() == 1 && entry.extents[0].file_offset == 0 &&
           entry.extents[0].length == entry.size;
  }

  const std::string& path_;
  const int fd_;
  const uint64_t size_;
  Members members_;
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
