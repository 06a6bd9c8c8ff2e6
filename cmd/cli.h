// SPDX-License-Identifier: Apache-2.0
// Parses the command line into a Command, or into help or a usage error. CLI11 is used here and in
// completion.h.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "cmd/file_args.h"
#include "cmd/run_args.h"
#include "cmd/verb_args.h"

namespace imagefs {

struct Command {
  GlobalOptions global;
  std::variant<MountArgs, UmountArgs, LsArgs, ImagesArgs, PullArgs, RpullArgs, AddArgs, DropArgs,
               IndexArgs, ExportArgs, ImportArgs, ProfileArgs, EvictArgs, CheckArgs, InspectArgs,
               CatArgs, CopyArgs, ListFilesArgs, ExportTreeArgs, DiffArgs, RunArgs, BundleArgs,
               RmArgs, PinArgs, UnpinArgs, DfArgs, PruneArgs, StatusArgs, LogLevelArgs, LoginArgs,
               LogoutArgs, DoctorArgs, DaemonArgs, StopArgs, CheckConfigArgs, CompleteArgs>
      args;
};

// What to print and how to exit if there is no command to run. With --json the output is JSON,
// including usage errors (print.h) but not help.
struct CliExit {
  int code = 0;
  std::string output;  // stdout
  std::string error;   // stderr
};

std::variant<Command, CliExit> ParseCommandLine(int argc, const char* const* argv,
                                                std::string_view version);

}  // namespace imagefs
