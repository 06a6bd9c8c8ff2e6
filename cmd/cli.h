// SPDX-License-Identifier: Apache-2.0
// The command line: words into a Command, or help and usage errors. The only user of CLI11.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace imagefs {

// What every verb has.
struct GlobalOptions {
  std::string root, run;  // "" = the user's default
  std::string log_level;  // "" = info
  std::string ca_file;
  std::string config;
  bool json = false;
};

// How the images that a verb names are looked up.
struct ImageOptions {
  std::string platform;  // "" = this machine's
  std::string pull = "missing";
  bool plain_http = false;
  bool skip_tls_verify = false;
};

// What each verb has besides.

struct MountArgs {
  std::string reference;
  ImageOptions image;
  std::string directory;
  std::string mode = "auto";
  bool writable = false;
  std::string upper;  // of a writable mount; "" = in the store
  std::string id_map;
  std::string context;
  bool suid = false;  // setuid programs and device nodes of the image count
  bool dev = false;
  bool noexec = false;
  bool eager = false;
  int deadline_seconds = 0;  // 0 = the daemon's
  bool foreground = false;
  bool quiet = false;
  // Asked for by mount(8) (see mount_helper.h). With `quiet` nothing is printed on success; a mount
  // of the same image that is there already is as good; and after a restart of the machine whoever
  // had it made makes it again, not the daemon.
  bool for_mount8 = false;
};

struct UmountArgs {
  std::vector<std::string> directories;
  bool all = false;
  bool lazy = false;
};

struct LsArgs {};

struct ImagesArgs {};

struct PullArgs {
  std::string reference;  // either this one
  std::string directory;  // or that of a mount which lacks something
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
  std::string file;  // of an archive
  bool profile = false;
  std::vector<std::string> sign;  // files of secret keys
  bool quiet = false;
};

struct ProfileArgs {
  std::string action;  // show, export, import, clear
  std::string reference;
  ImageOptions image;
  std::string file;  // of import; "" = stdin
};

struct EvictArgs {
  std::vector<std::string> references;
};

struct CheckArgs {
  std::vector<std::string> references;  // none = the whole store
  bool repair = false;
};

struct InspectArgs {
  std::string reference;
  ImageOptions image;
};

struct RmArgs {
  std::vector<std::string> references;
};

struct StatusArgs {
  std::string directory;  // of a mount; "" = of the daemon
};

struct DaemonArgs {
  int idle_exit_seconds = 0;
  int ready_fd = -1;
};

struct StopArgs {
  bool unmount = false;
};

// Not a verb: --check-config in the place of one.
struct CheckConfigArgs {
  std::string file;
};

struct Command {
  GlobalOptions global;
  std::variant<MountArgs, UmountArgs, LsArgs, ImagesArgs, PullArgs, RpullArgs, AddArgs, DropArgs,
               IndexArgs, ProfileArgs, EvictArgs, CheckArgs, InspectArgs, RmArgs, StatusArgs,
               DaemonArgs, StopArgs, CheckConfigArgs>
      args;
};

// What to print and how to exit when there is no command to run. With --json what is printed is
// JSON, also about a usage error (print.h), but for help.
struct CliExit {
  int code = 0;
  std::string output;  // stdout
  std::string error;   // stderr
};

std::variant<Command, CliExit> ParseCommandLine(int argc, const char* const* argv,
                                                std::string_view version);

}  // namespace imagefs
