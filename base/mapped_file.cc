#include "base/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {

absl::StatusOr<MappedFile> MappedFile::Map(int fd, std::string_view what) {
  MayBlock("mapping a file");
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, what);
  MappedFile file;
  if (st.st_size <= 0) return file;
  const size_t size = static_cast<size_t>(st.st_size);
  void* const address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return ErrnoStatus(errno, StrCat("mmap of ", what));
  file.bytes_ = std::string_view(static_cast<const char*>(address), size);
  return file;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    Unmap();
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

void MappedFile::DropPages() const {
  if (!bytes_.empty()) madvise(const_cast<char*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

void MappedFile::Unmap() {
  if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  bytes_ = {};
}

}  // namespace imagefs
