// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <string_view>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/log.h"
#include "base/pass_fd.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cmd/rendezvous.h"
#include "fs/mount_namespace.h"
#include "fs/mount_record.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_target.h"
#include "fs/overlay_upper.h"
#include "fs/user_mount.h"

namespace imagefs {

struct ChannelMessage {
  enum Kind : uint32_t {
    kHello = 1,     // to the command, text = the id
    kAttach = 2,    // to the command, with the detached mount
    kMakeFuse = 3,  // to the command, text = the source
    kDone = 4,      // to the daemon, after kMakeFuse with the device
    kFailed = 5,    // to the daemon, text = the message
    // To the command, after kMakeFuse: text = the upper directory
    kMakeOverlay = 6,
  };
  enum Flag : uint32_t { kNoExec = 1, kAllowOther = 2 };
  uint32_t kind = 0;
  uint32_t code = 0;              // of kFailed
  uint32_t flags = 0;             // of kMakeFuse
  uint32_t major = 0, minor = 0;  // of kDone after kMakeFuse; of kMakeOverlay: the inode's halves
  char text[1004] = {};           // ends with a zero
};

namespace {

constexpr size_t kIdBytes = 16;
// A command answers at once, unless its directory is on a network file system that hangs.
constexpr timeval kAnswerTimeout = {30, 0};

void SetText(ChannelMessage& message, std::string_view text) {
  const size_t size = std::min(text.size(), sizeof(message.text) - 1);
  memcpy(message.text, text.data(), size);
}

absl::Status Send(const Fd& socket, const ChannelMessage& message, const Fd* fd) {
  const ssize_t sent =
      SendWithFd(socket.get(), &message, sizeof(message), fd == nullptr ? -1 : fd->get());
  if (sent == static_cast<ssize_t>(sizeof(message))) return absl::OkStatus();
  return absl::UnavailableError("the connection for the mount was closed");
}

// Returns kUnavailable if the other side has closed the connection or does not answer.
absl::StatusOr<ChannelMessage> Receive(const Fd& socket, Fd* fd) {
  ChannelMessage message;
  int number = -1;
  const ssize_t got = ReceiveWithFd(socket.get(), &message, sizeof(message), &number, MSG_WAITALL);
  if (number >= 0) *fd = Fd(number);
  if (got != static_cast<ssize_t>(sizeof(message))) {
    return absl::UnavailableError("the connection for the mount was closed");
  }
  message.text[sizeof(message.text) - 1] = '\0';
  return message;
}

class ChannelCaller : public MountCaller {
 public:
  explicit ChannelCaller(Fd socket) : socket_(std::move(socket)) {}

  absl::Status Attach(const Fd& mount) override {
    ChannelMessage ask;
    ask.kind = ChannelMessage::kAttach;
    Fd none;
    return Call(ask, &mount, &none).status();
  }

  absl::StatusOr<MadeFuse> MakeFuse(const std::string& source, const MountFlags& flags,
                                    FuseAccess access) override {
    ChannelMessage ask;
    ask.kind = ChannelMessage::kMakeFuse;
    if (flags.noexec) ask.flags |= ChannelMessage::kNoExec;
    if (access == FuseAccess::kAll) ask.flags |= ChannelMessage::kAllowOther;
    SetText(ask, source);
    MadeFuse made;
    IMAGEFS_ASSIGN_OR_RETURN(const ChannelMessage answer, Call(ask, nullptr, &made.device));
    if (!IsFuseDevice(made.device)) {
      return absl::InvalidArgumentError("the command sent no device of FUSE");
    }
    made.major = answer.major;
    made.minor = answer.minor;
    return made;
  }

  absl::Status MakeOverlay(const std::string& upper, const FileId& expected) override {
    ChannelMessage ask;
    ask.kind = ChannelMessage::kMakeOverlay;
    ask.major = static_cast<uint32_t>(expected.inode >> 32);
    ask.minor = static_cast<uint32_t>(expected.inode);
    if (upper.size() >= sizeof(ask.text)) {
      return absl::InvalidArgumentError(
          StrCat("--upper is longer than ", sizeof(ask.text) - 1, " bytes; choose a shorter path"));
    }
    SetText(ask, upper);
    Fd none;
    return Call(ask, nullptr, &none).status();
  }

