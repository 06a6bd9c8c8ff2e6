// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fs/mount_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>

#include "absl/time/clock.h"
#include "base/fd.h"

namespace imagefs {
namespace {

// Once per process, before any thread is started.
std::string EnterNamespace() {
  if (geteuid() != 0) return "not root";
  if (unshare(CLONE_NEWNS) < 0) return StrCat("unshare: ", strerror(errno));
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
    return StrCat("make-rprivate: ", strerror(errno));
  }
  if (access("/dev/fuse", R_OK | W_OK) < 0) return "no /dev/fuse";
  return "";
}

}  // namespace

const std::string& WhyNot() {
  static const std::string why = EnterNamespace();
  return why;
}

namespace {

class Environment : public ::testing::Environment {
 public:
  void SetUp() override { WhyNot(); }
};
[[maybe_unused]] const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(std::make_unique<Environment>().release());

// A one-line description of a path; for a directory, of everything below it.
void Describe(const std::string& path, std::string_view name,
              std::map<std::string, std::string>& out) {
  struct stat found;
  if (lstat(path.c_str(), &found) < 0) {
    out[std::string(name)] = StrCat("error ", errno);
    return;
  }
  std::string line = StrCat(found.st_mode, " ", found.st_uid, " ", found.st_gid, " ",
                            found.st_nlink, " ", found.st_size, " ", found.st_rdev, " ",
                            found.st_mtim.tv_sec, ".", found.st_mtim.tv_nsec, " ");
  if (S_ISREG(found.st_mode)) {
    auto content = ReadFile(path, uint64_t{1} << 30);
    line += content.ok() ? Sha256Of(*content).Short() : std::string(content.status().message());
  } else if (S_ISLNK(found.st_mode)) {
    char target[4096];
    const ssize_t size = readlink(path.c_str(), target, sizeof(target));
    line += size < 0 ? "unreadable" : std::string(target, size);
  } else if (S_ISDIR(found.st_mode)) {
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) {
      line += StrCat("opendir ", errno);
    } else {
      while (const dirent* entry = readdir(directory)) {
        const std::string_view child(entry->d_name);
        if (child == "." || child == "..") continue;
        Describe(StrCat(path, "/", child), StrCat(name, "/", child), out);
      }
      closedir(directory);
    }
  }
  out[std::string(name)] = line;
}

}  // namespace

std::map<std::string, std::string> Describe(const std::string& path) {
  std::map<std::string, std::string> out;
  Describe(path, "", out);
  return out;
}

std::map<std::string, std::string> LoopDevicesOver(const std::string& directory) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block")) {
    const std::string name = entry.path().filename();
    auto file = ReadFile(StrCat("/sys/block/", name, "/loop/backing_file"), 8192);
    if (file.ok() && file->starts_with(directory + "/"))
      out[name] = file->substr(0, file->size() - 1);
  }
  return out;
}

}  // namespace imagefs
