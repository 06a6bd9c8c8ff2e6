// SPDX-License-Identifier: Apache-2.0
// The verb `mount`, also for mount(8) and with --foreground.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <chrono>
#include <iterator>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/config.h"
#include "cmd/daemon.h"
#include "cmd/interrupt.h"
#include "cmd/mount_by.h"
#include "cmd/mount_channel.h"
#include "cmd/rendezvous.h"
#include "cmd/unmount.h"
#include "cmd/verb_handlers.h"
#include "fs/mount_namespace.h"
#include "fs/mount_syscalls.h"
#include "fs/overlay_upper.h"
#include "fs/user_mount.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent
using Clock = std::chrono::steady_clock;

// Returns whether autofs is waiting for a mount there. Until it is mounted, the kernel lets only
// the process group of the automounter pass: mount(8) as started by systemd or automount(8), and so
// the helper, but never the daemon.
bool IsAutomount(const std::string& directory) {
  struct statfs found;
  return statfs(directory.c_str(), &found) == 0 && found.f_type == AUTOFS_SUPER_MAGIC;
}

absl::StatusOr<MountRequest> MakeMountRequest(ClientSession& session, const MountArgs& args) {
  MountRequest request;
  IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_image(),
                           session.MakeImageRequest(args.reference, args.image));
  IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_directory(), AbsolutePath(args.directory));
  request.set_mode(args.mode);
  request.set_writable(args.writable);
  if (!args.upper.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_upper(), AbsolutePath(args.upper));
  }
  request.set_id_map(args.id_map);
  request.set_context(args.context);
  request.set_suid(args.suid);
  request.set_dev(args.dev);
  request.set_noexec(args.noexec);
  request.set_eager(args.eager);
  const ShownAs& shown = args.shown_as;
  if (shown.uid) request.set_uid(*shown.uid);
  if (shown.gid) request.set_gid(*shown.gid);
  if (shown.file_mask) request.set_file_mask(*shown.file_mask);
  if (shown.directory_mask) request.set_directory_mask(*shown.directory_mask);
  request.set_allow_other(args.allow_other);
  request.set_deadline_seconds(args.deadline_seconds);
  request.set_this_boot_only(args.for_mount8);
  request.set_progress(!args.quiet);
  return request;
}

// Returns whether that image is mounted on the directory as requested.
bool MountedAlready(DaemonClient& client, const MountRequest& request) {
  ListMountsReply reply;
  char resolved[PATH_MAX];
  if (realpath(request.directory().c_str(), resolved) == nullptr) return false;
  if (!client.ListMounts(&reply).ok()) return false;
  for (const control::v1::Mount& mount : reply.mounts()) {
    if (mount.directory() != resolved || mount.mount_namespace() != client.NamespaceHere())
      continue;
    return mount.reference() == request.image().reference() &&
           mount.writable() == request.writable();
  }
  return false;
}

