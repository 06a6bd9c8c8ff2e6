// SPDX-License-Identifier: Apache-2.0
// The verb `bundle`: the image as a bundle for an OCI runtime.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/image_program.h"
#include "cmd/mount_by.h"
#include "cmd/run_verbs.h"
#include "cmd/runtime_config.h"
#include "cmd/unmount.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent
using Clock = std::chrono::steady_clock;

// Writes the configuration of the mounted tree.
absl::Status WriteConfig(const std::string& file, const std::string& tree,
                         const ImageProgram& program, const RunOptions& options) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd root, OpenFile(tree, O_PATH | O_DIRECTORY));
  IMAGEFS_ASSIGN_OR_RETURN(const UserIds ids, FindUserIn(root, program.spec.user));
  RuntimeOptions runtime;
  runtime.rootless = geteuid() != 0;
  runtime.read_only = options.read_only || runtime.rootless;
  runtime.terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  runtime.uid = geteuid();
  runtime.gid = getegid();
  IMAGEFS_ASSIGN_OR_RETURN(const std::string text,
                           RuntimeConfig(program.config_json, program.spec, ids, runtime));
  return WriteFileDurably(file, text, 0644);
}

absl::Status MakeBundle(ClientSession& session, const BundleArgs& args) {
  const Clock::time_point begin = Clock::now();
  IMAGEFS_ASSIGN_OR_RETURN(const std::string directory, AbsolutePath(args.directory));
  const std::string tree = StrCat(directory, "/rootfs"), file = StrCat(directory, "/config.json");
  if (access(file.c_str(), F_OK) == 0) {
    return absl::AlreadyExistsError(StrCat(file, " exists; remove it, or choose another DIR"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const auto client, session.Connect(/*start=*/true));
  IMAGEFS_ASSIGN_OR_RETURN(const ImageProgram program,
                           FindProgram(session, *client, args.options, /*shell=*/false));
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(tree));
  MountRequest request;
  *request.mutable_image() = program.image;
  request.set_directory(tree);
  request.set_writable(geteuid() == 0 && !args.options.read_only);
  request.set_suid(true);  // as in any container: the runtime decides
  request.set_progress(!args.options.quiet);
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result, MountBy(session, *client, request));
  absl::Status status = CheckSameImage(program, result);
  if (status.ok()) status = WriteConfig(file, tree, program, args.options);
  if (status.ok()) {
    session.PrintResult(result, begin);
    return status;
  }
  UnmountRequest unmount;
  unmount.add_directories(result.mount().directory());
  unmount.set_lazy(true);
  UnmountReply reply;
  Unmount(*client, unmount, &reply).IgnoreError();
  return status;
}

}  // namespace

int Run(ClientSession& session, const BundleArgs& args) {
  return session.Finish(MakeBundle(session, args));
}

}  // namespace imagefs
