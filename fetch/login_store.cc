// SPDX-License-Identifier: Apache-2.0
#include "fetch/login_store.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/credential_files.h"

namespace imagefs {
namespace {

constexpr char kExampleName[] = "imagefs-login";
constexpr int kLockPauseMs = 20;
constexpr int kLockAttempts = 250;  // five seconds in all

// ---- The file ----

// Returns the file that a name leads to. Whoever made a symbolic link decides what is overwritten.
absl::StatusOr<std::string> FollowLink(const std::string& file) {
  struct stat found;
  if (lstat(file.c_str(), &found) != 0 || !S_ISLNK(found.st_mode)) return file;
  if (found.st_uid != geteuid() && found.st_uid != 0) {
    return absl::FailedPreconditionError(
        StrCat(file, ": it is a symbolic link of another user; remove it, or name another file"));
  }
  char* const target = realpath(file.c_str(), nullptr);
  if (target == nullptr) return ErrnoStatus(errno, file);
  std::string out = target;
  free(target);
  return out;
}

absl::Status NotOurs(const std::string& directory) {
  return absl::FailedPreconditionError(
      StrCat(directory,
             ": it is not a directory of this user that only this user may write to; "
             "remove it, or name a file by --authfile"));
}

// Makes the directory of the file, which is `named` by the user or the default.
absl::Status MakeLoginDirectory(const std::string& file, bool named) {
  const std::string directory = ParentOf(file);
  if (named) return MakeDirs(directory, 0700);
  const std::string above = ParentOf(directory);
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(above, 0700));
  // Checked before anything is made in it: it may be in /tmp.
  if (!IsOwnDirectory(above)) return NotOurs(above);
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  return IsOwnDirectory(directory) ? absl::OkStatus() : NotOurs(directory);
}

// Keeps other imagefs commands from changing files in the directory until it is closed.
absl::StatusOr<Fd> Lock(const std::string& directory) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd fd, OpenFile(directory, O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < kLockAttempts; ++i) {
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(errno, directory);
    (void)poll(nullptr, 0, kLockPauseMs);
  }
  return absl::UnavailableError(
      StrCat(directory, ": another process has locked it for 5 s; try again"));
}

// ---- Changing it ----

// What becomes of the member `auths`.
struct Change {
  // Returns whether an entry goes.
  std::function<bool(const std::string& key)> removes;
  std::optional<std::string> key;  // an entry that is added
  std::string auth;                // its value; "" = an empty entry
};

void WriteAuths(JsonWriter& out, const Json& auths, const Change& change) {
  out.Key("auths").BeginObject();
  for (const auto& [key, entry] : auths.members()) {
    if (change.removes(key)) continue;
    out.Key(key).Document(entry);
  }
  if (change.key) {
    out.Key(*change.key).BeginObject();
    if (!change.auth.empty()) out.Member("auth", change.auth);
    out.EndObject();
  }
  out.EndObject();
}

absl::Status Rewrite(const std::string& file, const Json& config, const Change& change) {
  JsonWriter out(/*pretty=*/true);
  out.BeginObject();
  bool written = false;
  for (const auto& [key, member] : config.members()) {
    if (key == "auths") {
      WriteAuths(out, member, change);
      written = true;
    } else {
      out.Key(key).Document(member);
    }
  }
  if (!written) WriteAuths(out, Json(), change);
  out.EndObject();
  std::string text = out.Take() + "\n";
  const WipeAtEnd wipe(text);
  return WriteFileDurably(file, text, 0600);
}

bool HasAny(const Json& config, const std::function<bool(const std::string&)>& removes) {
  for (const auto& [key, entry] : config["auths"].members()) {
    if (removes(key)) return true;
  }
  return false;
}

// Docker's own file, where its hub has a key of its own, and not containers'.
bool IsDockers(const std::string& file) { return file.ends_with("/config.json"); }

std::string KeyIn(const std::string& file, const LoginName& name) {
  const bool hub = IsHubHost(name.host) && name.path.empty() && IsDockers(file);
  return hub ? std::string(kDockerHubServer) : name.ToString();
}

std::function<bool(const std::string&)> IsKeyOf(const LoginName& name) {
  return [name](const std::string& key) {
    return CredentialKey::Parse(key) == CredentialKey{name.host, name.path};
  };
}

// ---- Helpers ----

struct Helper {
  std::string name;    // "" = none is responsible
  std::string file;    // that names it
  bool store = false;  // by credsStore: docker then has an empty entry in the file
};

