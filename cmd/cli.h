// The command line: words into a Command, or help and usage errors. The only user of CLI11.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace imagefs {

struct Command {
  std::string verb;
  // Global.
  std::string root, run;  // "" = the user's default
  std::string log_level;  // "" = info
  std::string ca_file;
  std::string config;
  std::string check_config;  // instead of a verb: a configuration to be looked at
  bool json = false;
  // Of the verbs.
  std::string reference;
  std::string directory;
  std::vector<std::string> operands;  // umount: directories, rm: references
  std::string mode = "auto";
  std::string platform;
  std::string pull = "missing";
  bool plain_http = false;
  bool skip_tls_verify = false;
  bool writable = false;
  std::string upper;  // of a writable mount; "" = in the store
  std::string id_map;
  std::string context;
  bool suid = false;  // setuid programs and device nodes of the image count
  bool dev = false;
  bool noexec = false;
  bool foreground = false;
  bool quiet = false;
  bool all = false;
  bool lazy = false;
  bool unmount = false;
  bool eager = false;
  bool repair = false;
  int deadline_seconds = 0;  // 0 = the daemon's
  bool push = false;         // index
  std::string to;
  std::string file;
  bool profile = false;
  std::vector<std::string> sign;                            // index: files of secret keys
  std::string address = "/run/containerd/containerd.sock";  // rpull: of containerd
  std::string name_space = "default";
  std::string snapshotter = "imagefs";
  std::string name;    // add: of the image, for podman
  bool list = false;   // add
  std::string action;  // profile: show, export, import, clear
  int idle_exit_seconds = 0;
  int ready_fd = -1;
  // A mount asked for by mount(8) (see mount_helper.h). With `quiet` nothing is printed on success;
  // a mount of the same image that is there already is as good; and after a restart of the machine
  // whoever had it made makes it again, not the daemon.
  bool for_mount8 = false;
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
