// SPDX-License-Identifier: Apache-2.0
#include "cache/kv_env.h"

#include <fcntl.h>
#include <leveldb/env.h>
#include <leveldb/helpers/memenv.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Limit for one file of the database; LevelDB's own files are a few MiB at most.
constexpr uint64_t kMaxFileBytes = 1 << 30;
// The reserve is created only if this much space is available.
constexpr uint64_t kRoomForReserve = 4 * kReserveBytes;

leveldb::Status ReadPart(const Fd& fd, const std::string& path, uint64_t offset, size_t n,
                         leveldb::Slice* result, char* scratch) {
  const absl::StatusOr<size_t> got = PreadFull(fd.get(), absl::MakeSpan(scratch, n), offset);
  *result = leveldb::Slice(scratch, got.ok() ? *got : 0);
  if (got.ok()) return leveldb::Status::OK();
  return leveldb::Status::Corruption(path, std::string(got.status().message()));
}

class TableFile : public leveldb::RandomAccessFile {
 public:
  TableFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  leveldb::Status Read(uint64_t offset, size_t n, leveldb::Slice* result,
                       char* scratch) const override {
    return ReadPart(fd_, path_, offset, n, result, scratch);
  }

 private:
  const Fd fd_;
  const std::string path_;
};

class StreamFile : public leveldb::SequentialFile {
 public:
  StreamFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  leveldb::Status Read(size_t n, leveldb::Slice* result, char* scratch) override {
    const leveldb::Status status = ReadPart(fd_, path_, at_, n, result, scratch);
    at_ += result->size();
    return status;
  }
  leveldb::Status Skip(uint64_t n) override {
    at_ += n;
    return leveldb::Status::OK();
  }

 private:
  const Fd fd_;
  const std::string path_;
  uint64_t at_ = 0;
};

// LevelDB syncs the directory only for its manifests.
leveldb::Status SyncFolderOf(const std::string& path) {
  const absl::Status status = FsyncDir(ParentOf(path));
  if (status.ok()) return leveldb::Status::OK();
  return leveldb::Status::IOError(path, std::string(status.message()));
}

class CarefulFile : public leveldb::WritableFile {
 public:
  CarefulFile(std::unique_ptr<leveldb::WritableFile> file, const std::string& path)
      : file_(std::move(file)),
        path_(path),
        named_(path.find("/MANIFEST-") != std::string::npos || path.ends_with(".dbtmp")) {}

  leveldb::Status Append(const leveldb::Slice& data) override {
    return Do([&] { return file_->Append(data); });
  }
  leveldb::Status Flush() override {
    return Do([&] { return file_->Flush(); });
  }
  leveldb::Status Sync() override {
    return Do([&] {
      leveldb::Status status = file_->Sync();
      // The first time, sync the name as well: without it the content would be lost.
      if (status.ok() && !named_) status = SyncFolderOf(path_);
      if (status.ok()) named_ = true;
      return status;
    });
  }
  leveldb::Status Close() override {
    const leveldb::Status status = file_->Close();
    return failed_.ok() ? status : failed_;
  }

 private:
  template <typename Work>
  leveldb::Status Do(const Work& work) {
    if (failed_.ok()) failed_ = work();
    return failed_;
  }

  const std::unique_ptr<leveldb::WritableFile> file_;
  const std::string path_;
  // The name needs no sync: it has one, LevelDB syncs it (a manifest's), or it is replaced by
  // RenameFile, which syncs the new one.
  bool named_;
  leveldb::Status failed_;
};

class DiskEnv : public leveldb::EnvWrapper {
 public:
  explicit DiskEnv(uint64_t log_bytes)
      : EnvWrapper(leveldb::Env::Default()), log_bytes_(log_bytes) {}

  leveldb::Status NewRandomAccessFile(const std::string& path,
                                      leveldb::RandomAccessFile** result) override {
    return Open<TableFile>(path, result);
  }
  leveldb::Status NewSequentialFile(const std::string& path,
                                    leveldb::SequentialFile** result) override {
    return Open<StreamFile>(path, result);
  }