absl::StatusOr<Helper> ResponsibleHelper(const CredentialOptions& options, const std::string& file,
                                         const Json& config, const LoginName& name) {
  if (!name.path.empty()) return Helper();
  const Reference reference = name.Example();
  if (std::string helper = HelperFor(config, reference); !helper.empty()) {
    bool by_name = false;
    for (const auto& [key, value] : config["credHelpers"].members()) {
      by_name = by_name || CredentialKey::Parse(key).Fit(reference) > 0;
    }
    return Helper{std::move(helper), file, /*store=*/!by_name};
  }
  if (!options.auth_file.empty()) return Helper();
  std::string dockers = options.docker_config;
  if (dockers.empty() && !options.home.empty()) dockers = options.home + "/.docker";
  if (dockers.empty()) return Helper();
  dockers += "/config.json";
  IMAGEFS_ASSIGN_OR_RETURN(const Json theirs, ReadCredentialFile(dockers));
  // Not its credsStore, which only docker asks.
  for (const auto& [key, helper] : theirs["credHelpers"].members()) {
    if (IsKeyOf(name)(key)) return Helper{helper.string().value_or(""), dockers, false};
  }
  return Helper();
}

absl::Status StoreWith(const Helper& helper, const LoginName& name, const std::string& username,
                       const Secret& password) {
  const std::vector<std::string> servers = HelperServers(name.host);
  JsonWriter out;
  out.BeginObject();
  out.Member("ServerURL", IsDockers(helper.file) ? servers.front() : servers.back());
  out.Member("Username", username).Member("Secret", password.view()).EndObject();
  std::string text = out.Take();
  const WipeAtEnd wipe(text);
  IMAGEFS_ASSIGN_OR_RETURN(ProgramResult result,
                           RunCredentialHelper(helper.name, "store", text, helper.file));
  const WipeAtEnd wipe_output(result.output);
  if (result.succeeded()) return absl::OkStatus();
  return HelperError(helper.name, result.Complaint(), helper.file);
}

// Returns whether it had any for that host.
absl::StatusOr<bool> EraseFrom(const Helper& helper, const std::string& host) {
  bool any = false;
  for (const std::string& server : HelperServers(host)) {
    // Some fail to erase what they do not have, in words of their own.
    IMAGEFS_ASSIGN_OR_RETURN(ProgramResult had,
                             RunCredentialHelper(helper.name, "get", server, helper.file));
    const WipeAtEnd wipe(had.output);
    if (HelperHasNone(had)) continue;
    if (!had.succeeded()) return HelperError(helper.name, had.Complaint(), helper.file);
    IMAGEFS_ASSIGN_OR_RETURN(const ProgramResult erased,
                             RunCredentialHelper(helper.name, "erase", server, helper.file));
    if (!erased.succeeded()) return HelperError(helper.name, erased.Complaint(), helper.file);
    any = true;
  }
  return any;
}

// The file, locked, and what it has.
struct OpenedFile {
  std::string path;
  Fd lock;
  Json config;  // absent: there is none
};

absl::StatusOr<OpenedFile> OpenLoginFile(const CredentialOptions& options, bool make) {
  OpenedFile out;
  IMAGEFS_ASSIGN_OR_RETURN(out.path, LoginFile(options));
  const bool named = !options.auth_file.empty() || !options.docker_config.empty();
  if (make) IMAGEFS_RETURN_IF_ERROR(MakeLoginDirectory(out.path, named));
  absl::StatusOr<Fd> lock = Lock(ParentOf(out.path));
  if (!lock.ok() && (make || !absl::IsNotFound(lock.status()))) return lock.status();
  if (lock.ok()) out.lock = *std::move(lock);
  IMAGEFS_ASSIGN_OR_RETURN(out.config, ReadCredentialFile(out.path));
  const Json auths = out.config["auths"];
  if (!auths.exists() || auths.is_object() || auths.is_null()) return out;
  return absl::InvalidArgumentError(
      StrCat(out.path, ": its member auths is not an object; repair or remove the file"));
}

}  // namespace

absl::StatusOr<LoginName> LoginName::Parse(std::string_view text) {
  const auto invalid = [text](std::string_view why) {
    return absl::InvalidArgumentError(StrCat("\"", PrintableName(text), "\" ", why));
  };
  if (text.find("://") != std::string_view::npos) {
    return invalid("is a URL; write HOST[:PORT] without https://");
  }
  const absl::StatusOr<Reference> reference = Reference::Parse(StrCat(text, "/", kExampleName));
  const std::string_view host = text.substr(0, text.find('/'));
  const bool same = reference.ok() && reference->transport == Reference::Transport::kRegistry &&
                    (reference->host == host || (IsHubHost(reference->host) && IsHubHost(host)));
  if (!same) return invalid("is not a registry; write HOST[:PORT] or HOST[:PORT]/NAMESPACE");
  LoginName name;
  name.host = reference->host;
  if (host.size() < text.size()) name.path = text.substr(host.size() + 1);
  return name;
}

std::string LoginName::ToString() const { return path.empty() ? host : StrCat(host, "/", path); }

Reference LoginName::Example() const {
  Reference out;
  out.host = host;
  out.repository = path.empty() ? kExampleName : StrCat(path, "/", kExampleName);
  return out;
}

