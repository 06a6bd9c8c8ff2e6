// SPDX-License-Identifier: Apache-2.0
// The verbs that are one request to the daemon.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/client.h"
#include "cmd/interrupt.h"
#include "cmd/list_filter.h"
#include "cmd/print.h"
#include "cmd/rendezvous.h"
#include "cmd/status_page.h"
#include "cmd/unmount.h"
#include "cmd/verb_handlers.h"
#include "fs/mount_namespace.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_target.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent

constexpr int kStopTimeoutMs = 60'000;
constexpr auto kSilence = std::chrono::milliseconds(2000);  // before the user is told

// Returns the exit status of their kind, or that of a failure of no particular kind if they differ.
int StatusOf(const google::protobuf::RepeatedPtrField<UnmountReply::Failure>& failures) {
  if (failures.empty()) return 0;
  const bool alike = std::all_of(failures.begin(), failures.end(), [&](const auto& failure) {
    return failure.kind() == failures[0].kind();
  });
  const std::optional<FailureKind> kind = alike ? ParseKind(failures[0].kind()) : std::nullopt;
  return ExitStatusOf(kind.value_or(FailureKind::kOther));
}

template <typename Request>
int RemoveBy(ClientSession& session, const std::vector<std::string>& names,
             google::protobuf::RepeatedPtrField<std::string>* (Request::*field)(),
             absl::Status (DaemonClient::*call)(const Request&, RemoveReply*),
             Request request = {}) {
  const absl::Status parsed = session.AddReferences(names, (request.*field)());
  if (!parsed.ok()) return session.out().Fail(parsed);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  RemoveReply reply;
  const absl::Status status = ((**client).*call)(request, &reply);
  if (status.ok()) {
    session.out().Print(session.json() ? RemoveJson(reply) : RemoveText(reply));
    for (const std::string& note : reply.notes()) {
      session.out().Note(StrCat("imagefs: ", OneLine(note), "\n"));
    }
  }
  return session.Finish(status);
}

int PinOrUnpin(ClientSession& session, const std::vector<std::string>& references, bool unpin) {
  PinRequest request;
  request.set_unpin(unpin);
  const absl::Status parsed = session.AddReferences(references, request.mutable_references());
  if (!parsed.ok()) return session.out().Fail(parsed);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  return session.Finish((*client)->Pin(request));
}

absl::Status WritePage(ClientSession& session, const std::string& file, const std::string& page) {
  if (file == "-") {
    session.out().Print(page);
    return absl::OkStatus();
  }
  // The names in it are the image's: for others only where the umask allows it.
  const Fd fd(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666));
  if (!fd.valid()) return ErrnoStatus(errno, file);
  return Annotate(WriteFull(fd.get(), page), file);
}

bool IsMountPoint(const std::string& directory) {
  const auto mounts = ReadMountInfo();
  return mounts.ok() && FindMountAt(*mounts, MountPointOf(directory)) != nullptr;
}

int MountStatus(ClientSession& session, const StatusArgs& args) {
  const absl::StatusOr<std::string> directory = AbsolutePath(args.directory);
  if (!directory.ok()) return session.out().Fail(directory.status());
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  MountStatusReply reply;
  const uint64_t name_space = (*client)->NamespaceHere();
  // The daemon cannot resolve a path of another namespace.
  const std::string path = name_space == 0 ? *directory : MountPointOf(*directory);
  absl::Status status = (*client)->MountStatus(path, name_space, !args.html.empty(), &reply);
  if (absl::IsNotFound(status) && name_space != 0 && IsMountPoint(*directory)) {
    // What the daemon mounts may also be here: by propagation.
    status = (*client)->MountStatus(*directory, 0, !args.html.empty(), &reply);
  }
  if (status.ok() && !args.html.empty()) {
    status = WritePage(session, args.html, MountPage(reply, /*served=*/false));
  } else if (status.ok()) {
    session.out().Print(session.json() ? MountStatusJson(reply) : MountStatusText(reply));
  }
  return session.Finish(status);
}

TableStyle StyleOf(const ListOptions& list) { return {list.columns, list.headings}; }

// Fails if one of the directories is not in the list. Of two mounts of that name, the one of this
// namespace is meant.
absl::Status KeepDirectories(const std::vector<std::string>& directories, uint64_t name_space,
                             ListMountsReply* reply) {
  if (directories.empty()) return absl::OkStatus();
  ListMountsReply kept;
  for (const std::string& directory : directories) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string path, AbsolutePath(directory));
    const auto find = [&](auto also) {
      return std::find_if(reply->mounts().begin(), reply->mounts().end(), [&](const Mount& mount) {
        return mount.directory() == path && also(mount);
      });
    };
    auto found = find([&](const Mount& mount) { return mount.mount_namespace() == name_space; });
    if (found == reply->mounts().end()) found = find([](const Mount&) { return true; });
    if (found == reply->mounts().end()) {
      return absl::NotFoundError(StrCat("no image is mounted on ", PrintableName(path)));
    }
    *kept.add_mounts() = *found;
  }
  reply->Swap(&kept);
  return absl::OkStatus();
}

