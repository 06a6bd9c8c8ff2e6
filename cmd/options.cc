// SPDX-License-Identifier: Apache-2.0
#include "cmd/options.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "base/digest.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

absl::Status NoDirectory(std::string_view path) {
  return absl::FailedPreconditionError(
      StrCat(Printable(path, 60), ": the current directory was removed or is unreachable; give an ",
             "absolute path or go to another directory"));
}

}  // namespace

bool IsLogLevel(std::string_view name) {
  return std::find(std::begin(kLogLevels), std::end(kLogLevels), name) != std::end(kLogLevels);
}

LogLevel ParseLogLevel(std::string_view name) {
  const auto* const found = std::find(std::begin(kLogLevels), std::end(kLogLevels), name);
  return IsLogLevel(name) ? static_cast<LogLevel>(found - std::begin(kLogLevels)) : LogLevel::kInfo;
}

std::string_view LogLevelName(LogLevel level) {
  const auto index = static_cast<size_t>(level);
  return index < std::size(kLogLevels) ? kLogLevels[index] : "off";
}

std::string ProcessEnvironment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

std::string CleanPath(std::string_view path, std::string_view directory) {
  const std::string whole =
      path.starts_with('/') ? std::string(path) : StrCat(directory, "/", path);
  std::vector<std::string_view> parts;
  for (std::string_view part : Split(whole, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
      continue;
    }
    parts.push_back(part);
  }
  std::string out;
  for (std::string_view part : parts) StrAppend(&out, "/", part);
  return out.empty() ? "/" : out;
}

absl::StatusOr<std::string> AbsolutePath(std::string_view path) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(path, "the path"));
  if (path.starts_with('/')) return CleanPath(path, "/");
  char directory[PATH_MAX];
  // The name of a directory outside of this process's root does not start with a slash.
  if (getcwd(directory, sizeof(directory)) == nullptr || directory[0] != '/') {
    return NoDirectory(path);
  }
  std::string whole = CleanPath(path, directory);
  IMAGEFS_RETURN_IF_ERROR(CheckPath(whole, "the path"));
  return whole;
}

absl::Status CheckSettingFile(std::string_view option, std::string* file) {
  if (file->empty()) return absl::OkStatus();
  absl::StatusOr<std::string> path = AbsolutePath(*file);
  if (!path.ok()) return Annotate(path.status(), std::string(option));
  struct stat st;
  if (stat(path->c_str(), &st) != 0 || access(path->c_str(), R_OK) != 0) {
    return ErrnoStatus(errno, StrCat(option, " ", *path));
  }
  if (S_ISDIR(st.st_mode)) return ErrnoStatus(EISDIR, StrCat(option, " ", *path));
  if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) {
    return absl::InvalidArgumentError(
        StrCat(option, " ", *path, ": no file; a daemon reads it when it starts"));
  }
  *file = *std::move(path);
  return absl::OkStatus();
}

absl::Status CheckDescriptors() {
  constexpr rlim_t kLeast = 64;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kLeast) return absl::OkStatus();
  if (limit.rlim_max < kLeast) {
    return absl::ResourceExhaustedError(StrCat("this process may have only ", limit.rlim_max,
                                               " files open (ulimit -Hn), and needs ", kLeast));
  }
  limit.rlim_cur = kLeast;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? absl::OkStatus()
                                               : ErrnoStatus(errno, "RLIMIT_NOFILE");
}

absl::StatusOr<Paths> ResolvePaths(std::string_view root, std::string_view run,
                                   std::string_view directory, const MachineUser& user,
                                   EnvironmentRef env) {
  Paths paths;
  for (const std::string_view path : {root, run}) {
    if (directory.empty() && !path.empty() && !path.starts_with('/')) return NoDirectory(path);
  }
  paths.root_named = !root.empty();
  if (!root.empty()) {
    paths.root = CleanPath(root, directory);
  } else if (user.root) {
    paths.root = "/var/lib/imagefs";
  } else if (std::string data = env("XDG_DATA_HOME"); data.starts_with('/')) {
    paths.root = CleanPath("imagefs", data);
  } else if (std::string home = env("HOME"); home.starts_with('/')) {
    paths.root = CleanPath(".local/share/imagefs", home);
  } else {
    return absl::FailedPreconditionError(
        "no place for the store: neither HOME nor XDG_DATA_HOME is set; use --root DIR");
  }
  if (!run.empty()) {
    paths.run = CleanPath(run, directory);
  } else if (user.root) {
    paths.run = "/run/imagefs";
  } else if (std::string runtime = env("XDG_RUNTIME_DIR"); runtime.starts_with('/')) {
    paths.run = CleanPath("imagefs", runtime);
  } else {
    paths.run = StrCat("/tmp/imagefs-", user.uid);
  }
  return paths;
}

std::string ProxyDigest() {
  std::string all;
  for (const char* name : {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}) {
    std::string value = ProcessEnvironment(name);
    // All have an upper-case form except HTTP_PROXY, which a request can set under CGI.
    if (value.empty() && name != std::string_view("http_proxy")) {
      std::string upper = name;
      for (char& c : upper) c = c == '_' ? c : static_cast<char>(c - 'a' + 'A');
      value = ProcessEnvironment(upper.c_str());
    }
    if (!value.empty()) StrAppend(&all, name, "=", value, "\n");
  }
  return all.empty() ? "" : Sha256Of(all).ToString();
}

absl::Status PrepareStore(const std::string& root) {
  return Annotate(MakeDirs(root, 0700),
                  StrCat("cannot make the store ", root, " (--root chooses another)"));
}

absl::Status PrepareRunDir(const std::string& run, uid_t uid) {
  const std::string above = ParentOf(run), name = run.substr(run.rfind('/') + 1);
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(above));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd parent, OpenFile(above, O_PATH | O_DIRECTORY));
  const absl::StatusOr<MadeDir> made = MakeDirIn(parent, name, IsMachineRoot() ? 0711 : 0700, run);
  if (!made.ok()) {
    return Annotate(made.status(), "run directory (--run chooses another)");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(made->fd, run));
  // A user with write access could replace the daemon's socket.
  if (st.st_uid != uid || (st.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(
        StrCat("run directory ", run, ": belongs to another user or others may write to it; ",
               "chmod go-w it or use --run DIR"));
  }
  return absl::OkStatus();
}

}  // namespace imagefs
