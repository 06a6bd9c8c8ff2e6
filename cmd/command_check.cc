// SPDX-License-Identifier: Apache-2.0
#include "cmd/command_check.h"

#include <type_traits>
#include <variant>

#include "base/text.h"
#include "cmd/call_credentials.h"
#include "cmd/cli.h"
#include "cmd/mount_option_syntax.h"

namespace imagefs {
namespace {

// Returns "" or which arguments conflict.
template <typename Args>
std::string CheckConflicts(const Args&) {
  return "";
}

std::string CheckConflicts(const MountArgs& mount) { return CheckMount(mount); }

std::string CheckConflicts(const PullArgs& pull) {
  if (pull.reference.empty() != pull.directory.empty()) return "";
  return "pull takes either an image or --wait DIR";
}

std::string CheckConflicts(const AddArgs& add) {
  if (add.references.empty() != add.list) return "add takes either images or --list";
  return add.name.empty() || add.references.size() == 1 ? "" : "--name is for one image";
}

std::string CheckConflicts(const IndexArgs& index) {
  const bool published = index.push || !index.to.empty() || !index.file.empty();
  return published ? "" : "index takes --push, --to REPOSITORY or -o FILE";
}

std::string CheckConflicts(const RpullArgs& rpull) {
  if (!rpull.image.username.empty() || !rpull.image.auth_file.empty()) {
    return "--creds and --authfile are not passed on to the snapshotter, which has its own";
  }
  if (!rpull.image.plain_http && !rpull.image.skip_tls_verify) return "";
  return "--plain-http and --tls-skip-verify are not passed on to the snapshotter";
}

std::string CheckConflicts(const UmountArgs& umount) {
  if (umount.directories.empty() == umount.all) return "";
  return "umount takes either directories or --all";
}

std::string CheckConflicts(const ProfileArgs& profile) {
  if (profile.action == "import" || profile.file.empty()) return "";
  return StrCat("profile ", profile.action, " takes no FILE");
}

std::string CheckConflicts(const LoginArgs& login) {
  const bool password = !login.password.empty();
  if (login.get_login && (password || login.password_stdin || !login.username.empty())) {
    return "--get-login takes no user and no password";
  }
  if (password && login.password_stdin) return "--password and --password-stdin exclude each other";
  return login.password_stdin && login.username.empty() ? "--password-stdin needs --username" : "";
}

std::string CheckConflicts(const LogoutArgs& logout) {
  if (logout.registry.empty() == logout.all) return "";
  return "logout takes either a registry or --all";
}

// Returns "" or why the credentials that were given have no effect.
template <typename Args>
std::string CheckGivenCredentials(const Args& args) {
  if constexpr (std::is_same_v<Args, IndexArgs>) {
    return CheckCredentials(args.image, {args.reference, args.to});
  } else if constexpr (requires { args.image, args.reference; }) {
    return CheckCredentials(args.image, {args.reference});
  } else if constexpr (requires { args.options.image; }) {
    return CheckCredentials(args.options.image, {args.options.reference});
  } else if constexpr (requires { args.image, args.references; }) {
    return CheckCredentials(args.image, args.references);
  }
  return "";
}

}  // namespace

std::string CheckCommand(const Command& command) {
  if (std::holds_alternative<DaemonArgs>(command.args) && command.global.timeout_seconds != 0) {
    return "--timeout is for commands, not for the daemon";
  }
  if (std::holds_alternative<RunArgs>(command.args) && command.global.json) {
    return "what run and shell print is the program's; omit --json";
  }
  return std::visit(
      [](const auto& args) {
        const std::string conflict = CheckConflicts(args);
        return conflict.empty() ? CheckGivenCredentials(args) : conflict;
      },
      command.args);
}

}  // namespace imagefs