 private:
  absl::StatusOr<ChannelMessage> Call(const ChannelMessage& ask, const Fd* give, Fd* take) {
    MayBlock("waiting for the command to mount");
    IMAGEFS_RETURN_IF_ERROR(Send(socket_, ask, give));
    IMAGEFS_ASSIGN_OR_RETURN(ChannelMessage answer, Receive(socket_, take));
    if (answer.kind == ChannelMessage::kDone) return answer;
    const bool known =
        answer.kind == ChannelMessage::kFailed && answer.code > 0 && answer.code <= 16;
    return absl::Status(
        known ? static_cast<absl::StatusCode>(answer.code) : absl::StatusCode::kInternal,
        Printable(answer.text, sizeof(answer.text)));
  }

  static bool IsFuseDevice(const Fd& fd) {
    struct stat st;
    return fd.valid() && fstat(fd.get(), &st) == 0 && S_ISCHR(st.st_mode) &&
           st.st_rdev == makedev(10, 229);
  }

  const Fd socket_;
};

bool IsClosed(const Fd& socket) {
  pollfd polled{socket.get(), POLLRDHUP, 0};
  return poll(&polled, 1, 0) > 0;
}

// Moves this thread into a mount namespace: of a file, or of a process.
absl::Status EnterNamespace(const std::string& name) {
  const bool pid = name.find_first_not_of("0123456789") == std::string::npos;
  const std::string path = pid ? StrCat("/proc/", name, "/ns/mnt") : name;
  IMAGEFS_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_RDONLY));
  // The thread then has a root and a working directory of its own, as the kernel demands.
  if (unshare(CLONE_FS) != 0 || setns(file.get(), CLONE_NEWNS) != 0) {
    return ErrnoStatus(errno, StrCat("cannot enter the mount namespace ", PrintableName(path)));
  }
  return absl::OkStatus();
}

void SetStatus(ChannelMessage& answer, const absl::Status& status) {
  answer.kind = status.ok() ? ChannelMessage::kDone : ChannelMessage::kFailed;
  answer.code = static_cast<uint32_t>(status.code());
  SetText(answer, ToStd(status.message()));
}

// Has a request of the daemon done: `given` is the descriptor that came with it, `device` one to
// send back.
using Handler = absl::FunctionRef<absl::Status(const ChannelMessage& ask, const Fd& given,
                                               ChannelMessage& answer, Fd& device)>;

// Answers the daemon's requests until it closes the connection.
void Answer(const Fd& socket, Handler handle) {
  while (true) {
    Fd given, device;
    const absl::StatusOr<ChannelMessage> ask = Receive(socket, &given);
    if (!ask.ok()) return;
    ChannelMessage answer;
    SetStatus(answer, handle(*ask, given, answer, device));
    if (!Send(socket, answer, device.valid() ? &device : nullptr).ok()) return;
  }
}

absl::Status OtherVersion() {
  return absl::InvalidArgumentError("the daemon is of another version");
}

// Makes and attaches a FUSE mount without fusermount3. Returns its device.
absl::StatusOr<Fd> MakeFuseHere(const ChannelMessage& ask, const Fd& place,
                                const std::string& shown, ChannelMessage& answer) {
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount made, imagefs::MakeFuse(/*writable=*/false, ask.text));
  IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(made.mount));
  IMAGEFS_RETURN_IF_ERROR(AttachMount(made.mount, place, shown));
  answer.major = key.major;
  answer.minor = key.minor;
  return std::move(made.device);
}

}  // namespace

void MountChannels::Accept(Fd connection) {
  const int flags = fcntl(connection.get(), F_GETFL);
  if (flags < 0 || fcntl(connection.get(), F_SETFL, flags & ~O_NONBLOCK) != 0 ||
      setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTimeout,
                 sizeof(kAnswerTimeout)) != 0 ||
      setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kAnswerTimeout,
                 sizeof(kAnswerTimeout)) != 0) {
    return LogWarning("mount_channel_failed cause=", strerror(errno));
  }
  ChannelMessage hello;
  hello.kind = ChannelMessage::kHello;
  const std::string id = RandomHex(kIdBytes);
  SetText(hello, id);
  absl::MutexLock lock(&mu_);
  for (auto one = waiting_.begin(); one != waiting_.end();) {
    one = IsClosed(one->second) ? waiting_.erase(one) : std::next(one);
  }
  // Under the lock: a command that has its id may call at once, and must then be found. The buffer
  // of a new connection has room for the message, so that this does not block.
  if (!Send(connection, hello, nullptr).ok()) return;
  waiting_[id] = std::move(connection);
}