// Blocks until an interrupt, or until another process unmounts the directory. The kernel reports a
// change of the mount table as an exceptional condition of mountinfo.
void WaitUntilUnmounted(Interrupts& interrupts, const std::string& directory) {
  Fd wake(eventfd(0, EFD_CLOEXEC));
  absl::StatusOr<Fd> mountinfo = OpenFile("/proc/self/mountinfo", O_RDONLY);
  if (!wake.valid() || !mountinfo.ok()) return;
  Interrupts::Scope scope(interrupts, [&wake] {
    const uint64_t one = 1;
    (void)!write(wake.get(), &one, sizeof(one));
  });
  while (true) {
    absl::StatusOr<std::vector<MountInfo>> mounts = ReadMountInfo();
    if (mounts.ok() && FindMountAt(*mounts, directory) == nullptr) return;
    pollfd fds[] = {{wake.get(), POLLIN, 0}, {mountinfo->get(), POLLPRI, 0}};
    if (poll(fds, std::size(fds), -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
  }
}

absl::Status MountAndWait(ClientSession& session, MountRequest& request, Clock::time_point begin) {
  IMAGEFS_ASSIGN_OR_RETURN(auto client, session.Connect(/*start=*/false));
  IMAGEFS_ASSIGN_OR_RETURN(const MountResult result,
                           MountBy(session, *client, request, /*name_space=*/""));
  session.SetTimeout(0);
  session.PrintResult(result, begin);
  WaitUntilUnmounted(session.interrupts(), result.mount().directory());
  session.interrupts().Forget();
  UnmountRequest unmount;
  unmount.add_directories(result.mount().directory());
  UnmountReply reply;
  IMAGEFS_RETURN_IF_ERROR(Unmount(*client, unmount, &reply));
  if (reply.failures().empty()) return absl::OkStatus();
  // In use, or already gone; a lazy unmount accepts both.
  unmount.set_lazy(true);
  return Unmount(*client, unmount, &reply);
}

// If no daemon runs, this process is the daemon for as long as the mount exists.
int MountInForeground(ClientSession& session, MountRequest& request,
                      const DaemonProgramParts& program, Clock::time_point begin) {
  std::unique_ptr<Daemon> daemon;
  if (absl::StatusOr<Fd> other = ConnectDaemon(session.paths()); absl::IsNotFound(other.status())) {
    Daemon::Options options;
    options.paths = session.paths();
    options.version = session.version();
    options.ca_file = session.global().ca_file;
    options.config_file = ConfigFile(session.global().config);
    absl::StatusOr<Config> config = LoadConfig(session.global().config);
    if (!config.ok()) return session.out().Fail(config.status());
    options.config = *std::move(config);
    std::string level = session.global().log_level;
    if (level.empty()) level = options.config.log_level;
    SetLogLevel(ParseLogLevel(level.empty() ? "warning" : level));
    options.handle_signals = false;
    absl::StatusOr<std::unique_ptr<Daemon>> started = program.start(std::move(options));
    if (!started.ok()) return session.Finish(NoDaemonBecause(started.status()));
    daemon = *std::move(started);
  }
  std::thread serving;
  if (daemon != nullptr) serving = std::thread([&daemon] { daemon->Serve(); });
  const absl::Status status = MountAndWait(session, request, begin);
  if (daemon != nullptr) {
    // Other mounts of this store are left to the next daemon.
    daemon->RequestStop(/*forget_mounts=*/false);
    serving.join();
  }
  return session.Finish(status);
}

}  // namespace

absl::StatusOr<MountResult> MountBy(ClientSession& session, DaemonClient& client,
                                    MountRequest& request, const std::string& name_space) {
  const uint64_t theirs = client.mount_namespace();
  // An overlay is made by whoever may mount: this process, not the daemon of a user.
  const bool own_overlay = request.writable() && !MountsAsRoot();
  if (own_overlay && name_space.empty() && !MayMount()) {
    return UserOverlayDenied(request.directory());
  }
  if (own_overlay && !request.upper().empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_upper(), ResolveUpper(request.upper()));
  }
  if (client.NamespaceHere() == 0 && !own_overlay && !client.callers_mount() &&
      name_space.empty() && !IsAutomount(request.directory())) {
    return session.Transfer(client, request, &DaemonClient::Mount);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<MountForDaemon> mount,
                           MountForDaemon::Open({client.paths(), request.directory(), name_space,
                                                 request.allow_other()}));
  request.set_directory(mount->directory());
  MountRequest::ByCaller* const by_caller = request.mutable_by_caller();
  by_caller->set_channel(mount->channel());
  if (mount->name_space() != theirs || own_overlay)
    by_caller->set_mount_namespace(mount->name_space());
  by_caller->set_device(mount->covered().device);
  by_caller->set_inode(mount->covered().inode);
  absl::StatusOr<MountResult> result = session.Transfer(client, request, &DaemonClient::Mount);
  if (result.ok()) mount->Keep();
  return result;
}

int Run(ClientSession& session, const MountArgs& args, const DaemonProgramParts* program) {
  const Clock::time_point begin = Clock::now();
  if (args.timeout_seconds != 0) session.SetTimeout(args.timeout_seconds);
  absl::StatusOr<MountRequest> request = MakeMountRequest(session, args);
  if (!request.ok()) return session.Finish(request.status());
  if (args.foreground) return MountInForeground(session, *request, *program, begin);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  absl::StatusOr<MountResult> result = MountBy(session, **client, *request, args.name_space);
  if (args.for_mount8 && absl::IsAlreadyExists(result.status()) &&
      MountedAlready(**client, *request)) {
    return 0;
  }
  if (!result.ok()) return session.Finish(result.status());
  if (!args.for_mount8 || !args.quiet) session.PrintResult(*result, begin);
  return 0;
}

}  // namespace imagefs
