// SPDX-License-Identifier: Apache-2.0
// The command. It is the daemon's client and starts in a few milliseconds, since it links none of
// the daemon's libraries. For a verb that runs the daemon or parts of it, it executes the
// program imagefsd in the same directory.
#include <errno.h>
#include <locale.h>
#include <unistd.h>

#include <string>
#include <variant>

#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/cli.h"
#include "cmd/container_init.h"
#include "cmd/mount_helper.h"
#include "cmd/output.h"
#include "cmd/private_memory.h"
#include "cmd/rendezvous.h"
#include "cmd/verbs.h"

int main(int argc, char** argv) {
  imagefs::ContinueContainerInit(argc, argv);
  imagefs::KeepMemoryPrivate();
  imagefs::HoldStandardDescriptors();
  setlocale(LC_CTYPE, "");  // how wide a name is on the terminal
  const bool helper = argc > 0 && imagefs::IsMountHelper(argv[0]);
  const auto parsed = helper ? imagefs::ParseMountHelper(argc, argv, IMAGEFS_VERSION)
                             : imagefs::ParseCommandLine(argc, argv, IMAGEFS_VERSION);
  if (const auto* exit = std::get_if<imagefs::CliExit>(&parsed)) {
    return imagefs::PrintExit(*exit);
  }
  const auto& command = std::get<imagefs::Command>(parsed);
  if (!imagefs::NeedsDaemonProgram(command)) {
    const int status = imagefs::RunCommand(command, IMAGEFS_VERSION, nullptr);
    return helper ? imagefs::MountHelperStatus(status) : status;
  }
  const std::string program = imagefs::DaemonProgram();
  execv(program.c_str(), argv);
  const absl::Status failure = imagefs::ErrnoStatus(errno, imagefs::StrCat("starting ", program));
  imagefs::Output output(command.global.json);
  const int status = output.Finish(output.Fail(imagefs::WithKind(
      absl::Status(failure.code(),
                   imagefs::StrCat(failure.message(), "; install it next to imagefs")),
      imagefs::FailureKind::kNoDaemon)));
  return helper ? imagefs::MountHelperStatus(status) : status;
}