absl::StatusOr<std::shared_ptr<MountCaller>> MountChannels::Take(const std::string& id) {
  absl::MutexLock lock(&mu_);
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) {
    return absl::UnavailableError("the connection for the mount was closed; run the command again");
  }
  auto caller = std::make_shared<ChannelCaller>(std::move(found->second));
  waiting_.erase(found);
  return caller;
}

absl::StatusOr<MountConnection> ConnectForMount(const Paths& daemon) {
  MountConnection connection;
  IMAGEFS_ASSIGN_OR_RETURN(connection.socket, ConnectSocket(daemon, kMountSocket));
  Fd none;
  IMAGEFS_ASSIGN_OR_RETURN(const ChannelMessage hello, Receive(connection.socket, &none));
  connection.id = hello.text;
  return connection;
}

void ServeMount(const Fd& socket, const Fd& place, const std::string& shown) {
  Answer(socket,
         [&](const ChannelMessage& ask, const Fd& given, ChannelMessage& answer,
             Fd& device) -> absl::Status {
           if (ask.kind == ChannelMessage::kAttach && given.valid()) {
             return AttachMount(given, place, shown);
           }
           if (ask.kind != ChannelMessage::kMakeFuse) return OtherVersion();
           IMAGEFS_ASSIGN_OR_RETURN(device, MakeFuseHere(ask, place, shown, answer));
           return absl::OkStatus();
         });
}

absl::StatusOr<std::unique_ptr<MountForDaemon>> MountForDaemon::Open(Options options) {
  std::unique_ptr<MountForDaemon> mount(new MountForDaemon);
  IMAGEFS_ASSIGN_OR_RETURN(MountConnection connection, ConnectForMount(options.paths));
  mount->socket_ = std::move(connection.socket);
  mount->channel_ = std::move(connection.id);
  std::promise<absl::Status> prepared;
  mount->thread_ = std::thread([mount = mount.get(), &prepared, &options] {
    EnterThread(ThreadRole::kMounts);
    const absl::Status status = mount->Prepare(options);
    prepared.set_value(status);  // options and the promise may be gone from here on
    if (status.ok()) mount->Serve();
  });
  IMAGEFS_RETURN_IF_ERROR(prepared.get_future().get());
  return mount;
}

absl::Status MountForDaemon::Prepare(const Options& options) {
  if (!options.name_space.empty()) IMAGEFS_RETURN_IF_ERROR(EnterNamespace(options.name_space));
  IMAGEFS_ASSIGN_OR_RETURN(name_space_, OwnMountNamespace());
  IMAGEFS_ASSIGN_OR_RETURN(directory_, ResolveTarget(options.directory));
  IMAGEFS_ASSIGN_OR_RETURN(MountTarget target,
                           OpenTarget(directory_, {}, [](const MountInfo&) { return false; }));
  if (!target.old.empty()) {
    return absl::FailedPreconditionError(
        StrCat(directory_, " is the mount of a file system that has died; unmount it (umount -l ",
               directory_, ")"));
  }
  if (!MountsAsRoot()) {
    IMAGEFS_RETURN_IF_ERROR(CheckUserMount(
        directory_, target.place, options.allow_other ? FuseAccess::kAll : FuseAccess::kUser));
  }
  covered_ = target.covered;
  place_ = std::move(target.place);
  return absl::OkStatus();
}

