// SPDX-License-Identifier: Apache-2.0
// The paths of a user's store, sockets and logs, and the settings from options and the environment.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"
#include "base/machine_user.h"

namespace imagefs {

struct Paths {
  std::string root;         // the store
  std::string run;          // sockets and private mounts
  bool root_named = false;  // given by the caller, not the default
  // Names inside `run`.
  std::string socket() const { return run + "/control.sock"; }
  std::string log() const { return run + "/daemon.log"; }
  // Names inside `root`.
  std::string lock() const { return root + "/lock"; }
  std::string start_lock() const { return root + "/start.lock"; }
};

// Parses a value of --log-level; "" = the default.
inline constexpr char kDefaultLogLevel[] = "info";
inline constexpr std::string_view kLogLevels[] = {"debug", "info", "warning", "error"};
bool IsLogLevel(std::string_view name);
LogLevel ParseLogLevel(std::string_view name);  // the default if it is none
std::string_view LogLevelName(LogLevel level);

// Returns the value of an environment variable, or "" if it is unset.
using EnvironmentRef = absl::FunctionRef<std::string(const char* name)>;
std::string ProcessEnvironment(const char* name);

// Resolves `root` and `run`, as given by options; "" = the user's default: /var/lib/imagefs and
// /run/imagefs for root of the machine; $XDG_DATA_HOME/imagefs or ~/.local/share/imagefs, and
// $XDG_RUNTIME_DIR/imagefs or /tmp/imagefs-UID for others. Relative paths are relative to
// `directory`, and an error if that is "". Fails if a user has neither $HOME nor $XDG_DATA_HOME.
absl::StatusOr<Paths> ResolvePaths(std::string_view root, std::string_view run,
                                   std::string_view directory, const MachineUser& user,
                                   EnvironmentRef env);

// Returns `path` made absolute against `directory`, without ".", "..", and double or trailing
// slashes. Does not access the disk, so symbolic links are not resolved.
std::string CleanPath(std::string_view path, std::string_view directory);

// CleanPath against the working directory of this process. Fails for paths that CheckPath rejects,
// and for a relative path if the working directory was removed or has no name.
absl::StatusOr<std::string> AbsolutePath(std::string_view path);

// Makes the path of an option that names a file for the daemon absolute, since the daemon has
// another working directory. Fails if the file does not exist or cannot be read, even if a daemon
// already runs.
absl::Status CheckSettingFile(std::string_view option, std::string* file);

// Fails if this process may open so few descriptors that gRPC would abort it.
absl::Status CheckDescriptors();

// Returns a digest of the proxy settings in the environment of this process, or "" if there are
// none. A digest, since they may contain passwords.
std::string ProxyDigest();

// Creates the run directory (0711 for root of the machine, whose mounts others use; 0700 for a
// user), or checks the existing one: it must belong to `uid` and be writable by nobody else.
absl::Status PrepareRunDir(const std::string& run, uid_t uid);
// Creates the directory of the store (0700) if it does not exist.
absl::Status PrepareStore(const std::string& root);

}  // namespace imagefs
