// The program imagefsd: everything that the command is, and the daemon.
#include <stdio.h>

#include <variant>

#include "cmd/cli.h"
#include "cmd/daemon.h"
#include "cmd/private_memory.h"
#include "cmd/verbs.h"

int main(int argc, char** argv) {
  imagefs::KeepMemoryPrivate();
  const auto parsed = imagefs::ParseCommandLine(argc, argv, IMAGEFS_VERSION);
  if (const auto* exit = std::get_if<imagefs::CliExit>(&parsed)) {
    fputs(exit->output.c_str(), stdout);
    fputs(exit->error.c_str(), stderr);
    return exit->code;
  }
  return imagefs::RunCommand(std::get<imagefs::Command>(parsed), IMAGEFS_VERSION,
                             &imagefs::Daemon::Start);
}