std::string LoginPlace::ToString() const {
  return helper.empty() ? file : StrCat("docker-credential-", helper, ", by ", file);
}

absl::StatusOr<std::string> LoginFile(const CredentialOptions& options) {
  if (!options.auth_file.empty()) return FollowLink(options.auth_file);
  if (!options.docker_config.empty()) return FollowLink(options.docker_config + "/config.json");
  if (!options.xdg_runtime_dir.empty()) {
    if (!IsOwnDirectory(options.xdg_runtime_dir)) {
      return absl::FailedPreconditionError(
          StrCat("XDG_RUNTIME_DIR: ", options.xdg_runtime_dir,
                 " is not a directory of this user that only this user may write to; make it, "
                 "unset the variable, or name a file by --authfile"));
    }
    return options.xdg_runtime_dir + "/containers/auth.json";
  }
  if (options.login_dirs.size() != 3) return absl::FailedPreconditionError("no place for logins");
  // Podman of root asks for no session. Other users' make the first of these that they can.
  const std::vector<std::string>& places = options.login_dirs;
  const bool session = IsOwnDirectory(ParentOf(places[0]));
  return (IsMachineRoot() ? places[2] : session ? places[0] : places[1]) + "/auth.json";
}

absl::StatusOr<LoginPlace> StoreLogin(const CredentialOptions& options, const LoginName& name,
                                      const std::string& username, const Secret& password) {
  IMAGEFS_ASSIGN_OR_RETURN(const OpenedFile opened, OpenLoginFile(options, /*make=*/true));
  IMAGEFS_ASSIGN_OR_RETURN(const Helper helper,
                           ResponsibleHelper(options, opened.path, opened.config, name));
  Change change;
  change.removes = IsKeyOf(name);
  if (!helper.name.empty()) {
    IMAGEFS_RETURN_IF_ERROR(StoreWith(helper, name, username, password));
    if (helper.store) change.key = KeyIn(opened.path, name);
    // What the file had is older.
    if (change.key || HasAny(opened.config, change.removes)) {
      IMAGEFS_RETURN_IF_ERROR(Rewrite(opened.path, opened.config, change));
    }
    return LoginPlace{helper.file, helper.name};
  }
  const Secret pair = Secret::Concat({username, ":", password.view()});
  change.auth.reserve(pair.size() * 4 / 3 + 4);  // must not be reallocated
  const WipeAtEnd wipe(change.auth);
  absl::Base64Escape(ToAbsl(pair.view()), &change.auth);
  change.key = KeyIn(opened.path, name);
  IMAGEFS_RETURN_IF_ERROR(Rewrite(opened.path, opened.config, change));
  return LoginPlace{opened.path, ""};
}

absl::StatusOr<LoginPlace> EraseLogin(const CredentialOptions& options, const LoginName& name) {
  IMAGEFS_ASSIGN_OR_RETURN(const OpenedFile opened, OpenLoginFile(options, /*make=*/false));
  IMAGEFS_ASSIGN_OR_RETURN(const Helper helper,
                           ResponsibleHelper(options, opened.path, opened.config, name));
  bool helped = false;
  if (!helper.name.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(helped, EraseFrom(helper, name.host));
  }
  Change change;
  change.removes = IsKeyOf(name);
  const bool written = HasAny(opened.config, change.removes);
  if (written) IMAGEFS_RETURN_IF_ERROR(Rewrite(opened.path, opened.config, change));
  if (helped) return LoginPlace{helper.file, helper.name};
  if (written) return LoginPlace{opened.path, ""};
  return absl::NotFoundError(
      StrCat("there is no login for ", name.ToString(), " in ", opened.path));
}

absl::StatusOr<std::vector<std::string>> EraseAllLogins(const CredentialOptions& options) {
  IMAGEFS_ASSIGN_OR_RETURN(const OpenedFile opened, OpenLoginFile(options, /*make=*/false));
  std::vector<std::string> erased;
  for (const auto& [key, value] : opened.config["credHelpers"].members()) {
    const Helper helper{value.string().value_or(""), opened.path, false};
    if (helper.name.empty()) continue;
    IMAGEFS_ASSIGN_OR_RETURN(const bool had, EraseFrom(helper, CredentialKey::Parse(key).host));
    if (had) erased.push_back(key);
  }
  const Helper store{opened.config.StringOr("credsStore"), opened.path, true};
  for (const auto& [key, entry] : opened.config["auths"].members()) {
    if (!store.name.empty() && entry.size() == 0) {
      IMAGEFS_RETURN_IF_ERROR(EraseFrom(store, CredentialKey::Parse(key).host).status());
    }
    erased.push_back(key);
  }
  Change change;
  change.removes = [](const std::string&) { return true; };
  if (HasAny(opened.config, change.removes)) {
    IMAGEFS_RETURN_IF_ERROR(Rewrite(opened.path, opened.config, change));
  }
  return erased;
}

}  // namespace imagefs