absl::StatusOr<Fd> MountForDaemon::MakeFuse(const ChannelMessage& ask, ChannelMessage& answer) {
  MountFlags flags;
  flags.noexec = noexec_ = (ask.flags & ChannelMessage::kNoExec) != 0;
  const FuseAccess access =
      (ask.flags & ChannelMessage::kAllowOther) != 0 ? FuseAccess::kAll : FuseAccess::kUser;
  IMAGEFS_ASSIGN_OR_RETURN(FuseMount made, UserMount(directory_, place_, ask.text, flags, access));
  fuse_ = std::move(made.mount);
  source_ = ask.text;
  MountKey key;
  if (fuse_.valid()) {
    IMAGEFS_ASSIGN_OR_RETURN(key, KeyOf(fuse_));
    mounted_ = key;
  } else {
    by_fusermount_ = true;
    // Nobody answers the file system yet, so only the kernel's table can be asked.
    const auto mounts = ReadMountInfo();
    if (const MountInfo* there = mounts.ok() ? FindMountAt(*mounts, directory_) : nullptr) {
      key = KeyOf(*there);
    }
  }
  answer.major = key.major;
  answer.minor = key.minor;
  return std::move(made.device);
}

// The FUSE mount is attached by now, because kernels before Linux 6.15 take only such mounts as
// layers. It is detached again once the overlay has a reference to it.
absl::Status MountForDaemon::MakeOverlay(const ChannelMessage& ask) {
  if (mounted_.id == 0 || !fuse_.valid()) {
    return absl::FailedPreconditionError(
        StrCat("cannot mount at ", directory_, " writable: this process may not mount"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat root, StatFd(fuse_, directory_));
  UpperIds expected;
  expected.directory = {0, (static_cast<uint64_t>(ask.major) << 32) | ask.minor};
  IMAGEFS_ASSIGN_OR_RETURN(
      OverlayUpper upper,
      OverlayUpper::Open(ask.text, expected,
                         {root.st_uid, root.st_gid, root.st_mode & 07777, root.st_mtim}));
  const auto replace = [&]() -> absl::Status {
    MountFlags flags;
    flags.nosuid = flags.nodev = true;
    flags.noexec = noexec_;
    IMAGEFS_ASSIGN_OR_RETURN(
        const Fd overlay,
        ::imagefs::MakeOverlay({fuse_, upper.upper(), upper.work(), source_, /*user_xattrs=*/true},
                               flags, directory_));
    IMAGEFS_ASSIGN_OR_RETURN(const MountKey key, KeyOf(overlay));
    IMAGEFS_RETURN_IF_ERROR(UnmountExactly(mounted_, source_, directory_, /*lazy=*/true));
    mounted_ = MountKey();
    fuse_.Reset();
    IMAGEFS_RETURN_IF_ERROR(AttachMount(overlay, place_, directory_));
    mounted_ = key;
    return absl::OkStatus();
  };
  const absl::Status status = replace();
  if (!status.ok()) upper.Undo();
  return status;
}

void MountForDaemon::Unmount() {
  if (mounted_.id != 0) {
    // Not by name, which may lead elsewhere by now.
    UnmountExactly(mounted_, source_, directory_, /*lazy=*/true).IgnoreError();
  } else if (by_fusermount_) {
    UserUnmount(directory_, /*lazy=*/true).IgnoreError();
  }
}

absl::Status MountForDaemon::Handle(const ChannelMessage& ask, const Fd& given,
                                    ChannelMessage& answer, Fd& device) {
  if (ask.kind == ChannelMessage::kAttach && given.valid()) {
    IMAGEFS_RETURN_IF_ERROR(AttachMount(given, place_, directory_));
    mounted_ = KeyOf(given).value_or(MountKey());
    return absl::OkStatus();
  }
  if (ask.kind == ChannelMessage::kMakeOverlay) return MakeOverlay(ask);
  if (ask.kind != ChannelMessage::kMakeFuse) return OtherVersion();
  IMAGEFS_ASSIGN_OR_RETURN(device, MakeFuse(ask, answer));
  return absl::OkStatus();
}

void MountForDaemon::Serve() {
  Answer(socket_, [this](const ChannelMessage& ask, const Fd& given, ChannelMessage& answer,
                         Fd& device) { return Handle(ask, given, answer, device); });
  // The daemon closes the connection before its answer arrives.
  const bool keep = decision_.get_future().get();
  if (!keep) Unmount();
}

MountForDaemon::~MountForDaemon() {
  decision_.set_value(keep_);
  if (socket_.valid()) shutdown(socket_.get(), SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
}

}  // namespace imagefs
