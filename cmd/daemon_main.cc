// SPDX-License-Identifier: Apache-2.0
// The program imagefsd: the whole command, and the daemon.
#include <variant>

#include "cmd/cli.h"
#include "cmd/container_init.h"
#include "cmd/daemon.h"
#include "cmd/doctor.h"
#include "cmd/login.h"
#include "cmd/output.h"
#include "cmd/private_memory.h"
#include "cmd/run_daemon.h"
#include "cmd/verbs.h"

int main(int argc, char** argv) {
  imagefs::ContinueContainerInit(argc, argv);
  imagefs::KeepMemoryPrivate();
  imagefs::HoldStandardDescriptors();
  const auto parsed = imagefs::ParseCommandLine(argc, argv, IMAGEFS_VERSION);
  if (const auto* exit = std::get_if<imagefs::CliExit>(&parsed)) {
    return imagefs::PrintExit(*exit);
  }
  const imagefs::DaemonProgramParts parts{&imagefs::Daemon::Start, &imagefs::RunDaemon,
                                          &imagefs::RunDoctor, &imagefs::RunLogin,
                                          &imagefs::RunLogout};
  return imagefs::RunCommand(std::get<imagefs::Command>(parsed), IMAGEFS_VERSION, &parts);
}
