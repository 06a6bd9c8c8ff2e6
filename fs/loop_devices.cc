// SPDX-License-Identifier: Apache-2.0
#include "fs/loop_devices.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/base/const_init.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kMark[] = "imagefs";  // lo_file_name
constexpr uint32_t kFlags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
constexpr uint64_t kSectorBytes = 512;
// How often to retry when another program takes the device that was just reported as free.
constexpr int kTries = 100;

// Held from the search for a file's device until the device exists, so that two threads do not make
// two.
absl::Mutex& Gate() {
  static absl::Mutex gate(absl::kConstInit);
  return gate;
}

struct Backing {
  std::string path;
  Fd fd;
  struct stat st = {};
};

absl::StatusOr<Backing> OpenBacking(const std::string& path) {
  Backing out;
  out.path = path;
  IMAGEFS_ASSIGN_OR_RETURN(out.fd, OpenFile(path, O_RDONLY));
  if (fstat(out.fd.get(), &out.st) != 0) return ErrnoStatus(errno, path);
  const auto bytes = static_cast<uint64_t>(out.st.st_size);
  if (bytes % kSectorBytes != 0) {
    return absl::FailedPreconditionError(
        StrCat(path, " has ", bytes, " bytes: a loop device covers only multiples of 512"));
  }
  return out;
}

bool IsOver(const loop_info64& info, const struct stat& st) {
  return info.lo_device == st.st_dev && info.lo_inode == st.st_ino && info.lo_offset == 0 &&
         info.lo_sizelimit == 0 && (info.lo_flags & kFlags) == kFlags &&
         std::string_view(reinterpret_cast<const char*>(info.lo_file_name),
                          strnlen(reinterpret_cast<const char*>(info.lo_file_name),
                                  sizeof(info.lo_file_name))) == kMark;
}

// Calls `visit` for each loop device that has a file, while it is open. `visit` may keep the
// descriptor.
absl::Status ForEachDevice(
    absl::FunctionRef<void(const std::string&, const loop_info64&, Fd&)> visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dev(opendir("/dev"), closedir);
  if (dev == nullptr) return ErrnoStatus(errno, "/dev");
  while (const dirent* entry = readdir(dev.get())) {
    std::string_view number = entry->d_name;
    if (!ConsumePrefix(&number, "loop") || !ParseDecimal(number).has_value()) continue;
    struct stat st;
    if (fstatat(dirfd(dev.get()), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISBLK(st.st_mode) || major(st.st_rdev) != LOOP_MAJOR) {
      continue;
    }
    const std::string path = StrCat("/dev/", entry->d_name);
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) {
      // If it cannot be opened for lack of descriptors, it might be the one we are looking for.
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) return ErrnoStatus(errno, path);
      continue;  // it is disappearing, or there is only a device node
    }
    loop_info64 info = {};
    if (ioctl(fd.get(), LOOP_GET_STATUS64, &info) == 0) visit(path, info, fd);
  }
  return absl::OkStatus();
}

absl::Status NoDevices(int error, std::string_view what) {
  if (error == EMFILE || error == ENFILE || error == ENOSPC || error == ENOMEM) {
    return ErrnoStatus(error, what);
  }
  std::string_view remedy;
  if (error == ENOENT || error == ENXIO || error == ENODEV) {
    remedy =
        "; load the module (modprobe loop), or give the container the devices (a /dev that is a "
        "devtmpfs)";
  } else if (error == EPERM || error == EACCES) {
    remedy = "; give the container the devices";
  }
  return absl::FailedPreconditionError(StrCat(what, ": ", strerror(error), remedy));
}

absl::Status Add(const Backing& backing, LoopDevices& out) {
  const Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return NoDevices(errno, "/dev/loop-control");
  // A single call since Linux 5.8; older kernels have no EROFS with devices anyway.
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.fd.get());
  config.block_size = kSectorBytes;
  config.info.lo_flags = kFlags;
  memcpy(config.info.lo_file_name, kMark, sizeof(kMark));
  for (int i = 0; i < kTries; ++i) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return NoDevices(errno, "the kernel has no free loop device");
    const std::string path = StrCat("/dev/loop", number);
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return NoDevices(errno, path);
    if (ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0) {
      out.paths.push_back(path);
      out.held.push_back(std::move(fd));
      return absl::OkStatus();
    }
    if (errno != EBUSY) return NoDevices(errno, StrCat("a loop device over ", backing.path));
  }
  return WithKind(absl::UnavailableError("other programs keep taking the free loop devices"),
                  FailureKind::kBusy);
}

}  // namespace

absl::StatusOr<LoopDevices> ShareLoopDevices(const std::vector<std::string>& files) {
  std::vector<Backing> backings;
  for (const std::string& file : files) {
    IMAGEFS_ASSIGN_OR_RETURN(Backing backing, OpenBacking(file));
    backings.push_back(std::move(backing));
  }
  LoopDevices out;
  std::vector<std::string> there(files.size());
  absl::MutexLock lock(&Gate());
  IMAGEFS_RETURN_IF_ERROR(
      ForEachDevice([&](const std::string& path, const loop_info64& info, Fd& fd) {
        for (size_t i = 0; i < backings.size(); ++i) {
          uint64_t bytes = 0;
          // A device made while the file was shorter keeps its size.
          if (!IsOver(info, backings[i].st) || ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0 ||
              bytes != static_cast<uint64_t>(backings[i].st.st_size)) {
            continue;
          }
          there[i] = path;
          // Several of the files may be the same one.
          for (size_t j = i + 1; j < backings.size(); ++j) {
            if (IsOver(info, backings[j].st)) there[j] = path;
          }
          out.held.push_back(std::move(fd));
          return;
        }
      }));
  for (size_t i = 0; i < backings.size(); ++i) {
    // An image may contain the same layer twice.
    for (size_t j = 0; j < i && there[i].empty(); ++j) {
      if (backings[j].st.st_ino == backings[i].st.st_ino &&
          backings[j].st.st_dev == backings[i].st.st_dev) {
        there[i] = out.paths[j];
      }
    }
    if (there[i].empty()) {
      IMAGEFS_RETURN_IF_ERROR(Add(backings[i], out));
    } else {
      out.paths.push_back(std::move(there[i]));
    }
  }
  return out;
}

absl::StatusOr<LoopDevices> MakeLoopDevice(const std::string& file) {
  IMAGEFS_ASSIGN_OR_RETURN(const Backing backing, OpenBacking(file));
  LoopDevices out;
  IMAGEFS_RETURN_IF_ERROR(Add(backing, out));
  return out;
}

absl::Status DropLoopCaches(const std::string& file) {
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(file));
  absl::Status status;
  status.Update(ForEachDevice([&](const std::string& path, const loop_info64& info, Fd& fd) {
    if (IsOver(info, st) && ioctl(fd.get(), BLKFLSBUF, 0) != 0) {
      status.Update(ErrnoStatus(errno, StrCat("cannot drop the cache of ", path)));
    }
  }));
  return status;
}

}  // namespace imagefs
