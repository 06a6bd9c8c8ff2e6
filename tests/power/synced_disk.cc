// SPDX-License-Identifier: Apache-2.0
#include "tests/power/synced_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

namespace imagefs {
namespace {

// A file for ever: a number is given to another one when it is gone.
using FileId = std::string;

struct Name {
  FileId file;
  bool is_folder = false;
};

struct Step {
  std::string path;
  FileId file;
  bool is_folder = false;
  std::string bytes;                  // of a file
  std::map<std::string, Name> names;  // of a folder
};

struct Disk {
  std::mutex mu;
  std::string root;  // "" = nothing is watched
  FileId root_id;
  std::vector<Step> steps;
  std::string boot_file;
};

Disk& TheDisk() {
  static Disk disk;
  return disk;
}

// Not followed.
bool Look(const std::string& path, Name* name) {
  struct statx st;
  if (statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) != 0) {
    return false;
  }
  std::ostringstream id;
  id << st.stx_ino << " " << st.stx_btime.tv_sec << " " << st.stx_btime.tv_nsec;
  name->file = id.str();
  name->is_folder = S_ISDIR(st.stx_mode);
  return true;
}

std::string PathOf(int fd) {
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), path, sizeof(path));
  return length < 0 ? "" : std::string(path, static_cast<size_t>(length));
}

void Build(const std::string& target, const FileId& folder,
           const std::map<FileId, const Step*>& last, std::map<FileId, std::string>& made) {
  std::filesystem::create_directories(target);
  const auto names = last.find(folder);
  if (names == last.end()) return;
  for (const auto& [name, about] : names->second->names) {
    const std::string path = target + "/" + name;
    if (about.is_folder) {
      Build(path, about.file, last, made);
      continue;
    }
    const auto [other, is_new] = made.emplace(about.file, path);
    if (!is_new) {
      std::filesystem::create_hard_link(other->second, path);
      continue;
    }
    std::ofstream file(path, std::ios::binary);
    if (const auto synced = last.find(about.file); synced != last.end()) {
      file << synced->second->bytes;
    }
  }
}

}  // namespace

bool OnSync(int fd) {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  if (disk.root.empty()) return false;
  Step step;
  step.path = PathOf(fd);
  const bool inside = step.path == disk.root || step.path.rfind(disk.root + "/", 0) == 0;
  if (!inside) return false;
  Name about;
  struct stat st;
  if (fstat(fd, &st) != 0) return false;
  step.is_folder = S_ISDIR(st.st_mode);
  if (step.is_folder) {
    Look(step.path, &about);
    for (const auto& entry : std::filesystem::directory_iterator(step.path)) {
      Name name;
      if (Look(entry.path().string(), &name)) step.names[entry.path().filename().string()] = name;
    }
  } else {
    if (!Look(step.path, &about)) return true;  // it has no name any more
    step.bytes.resize(static_cast<size_t>(st.st_size));
    // By another descriptor: this one may be for writing only.
    const int file = ::open(step.path.c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t got = ::pread(file, step.bytes.data(), step.bytes.size(), 0);
    ::close(file);
    step.bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
  }
  step.file = about.file;
  disk.steps.push_back(std::move(step));
  return true;
}

const char* PathToOpen(const char* path) {
  Disk& disk = TheDisk();
  if (std::strcmp(path, "/proc/sys/kernel/random/boot_id") != 0) return path;
  return disk.boot_file.empty() ? path : disk.boot_file.c_str();
}

SyncedDisk::SyncedDisk(const std::string& root) {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  Name name;
  Look(root, &name);
  disk.root = std::filesystem::canonical(root).string();
  disk.root_id = name.file;
  disk.steps.clear();
}

SyncedDisk::~SyncedDisk() {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  disk.root.clear();
}

size_t SyncedDisk::steps() const {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  return disk.steps.size();
}

std::string SyncedDisk::StepName(size_t step) const {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  return step == 0 ? "nothing" : disk.steps[step - 1].path.substr(disk.root.size());
}

void SyncedDisk::Restore(size_t steps, const std::string& target) const {
  Disk& disk = TheDisk();
  const std::lock_guard<std::mutex> lock(disk.mu);
  std::map<FileId, const Step*> last;
  for (size_t i = 0; i < steps; ++i) last[disk.steps[i].file] = &disk.steps[i];
  std::map<FileId, std::string> made;
  Build(target, disk.root_id, last, made);
}

void SetBootId(const std::string& id) {
  Disk& disk = TheDisk();
  if (!disk.boot_file.empty()) unlink(disk.boot_file.c_str());
  disk.boot_file.clear();
  if (id.empty()) return;
  const std::string path =
      std::filesystem::temp_directory_path().string() + "/boot-" + std::to_string(getpid());
  std::ofstream(path) << id << "\n";
  disk.boot_file = path;
}

}  // namespace imagefs
