// SPDX-License-Identifier: Apache-2.0
// What to run, from an image's configuration and the options of the caller. Pure functions; an
// image's configuration is checked before it is believed.
//
// Source: OCI image-spec config.md and conversion.md, and for what these leave open the rules of
// docker run: a command replaces Cmd, an entry point given by the caller drops it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/options.h"
#include "cmd/run_args.h"
#include "image/manifest.h"

namespace imagefs {

struct RunSpec {
  // The first of them that exists is run. One without a slash is looked up in PATH.
  std::vector<std::string> programs;
  std::vector<std::string> arguments;    // without the program
  std::vector<std::string> environment;  // NAME=VALUE, each name once
  std::string directory = "/";           // absolute
  std::string user;                      // USER[:GROUP], names or numbers; "" = root
  bool user_asked = false;               // by the caller, not by the image

  friend bool operator==(const RunSpec&, const RunSpec&) = default;
};

// `shell`: the image's shell. `terminal`: the program has one. `own`: the caller's environment.
// Returns kInvalidArgument if there is no command, or the configuration cannot be run.
absl::StatusOr<RunSpec> MakeRunSpec(const ImageConfig& config, const RunOptions& options,
                                    bool shell, bool terminal, EnvironmentRef own);

// For another process of this program.
std::string PackRunSpec(const RunSpec& spec);
absl::StatusOr<RunSpec> UnpackRunSpec(std::string_view packed);

// The value of NAME in a list of NAME=VALUE; "" if there is none.
std::string_view ValueIn(const std::vector<std::string>& environment, std::string_view name);
// Sets it, in the place of an earlier one.
void SetIn(std::vector<std::string>* environment, std::string_view name, std::string_view value);

struct UserIds {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  std::string home = "/";
  friend bool operator==(const UserIds&, const UserIds&) = default;
};
// Finds the ids of USER[:GROUP] in the texts of /etc/passwd and /etc/group of the image. A number
// need not be in them. Returns kNotFound for a name that is not.
absl::StatusOr<UserIds> FindUser(std::string_view user, std::string_view passwd,
                                 std::string_view group);

// The same with the files of the tree below `root` (O_PATH), which may lack them. Blocks.
absl::StatusOr<UserIds> FindUserIn(const Fd& root, std::string_view user);

// Returns whether this machine's kernel runs programs of that architecture by itself.
bool RunsNatively(const Platform& image, const Platform& host);
// Returns whether an entry of binfmt_misc (its text in proc) is for ELF programs of that
// architecture.
bool HandlesArchitecture(std::string_view entry, std::string_view architecture);

}  // namespace imagefs