  leveldb::Status NewWritableFile(const std::string& path,
                                  leveldb::WritableFile** result) override {
    leveldb::WritableFile* file = nullptr;
    const leveldb::Status status = target()->NewWritableFile(path, &file);
    *result = nullptr;
    if (!status.ok()) return status;
    *result =
        std::make_unique<CarefulFile>(std::unique_ptr<leveldb::WritableFile>(file), path).release();
    if (path.ends_with(".log")) {
      // The size stays that of the written data, which is how the end is found.
      const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
      (void)fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(log_bytes_));
    }
    return leveldb::Status::OK();
  }
  leveldb::Status RenameFile(const std::string& from, const std::string& to) override {
    const leveldb::Status status = target()->RenameFile(from, to);
    // CURRENT names the manifest to read; everything synced from now on is in that one.
    return status.ok() && to.ends_with("/CURRENT") ? SyncFolderOf(to) : status;
  }

 private:
  template <typename File, typename Base>
  static leveldb::Status Open(const std::string& path, Base** result) {
    *result = nullptr;
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) {
      const std::string cause = strerror(errno);
      return errno == ENOENT ? leveldb::Status::NotFound(path, cause)
                             : leveldb::Status::IOError(path, cause);
    }
    *result = std::make_unique<File>(std::move(fd), path).release();
    return leveldb::Status::OK();
  }

  const uint64_t log_bytes_;
};

absl::Status CopyFile(leveldb::Env& to, const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxFileBytes));
  leveldb::WritableFile* raw = nullptr;
  leveldb::Status status = to.NewWritableFile(path, &raw);
  const std::unique_ptr<leveldb::WritableFile> file(raw);
  if (status.ok()) status = file->Append(content);
  if (status.ok()) status = file->Close();
  return status.ok() ? absl::OkStatus() : absl::InternalError(status.ToString());
}

}  // namespace

std::unique_ptr<leveldb::Env> MakeDiskEnv(uint64_t log_bytes) {
  return std::make_unique<DiskEnv>(log_bytes);
}

bool IsDatabaseFile(std::string_view name) {
  return name == "CURRENT" || name.starts_with("MANIFEST-") || name.ends_with(".log") ||
         name.ends_with(".ldb");
}

absl::StatusOr<std::unique_ptr<leveldb::Env>> MakeMemoryEnv(const std::string& dir) {
  std::unique_ptr<leveldb::Env> memory(leveldb::NewMemEnv(leveldb::Env::Default()));
  std::vector<std::string> names;
  const leveldb::Status status = leveldb::Env::Default()->GetChildren(dir, &names);
  if (!status.ok()) return absl::InternalError(status.ToString());
  bool any = false;
  for (const std::string& name : names) {
    if (!IsDatabaseFile(name)) continue;
    any = true;
    IMAGEFS_RETURN_IF_ERROR(CopyFile(*memory, StrCat(dir, "/", name)));
  }
  if (!any) return absl::NotFoundError(StrCat(dir, " has no database"));
  return memory;
}

void MakeReserve(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_blocks) * 512 >= kReserveBytes) {
    return;
  }
  struct statvfs disk;
  if (statvfs(ParentOf(path).c_str(), &disk) != 0 ||
      uint64_t{disk.f_bavail} * disk.f_frsize < kRoomForReserve) {
    return;
  }
  const Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (fd.valid() && fallocate(fd.get(), 0, 0, kReserveBytes) == 0) return;
  LogDebug("kv.no_reserve path=", path, " cause=", strerror(errno));
  unlink(path.c_str());
}

bool ReleaseReserve(const std::string& path) {
  struct stat st;
  const bool some = stat(path.c_str(), &st) == 0 && st.st_blocks > 0;
  return unlink(path.c_str()) == 0 && some;
}

}  // namespace imagefs
