// SPDX-License-Identifier: Apache-2.0
// Where a user's store, sockets and logs are, and what an option or the environment asks for.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"

namespace imagefs {

struct Paths {
  std::string root;         // the store
  std::string run;          // sockets and private mounts
  bool root_named = false;  // by the caller, not by default
  // Names inside `run`.
  std::string socket() const { return run + "/control.sock"; }
  std::string log() const { return run + "/daemon.log"; }
  // Names inside `root`.
  std::string lock() const { return root + "/lock"; }
  std::string start_lock() const { return root + "/start.lock"; }
};

// A word of --log-level, "" = the default.
inline constexpr char kDefaultLogLevel[] = "info";
LogLevel ParseLogLevel(std::string_view name);

// The value of an environment variable, "" when unset.
using EnvironmentRef = absl::FunctionRef<std::string(const char* name)>;
std::string ProcessEnvironment(const char* name);

// `root` and `run` as given by options, "" = the user's default: /var/lib/imagefs and /run/imagefs
// for root; $XDG_DATA_HOME/imagefs or ~/.local/share/imagefs, and $XDG_RUNTIME_DIR/imagefs or
// /tmp/imagefs-UID for others. Relative paths are taken from `directory`; with "" they are refused.
// Fails where a user has neither $HOME nor $XDG_DATA_HOME.
absl::StatusOr<Paths> ResolvePaths(std::string_view root, std::string_view run,
                                   std::string_view directory, uid_t uid, EnvironmentRef env);

// `path` made absolute against `directory`, without ".", "..", double and trailing slashes. Does
// not look at the disk, so symbolic links stay.
std::string CleanPath(std::string_view path, std::string_view directory);

// CleanPath against the working directory of this process. Fails for what CheckPath refuses, and
// for a relative path where the working directory was removed or cannot be named.
absl::StatusOr<std::string> AbsolutePath(std::string_view path);

// An option that names a file for the daemon: makes it the path for a process with another working
// directory. Whether a daemon runs or is started, a file that is not there is wrong.
absl::Status CheckSettingFile(std::string_view option, std::string* file);

// Fails where this process may have so few descriptors that gRPC would end it.
absl::Status CheckDescriptors();

// Which proxies the environment of this process asks for, as a digest: they may name passwords. ""
// = none.
std::string ProxyDigest();

// Makes the run directory (0711 for root, whose mounts others use; 0700 for a user) or checks the
// one that is there: a directory that belongs to `uid` and that nobody else may write.
absl::Status PrepareRunDir(const std::string& run, uid_t uid);
// Makes the directory of the store (0700) where it is missing.
absl::Status PrepareStore(const std::string& root);

}  // namespace imagefs
