// libarchive parses; this file adds what it does not tell: where an entry's bytes lie, and which
// type flag stood in the header (libarchive takes an unknown one for a regular file, the runtimes
// refuse the layer). The stream position after a header is the data's offset. The header block is
// looked up in the bytes just fed, of which the last block before the current chunk is kept.
//
// Names stay the bytes that they are: libarchive converts PAX names into the locale's charset, and
// in the "C" locale, which no part of this program changes, it keeps the bytes and warns.
#include "image/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kBlock = 512;
constexpr size_t kTypeFlagOffset = 156;  // in a tar header block (POSIX pax, ustar)
// What Go's archive/tar, and so containerd, takes: regular (also v7's NUL and contiguous), links,
// devices, directory, FIFO, GNU sparse.
constexpr std::string_view kKnownTypes("0\0007123456S", 10);
constexpr size_t kMaxXattrValue =
    65535;  // EROFS keeps sizes in 16 bits; Linux allows no more either

struct ArchiveFree {
  void operator()(archive* a) const { archive_read_free(a); }
};

class Reader {
 public:
  explicit Reader(TarSource source) : source_(source), archive_(archive_read_new()) {}

  absl::Status Run(absl::FunctionRef<absl::Status(TarEntry&)> entry) {
    archive* a = archive_.get();
    if (a == nullptr) return absl::ResourceExhaustedError("no memory for reading a tar");
    archive_read_support_format_tar(a);
    archive_read_support_format_empty(a);
    archive_read_set_callback_data(a, this);
    archive_read_set_read_callback(a, &Reader::OnRead);
    if (archive_read_open1(a) != ARCHIVE_OK) return Failure();
    while (true) {
      archive_entry* raw = nullptr;
      const int result = archive_read_next_header(a, &raw);
      if (result == ARCHIVE_EOF) break;
      // A warning is about a charset or an unknown extension; the entry is whole.
      if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return Failure();
      TarEntry parsed;
      IMAGEFS_RETURN_IF_ERROR(Convert(raw, parsed));
      IMAGEFS_RETURN_IF_ERROR(entry(parsed));
    }
    // Padding and trailing bytes belong to the stream, and so to its digest.
    while (true) {
      IMAGEFS_ASSIGN_OR_RETURN(const std::string_view rest, source_());
      if (rest.empty()) return absl::OkStatus();
    }
  }

 private:
  static la_ssize_t OnRead(archive* a, void* self, const void** buffer) {
    return static_cast<Reader*>(self)->Feed(a, buffer);
  }

  la_ssize_t Feed(archive* a, const void** buffer) {
    if (chunk_.size() >= kBlock) {
      before_.assign(chunk_.substr(chunk_.size() - kBlock));
    } else {
      before_.append(chunk_);
      if (before_.size() > kBlock) before_.erase(0, before_.size() - kBlock);
    }
    chunk_start_ += chunk_.size();
    absl::StatusOr<std::string_view> next = source_();
    if (!next.ok()) {
      status_ = next.status();
      chunk_ = {};
      archive_set_error(a, EIO, "source");
      return ARCHIVE_FATAL;
    }
    chunk_ = *next;
    *buffer = chunk_.data();
    return static_cast<la_ssize_t>(chunk_.size());
  }

  absl::Status Failure() const {
    if (!status_.ok()) return status_;
    const char* text = archive_error_string(archive_.get());
    return absl::DataLossError(StrCat("malformed tar near byte ",
                                      archive_filter_bytes(archive_.get(), 0), ": ",
                                      text == nullptr ? "unknown cause" : Printable(text)));
  }

  // Byte of the stream that was fed not long ago; NUL when it is further back than one block.
  char ByteAt(uint64_t position) const {
    if (position >= chunk_start_) {
      const uint64_t at = position - chunk_start_;
      return at < chunk_.size() ? chunk_[at] : '\0';
    }
    const uint64_t back = chunk_start_ - position;
    return back <= before_.size() ? before_[before_.size() - back] : '\0';
  }