// Fails if one of the names is that of no image in the list.
absl::Status KeepImages(ClientSession& session, const std::vector<std::string>& names,
                        ListImagesReply* reply) {
  if (names.empty()) return absl::OkStatus();
  ListImagesReply kept;
  for (const std::string& name : names) {
    ListImagesReply named = *reply;
    const absl::StatusOr<Reference> reference = session.ParseReference(name);
    KeepNamed(name, reference.ok() ? &*reference : nullptr, &named);
    if (named.images().empty()) {
      return absl::NotFoundError(StrCat("no image ", PrintableName(name), " in the store"));
    }
    for (Image& image : *named.mutable_images()) {
      const bool twice =
          std::any_of(kept.images().begin(), kept.images().end(), [&image](const Image& other) {
            return other.reference() == image.reference() && other.platform() == image.platform();
          });
      if (!twice) kept.add_images()->Swap(&image);
    }
  }
  reply->Swap(&kept);
  return absl::OkStatus();
}

}  // namespace

int Run(ClientSession& session, const UmountArgs& args) {
  UnmountRequest request;
  for (const std::string& directory : args.directories) {
    absl::StatusOr<std::string> path = AbsolutePath(directory);
    if (!path.ok()) return session.out().Fail(path.status());
    request.add_directories(*std::move(path));
  }
  request.set_all(args.all);
  request.set_lazy(args.lazy);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  UnmountReply reply;
  const absl::Status status = Unmount(**client, request, &reply);
  if (!status.ok()) return session.Finish(status);
  if (session.json()) session.out().Print(UnmountJson(reply));
  for (const UnmountReply::Failure& failure : reply.failures()) {
    session.out().Note(StrCat("imagefs: ", OneLine(Shortened(failure.message())), "\n"));
  }
  return StatusOf(reply.failures());
}

int Run(ClientSession& session, const LsArgs& args) {
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ListMountsReply reply;
  absl::Status status = (*client)->ListMounts(&reply);
  if (status.ok()) status = KeepDirectories(args.directories, (*client)->NamespaceHere(), &reply);
  if (!status.ok()) return session.Finish(status);
  ListFilter(args.list.filters).Apply(&reply);
  session.out().Print(session.json() ? MountsJson(reply)
                                     : MountsText(reply, time(nullptr), StyleOf(args.list),
                                                  OwnMountNamespace().value_or(0)));
  return 0;
}

int Run(ClientSession& session, const ImagesArgs& args) {
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  ListImagesReply reply;
  absl::Status status = (*client)->ListImages(args.all, &reply);
  if (status.ok()) status = KeepImages(session, args.names, &reply);
  if (!status.ok()) return session.Finish(status);
  ListFilter(args.list.filters).Apply(&reply);
  session.out().Print(session.json() ? ImagesJson(reply)
                                     : ImagesText(reply, time(nullptr), StyleOf(args.list)));
  return 0;
}

int Run(ClientSession& session, const InspectArgs& args) {
  absl::StatusOr<ImageRequest> image = session.MakeImageRequest(args.reference, args.image);
  if (!image.ok()) return session.Finish(image.status());
  InspectRequest request;
  *request.mutable_image() = *std::move(image);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  InspectReply reply;
  const absl::Status status = (*client)->Inspect(request, &reply);
  if (status.ok()) session.out().Print(session.json() ? InspectJson(reply) : InspectText(reply));
  return session.Finish(status);
}

int Run(ClientSession& session, const RmArgs& args) {
  RemoveRequest request;
  request.set_force(args.force);
  return RemoveBy(session, args.references, &RemoveRequest::mutable_references,
                  &DaemonClient::Remove, std::move(request));
}

int Run(ClientSession& session, const PinArgs& args) {
  return PinOrUnpin(session, args.references, /*unpin=*/false);
}

int Run(ClientSession& session, const UnpinArgs& args) {
  return PinOrUnpin(session, args.references, /*unpin=*/true);
}

int Run(ClientSession& session, const DfArgs&) {
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  DiskUsageReply reply;
  const absl::Status status = (*client)->DiskUsage(&reply);
  if (status.ok()) {
    session.out().Print(session.json() ? DiskUsageJson(reply) : DiskUsageText(reply));
  }
  return session.Finish(status);
}

