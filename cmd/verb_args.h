// SPDX-License-Identifier: Apache-2.0
// The options of the command and of each verb, as cmd/cli.h parses them.
#pragma once

#include <string>
#include <vector>

#include "base/secret.h"
#include "cmd/completion.h"
#include "cmd/image_options.h"
#include "fs/shown_as.h"

namespace imagefs {

// Options of every verb.
struct GlobalOptions {
  std::string root, run;  // "" = the user's default
  std::string log_level;  // "" = info
  std::string ca_file;
  std::string config;
  int timeout_seconds = 0;  // of the whole command; 0 = none
  bool json = false;
};

// What a verb that lists shows of its list.
struct ListOptions {
  std::vector<std::string> filters;  // KEY=PATTERN (list_filter.h)
  std::vector<std::string> columns;  // headings; none = all
  bool headings = true;
};

// The options of each verb.

struct MountArgs {
  std::string reference;
  ImageOptions image;
  std::string directory;
  std::string mode = "auto";
  bool writable = false;
  std::string upper;  // for a writable mount; "" = in the store
  std::string id_map;
  std::string context;
  bool suid = false;  // honor setuid programs and device nodes of the image
  bool dev = false;
  bool noexec = false;
  ShownAs shown_as;
  bool allow_other = false;  // without root: admit other users
  bool eager = false;
  int deadline_seconds = 0;  // 0 = the daemon's default
  bool foreground = false;
  bool quiet = false;
  // Run by mount(8) (see mount_helper.h). With `quiet`, prints nothing on success. An existing
  // mount of the same image counts as success. After a reboot the caller mounts it again, not the
  // daemon.
  bool for_mount8 = false;
  int timeout_seconds = 0;  // of -o timeout=; 0 = the command's
  std::string name_space;   // with for_mount8: of mount(8)'s -N; "" = this process's
};

struct UmountArgs {
  std::vector<std::string> directories;
  bool all = false;
  bool lazy = false;
};

struct LsArgs {
  std::vector<std::string> directories;  // none = all
  ListOptions list;
};

struct ImagesArgs {
  std::vector<std::string> names;  // of any kind that KeepNamed takes; none = all
  bool all = false;
  ListOptions list;
};

struct PullArgs {
  std::string reference;  // either this
  std::string directory;  // or the directory of an incomplete mount
  ImageOptions image;
  bool quiet = false;
};

struct RpullArgs {
  std::string reference;
  ImageOptions image;
  std::string address = "/run/containerd/containerd.sock";  // of containerd
  std::string name_space = "default";
  std::string snapshotter = "imagefs";
  bool quiet = false;
};

struct AddArgs {
  std::vector<std::string> references;
  ImageOptions image;
  std::string name;  // for podman; "" = the reference
  bool list = false;
  bool quiet = false;
};

struct DropArgs {
  std::vector<std::string> names;
};

struct IndexArgs {
  std::string reference;
  ImageOptions image;
  bool push = false;
  std::string to;
  std::string file;  // archive to write
  bool profile = false;
  std::vector<std::string> sign;  // secret key files
  bool quiet = false;
};

struct ExportArgs {
  std::string directory;
  std::vector<std::string> references;
  ImageOptions image;
  bool quiet = false;
};

struct ImportArgs {
  std::string directory;
  std::vector<std::string> references;  // none = all
  bool quiet = false;
};

struct ProfileArgs {
  std::string action;  // show, export, import or clear
  std::string reference;
  ImageOptions image;
  std::string file;  // for import; "" = stdin
};

struct EvictArgs {
  std::vector<std::string> references;
};

struct CheckArgs {
  std::vector<std::string> references;  // none = the whole store
  bool repair = false;
};

// The files of an image, without a mount.

struct InspectArgs {
  std::string reference;
  ImageOptions image;
};

struct RmArgs {
  std::vector<std::string> references;
  bool force = false;
};

struct PinArgs {
  std::vector<std::string> references;
};

struct UnpinArgs {
  std::vector<std::string> references;
};

struct DfArgs {};

struct PruneArgs {
  bool all = false;
  bool dry_run = false;
  std::string older;  // a duration; "" = any age
};

struct StatusArgs {
  std::string directory;  // of a mount; "" = status of the daemon
  std::string html;       // the file for its page; "-" = standard output; "" = none
};

struct LoginArgs {
  std::string registry;  // HOST[/NAMESPACE]
  std::string username;  // "" = to be asked for
  Secret password;       // empty = to be asked for, or read from standard input
  bool password_stdin = false;
  bool get_login = false;  // only print the user
  std::string auth_file;   // "" = where podman stores it
  bool plain_http = false;
  bool skip_tls_verify = false;
};

struct LogoutArgs {
  std::string registry;  // either this
  bool all = false;      // or this
  std::string auth_file;
};

struct DoctorArgs {
  std::string reference;  // "" = the machine only
  ImageOptions image;
};

struct DaemonArgs {
  int idle_exit_seconds = 0;
  int ready_fd = -1;
  bool check_config = false;  // becomes CheckConfigArgs
};

struct LogLevelArgs {
  std::string level;  // "" = print it
};

struct StopArgs {
  bool unmount = false;
};

// Not a verb: the option --check-config, in place of one or of `daemon`.
struct CheckConfigArgs {
  std::string file;  // "" = the one that a daemon would read
};

// Not in the help: `__complete` (completion.h), which is to be continued with what the daemon
// knows.
struct CompleteArgs {
  Completion completion;
};

}  // namespace imagefs