  absl::Status Convert(archive_entry* raw, TarEntry& entry) const {
    const auto data_offset = static_cast<uint64_t>(archive_filter_bytes(archive_.get(), 0));
    const char* path = archive_entry_pathname(raw);
    if (path == nullptr) {
      return absl::InvalidArgumentError(
          StrCat("tar entry before byte ", data_offset, " has no readable name"));
    }
    entry.path = path;
    const auto bad = [&entry](std::string_view what) {
      return absl::InvalidArgumentError(
          StrCat("tar entry \"", Printable(entry.path), "\": ", what));
    };
    entry.mode = archive_entry_filetype(raw) | archive_entry_perm(raw);
    const int64_t uid = archive_entry_uid(raw), gid = archive_entry_gid(raw);
    constexpr int64_t kMaxId = std::numeric_limits<uint32_t>::max();
    if (uid < 0 || uid > kMaxId || gid < 0 || gid > kMaxId) {
      return bad(StrCat("owner ", uid, ":", gid, " is not within 32 bits"));
    }
    entry.uid = static_cast<uint32_t>(uid);
    entry.gid = static_cast<uint32_t>(gid);
    ConvertTime(raw, entry);
    entry.rdev_major = static_cast<uint32_t>(archive_entry_rdevmajor(raw));
    entry.rdev_minor = static_cast<uint32_t>(archive_entry_rdevminor(raw));
    IMAGEFS_RETURN_IF_ERROR(ConvertXattrs(raw, bad, entry));
    if (const char* target = archive_entry_hardlink(raw); target != nullptr) {
      entry.hard_link = true;
      entry.link = target;
      return absl::OkStatus();
    }
    if (const char* target = archive_entry_symlink(raw); target != nullptr) entry.link = target;
    if (!S_ISREG(entry.mode)) return absl::OkStatus();
    const int64_t size = archive_entry_size(raw);
    if (size < 0) return bad("negative size");
    entry.size = static_cast<uint64_t>(size);
    return ConvertExtents(raw, data_offset, bad, entry);
  }

  // libarchive gives "-1.5" of a PAX record as seconds -1 and 500,000,000 ns, meaning -1 - 0.5; a
  // timespec means -2 + 0.5. (Between -1 and 0 it loses the sign, and nothing here can tell.)
  static void ConvertTime(archive_entry* raw, TarEntry& entry) {
    entry.mtime_seconds = archive_entry_mtime(raw);
    int64_t nanoseconds = archive_entry_mtime_nsec(raw);
    if (entry.mtime_seconds < 0 && nanoseconds > 0) {
      --entry.mtime_seconds;
      nanoseconds = 1'000'000'000 - nanoseconds;
    }
    entry.mtime_nanoseconds =
        static_cast<uint32_t>(std::clamp<int64_t>(nanoseconds, 0, 999'999'999));
  }

  template <typename Bad>
  static absl::Status ConvertXattrs(archive_entry* raw, const Bad& bad, TarEntry& entry) {
    if (archive_entry_xattr_reset(raw) == 0) return absl::OkStatus();
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    while (archive_entry_xattr_next(raw, &name, &value, &size) == ARCHIVE_OK) {
      if (name == nullptr) continue;
      if (strlen(name) > 255 || size > kMaxXattrValue) {
        return bad(StrCat("extended attribute ", Printable(name, 64), " is too large"));
      }
      Xattr xattr{name,
                  size == 0 ? std::string() : std::string(static_cast<const char*>(value), size)};
      const auto same = std::find_if(entry.xattrs.begin(), entry.xattrs.end(),
                                     [&](const Xattr& other) { return other.name == xattr.name; });
      // The same attribute comes twice from archives with SCHILY.xattr and LIBARCHIVE.xattr
      // records.
      if (same == entry.xattrs.end()) {
        entry.xattrs.push_back(std::move(xattr));
      } else {
        same->value = std::move(xattr.value);
      }
    }
    return absl::OkStatus();
  }

  template <typename Bad>
  absl::Status ConvertExtents(archive_entry* raw, uint64_t data_offset, const Bad& bad,
                              TarEntry& entry) const {
    if (archive_entry_sparse_reset(raw) == 0) {
      const char type = ByteAt(data_offset - kBlock + kTypeFlagOffset);
      if (kKnownTypes.find(type) == std::string_view::npos) {
        return bad(StrCat("unknown entry type '", Printable(std::string_view(&type, 1)),
                          "'; the runtimes refuse such a layer as well"));
      }
      if (entry.size > 0) entry.extents.push_back({0, data_offset, entry.size, 1});
      return absl::OkStatus();
    }
    la_int64_t offset = 0, length = 0;
    uint64_t end = 0;
    while (archive_entry_sparse_next(raw, &offset, &length) == ARCHIVE_OK) {
      if (length == 0) continue;
      if (offset < 0 || length < 0 || static_cast<uint64_t>(offset) < end ||
          static_cast<uint64_t>(offset) > entry.size ||
          static_cast<uint64_t>(length) > entry.size - static_cast<uint64_t>(offset)) {
        return bad("its sparse map is inconsistent");
      }
      entry.extents.push_back(
          {static_cast<uint64_t>(offset), data_offset, static_cast<uint64_t>(length), 1});
      data_offset += static_cast<uint64_t>(length);
      end = static_cast<uint64_t>(offset + length);
    }
    return absl::OkStatus();
  }

  TarSource source_;
  const std::unique_ptr<archive, ArchiveFree> archive_;
  absl::Status status_;
  std::string_view chunk_;    // what the source gave last
  uint64_t chunk_start_ = 0;  // its position in the stream
  std::string before_;        // up to one block before it
};

}  // namespace

absl::Status ReadTar(TarSource source, absl::FunctionRef<absl::Status(TarEntry&)> entry) {
  return Reader(source).Run(entry);
}

}  // namespace imagefs
