// SPDX-License-Identifier: Apache-2.0
// The verbs `run` and `shell`. One process supervises the container, another has the daemon mount
// the image in it and ends with that: the first one has no threads and handles signals alone.
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/directory.h"
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/container.h"
#include "cmd/container_init.h"
#include "cmd/image_program.h"
#include "cmd/mount_channel.h"
#include "cmd/run_verbs.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent

// The paths are those of the caller, whatever the container sees later.
absl::StatusOr<Container::Options> ContainerOptions(const RunArgs& args) {
  Container::Options out;
  out.read_only = args.options.read_only;
  if (!args.keep.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(out.keep, AbsolutePath(args.keep));
  }
  for (BindArg bind : args.binds) {
    IMAGEFS_ASSIGN_OR_RETURN(bind.source, AbsolutePath(bind.source));
    if (access(bind.source.c_str(), F_OK) != 0) {
      return ErrnoStatus(errno, StrCat("--bind ", bind.source));
    }
    out.binds.push_back(std::move(bind));
  }
  return out;
}

// Has the image mounted in the container, and the program started. Returns only if it fails.
absl::Status StartIn(Container& container, ClientSession& session, const RunArgs& args) {
  IMAGEFS_ASSIGN_OR_RETURN(const auto client, session.Connect(/*start=*/true));
  IMAGEFS_ASSIGN_OR_RETURN(ImageProgram program,
                           FindProgram(session, *client, args.options, args.shell));
  IMAGEFS_ASSIGN_OR_RETURN(const Container::Place place, container.Prepare());
  IMAGEFS_ASSIGN_OR_RETURN(const MountConnection channel, ConnectForMount(client->paths()));
  // Found by the store if the run directory is not in this namespace.
  const Paths& daemon = client->paths();
  const bool has_run = access(daemon.run.c_str(), F_OK) == 0;
  IMAGEFS_RETURN_IF_ERROR(container.TakeImage(channel.socket, has_run ? daemon.run : daemon.root));
  MountRequest request;
  *request.mutable_image() = program.image;
  request.set_directory("/");
  request.set_progress(!args.options.quiet && isatty(STDERR_FILENO) != 0);
  MountRequest::ByCaller* const by_caller = request.mutable_by_caller();
  by_caller->set_channel(channel.id);
  by_caller->set_mount_namespace(place.mount_namespace);
  by_caller->set_device(place.covered.device);
  by_caller->set_inode(place.covered.inode);
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result,
                           session.Transfer(*client, request, &DaemonClient::Mount));
  IMAGEFS_RETURN_IF_ERROR(CheckSameImage(program, result));
  // From here on signals are the program's, to which the supervising process sends them as well.
  const Interrupts::Scope scope(session.interrupts(), [] {});
  IMAGEFS_RETURN_IF_ERROR(container.Start(program.spec));
  _exit(0);
}

// In a child of the supervising process. Does not return.
[[noreturn]] void StartAndExit(Container& container, const RunArgs& args,
                               const GlobalOptions& global, const Paths& paths,
                               std::string_view version, Output& out) {
  prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
  container.RestoreSignals();
  ClientSession session(global, paths, version, out);
  const absl::Status status = StartIn(container, session, args);
  // The container has said why it ended.
  _exit(out.Finish(absl::IsAborted(status) ? kCannotRun : session.Finish(status)));
}

}  // namespace

int RunProgramOf(const RunArgs& args, const GlobalOptions& global, const Paths& paths,
                 std::string_view version, Output& out) {
  const auto failed = [&out](const absl::Status& status) {
    (void)out.Fail(status);
    return kCannotRun;
  };
  absl::StatusOr<Container::Options> options = ContainerOptions(args);
  if (!options.ok()) return failed(options.status());
  const auto container = Container::Create(*std::move(options));
  if (!container.ok()) return failed(container.status());
  const pid_t caller = fork();
  if (caller < 0) return failed(ErrnoStatus(errno, "cannot start a process"));
  if (caller == 0) StartAndExit(**container, args, global, paths, version, out);
  const absl::StatusOr<int> status = (*container)->Supervise(caller);
  return status.ok() ? *status : failed(status.status());
}

}  // namespace imagefs
