#include "cmd/options.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <vector>

#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {

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

absl::StatusOr<Paths> ResolvePaths(std::string_view root, std::string_view run,
                                   std::string_view directory, uid_t uid, EnvironmentRef env) {
  Paths paths;
  if (!root.empty()) {
    paths.root = CleanPath(root, directory);
  } else if (uid == 0) {
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
  } else if (uid == 0) {
    paths.run = "/run/imagefs";
  } else if (std::string runtime = env("XDG_RUNTIME_DIR"); runtime.starts_with('/')) {
    paths.run = CleanPath("imagefs", runtime);
  } else {
    paths.run = StrCat("/tmp/imagefs-", uid);
  }
  return paths;
}

absl::Status PrepareRunDir(const std::string& run, uid_t uid) {
  const std::string above = ParentOf(run), name = run.substr(run.rfind('/') + 1);
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(above));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd parent, OpenFile(above, O_PATH | O_DIRECTORY));
  const absl::StatusOr<MadeDir> made = MakeDirIn(parent, name, uid == 0 ? 0711 : 0700, run);
  if (!made.ok()) {
    return Annotate(made.status(), "run directory (--run chooses another)");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatFd(made->fd, run));
  // A user who may write there could put another socket in place of the daemon's.
  if (st.st_uid != uid || (st.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(
        StrCat("run directory ", run, ": belongs to another user or others may write to it; ",
               "chmod go-w it or use --run DIR"));
  }
  return absl::OkStatus();
}

}  // namespace imagefs