int Run(ClientSession& session, const PruneArgs& args) {
  PruneRequest request;
  request.set_all(args.all);
  request.set_dry_run(args.dry_run);
  absl::Duration older;
  if (!args.older.empty() && absl::ParseDuration(args.older, &older)) {
    request.set_older_seconds(absl::ToInt64Seconds(older));
  }
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  PruneReply reply;
  const absl::Status status = (*client)->Prune(request, &reply);
  if (status.ok()) {
    session.out().Print(session.json() ? PruneJson(reply, args.dry_run)
                                       : PruneText(reply, args.dry_run));
  }
  return session.Finish(status);
}

int Run(ClientSession& session, const EvictArgs& args) {
  return RemoveBy(session, args.references, &RemoveRequest::mutable_references,
                  &DaemonClient::Evict);
}

int Run(ClientSession& session, const DropArgs& args) {
  return RemoveBy(session, args.names, &DropRequest::mutable_names, &DaemonClient::Drop);
}

// Returns the status of kDamaged if there was damage, even if it was repaired.
int Run(ClientSession& session, const CheckArgs& args) {
  CheckRequest request;
  request.set_repair(args.repair);
  const absl::Status parsed = session.AddReferences(args.references, request.mutable_references());
  if (!parsed.ok()) return session.out().Fail(parsed);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  CheckReply reply;
  const absl::Status status = (*client)->Check(request, &reply);
  if (!status.ok()) return session.Finish(status);
  session.out().Print(session.json() ? CheckJson(reply) : CheckText(reply));
  const bool damage = std::any_of(
      reply.layers().begin(), reply.layers().end(),
      [](const auto& layer) { return layer.state() == "repaired" || layer.state() == "lost"; });
  return damage || reply.findings_size() > 0 ? ExitStatusOf(FailureKind::kDamaged) : 0;
}

int Run(ClientSession& session, const StatusArgs& args) {
  if (!args.directory.empty()) return MountStatus(session, args);
  auto client = session.ConnectToAny();
  if (!client.ok()) return session.Finish(client.status());
  StatusReply reply;
  const absl::Status status = (*client)->GetStatus(&reply);
  if (status.ok()) session.out().Print(session.json() ? StatusJson(reply) : StatusText(reply));
  return session.Finish(status);
}

// Returns 0 only if no daemon of the store is left.
int Run(ClientSession& session, const LogLevelArgs& args) {
  auto client = session.Connect(/*start=*/false);
  if (!client.ok()) return session.Finish(client.status());
  const absl::StatusOr<std::string> level = (*client)->LogLevel(args.level);
  if (level.ok()) session.out().Print(session.json() ? LogLevelJson(*level) : *level + "\n");
  return session.Finish(level.status());
}

int Run(ClientSession& session, const StopArgs& args) {
  auto client = session.ConnectToAny();
  if (absl::IsUnavailable(client.status()) || absl::IsFailedPrecondition(client.status())) {
    // One is starting, stopping, or creating its sockets again.
    Interrupts::Reminder reminder(session.interrupts(), kSilence, [&session] {
      session.out().Note(StrCat("imagefs: waiting for the daemon of ", session.paths().root, "\n"));
    });
    const absl::Status there =
        AwaitListener(session.paths(), std::chrono::milliseconds(kStopTimeoutMs));
    client = there.ok() ? session.ConnectToAny() : NoDaemonBecause(there);
  }
  if (absl::IsNotFound(client.status())) {
    if (session.json()) session.out().Print(StopJson(0));
    return 0;
  }
  if (!client.ok()) return session.Finish(client.status());
  control::v1::ShutdownReply reply;
  if (const absl::Status told = (*client)->Shutdown(args.unmount, &reply); !told.ok()) {
    return session.Finish(told);
  }
  const pid_t pid = reply.pid();
  client->reset();
  absl::Status status;
  {
    Interrupts::Reminder reminder(session.interrupts(), kSilence, [&session, pid] {
      session.out().Note(StrCat("imagefs: waiting for the end of the daemon with pid ", pid, "\n"));
    });
    status = WaitForExit(pid, kStopTimeoutMs);
  }
  if (status.ok() && session.json()) session.out().Print(StopJson(pid));
  if (const uint32_t waiting = reply.waiting_mounts(); status.ok() && waiting > 0) {
    session.out().Note(StrCat(
        "imagefs: ", waiting, waiting == 1 ? " mount remains and needs" : " mounts remain and need",
        " a daemon: readers wait until the next command starts one; imagefs stop --unmount "
        "unmounts ",
        waiting == 1 ? "it" : "them", "\n"));
  }
  return session.Finish(status);
}

}  // namespace imagefs
