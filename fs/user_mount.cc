// SPDX-License-Identifier: Apache-2.0
#include "fs/user_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>
#include <vector>

#include "base/failure.h"
#include "base/machine_user.h"
#include "base/pass_fd.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::chrono::seconds kFusermountPatience(60);
constexpr uint64_t kMaxConfBytes = 64 << 10;

struct FusermountResult {
  bool succeeded = false;
  std::string errors;  // what it wrote to stderr, one line
};

// `socket` is where it sends a descriptor, or kDevNull.
absl::StatusOr<FusermountResult> RunFusermount(std::vector<std::string> arguments, int socket) {
  ProgramCall call;
  call.argv = std::move(arguments);
  call.argv.insert(call.argv.begin(), "fusermount3");
  call.environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                      "LC_ALL=C"};
  call.add_own_environment = false;
  call.answers_on_errors = true;
  call.timeout = kFusermountPatience;
  call.descriptor_3 = socket;
  if (socket != kDevNull) call.environment.push_back("_FUSE_COMMFD=3");
  absl::StatusOr<ProgramResult> result = RunProgram(call);
  if (absl::IsNotFound(result.status()) || absl::IsPermissionDenied(result.status())) {
    return absl::FailedPreconditionError(
        StrCat("cannot run fusermount3: ", ToStd(result.status().message()),
               "; install the package fuse3"));
  }
  IMAGEFS_RETURN_IF_ERROR(Annotate(result.status(), "fusermount3"));
  FusermountResult out{result->succeeded(), std::move(result->output)};
  std::replace(out.errors.begin(), out.errors.end(), '\n', ' ');
  while (out.errors.ends_with(' ')) out.errors.pop_back();
  return out;
}

// In the form in which fusermount3 takes the value of an option.
std::string EscapeOption(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == ',' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

// Receives the descriptor in a message of fusermount3.
absl::StatusOr<Fd> ReceiveFd(int socket) {
  char byte = 0;
  int fd = -1;
  if (ReceiveWithFd(socket, &byte, sizeof(byte), &fd, MSG_DONTWAIT) < 0)
    return ErrnoStatus(errno, "fusermount3 sent no descriptor");
  if (fd < 0) return absl::InternalError("fusermount3 sent no descriptor");
  return Fd(fd);
}

absl::Status OthersDenied(const std::string& directory) {
  return WithKind(absl::FailedPreconditionError(StrCat(
                      "cannot mount at ", directory,
                      " with allow_other: /etc/fuse.conf does not have the line user_allow_other; "
                      "add it (as root), or leave out allow_other")),
                  FailureKind::kDenied);
}

// Returns false only if it is certain: what cannot be read is left to fusermount3.
bool MayAdmitOthers() {
  const absl::StatusOr<std::string> conf = ReadFile("/etc/fuse.conf", kMaxConfBytes);
  if (!conf.ok()) return true;
  for (std::string_view line : Split(*conf, '\n')) {
    while (line.ends_with(' ') || line.ends_with('\t')) line.remove_suffix(1);
    if (line == "user_allow_other") return true;
  }
  return getuid() == 0;
}

}  // namespace

bool MayMount() {
  const Fd context(fsopen("fuse", FSOPEN_CLOEXEC));
  return context.valid() || errno == ENODEV;  // it may, but the module is missing
}

bool MountsAsRoot() {
  const MachineUser user = ThisUser();
  return user.root || (user.root_of_users && MayMount());
}

bool CannotMount() { return InUserNamespace() && !MayMount(); }

absl::Status CheckUserMount(const std::string& directory, const Fd& place, FuseAccess access) {
  const Fd device(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device.valid()) {
    return absl::FailedPreconditionError(
        StrCat("cannot mount: /dev/fuse: ", strerror(errno),
               "; load the module (modprobe fuse), or open it to users (chmod 666 /dev/fuse)"));
  }
  if (MayMount()) return absl::OkStatus();
  const auto denied = [&](std::string_view why) {
    return WithKind(absl::FailedPreconditionError(StrCat("cannot mount at ", directory, ": ", why)),
                    FailureKind::kDenied);
  };
  if (InUserNamespace()) {
    return denied(
        "this user namespace has no mount namespace of its own; make one too (unshare -rm), or run "
        "this outside");
  }
  if (access == FuseAccess::kAll && !MayAdmitOthers()) return OthersDenied(directory);
  struct stat found;
  if (fstat(place.get(), &found) == 0 && faccessat(place.get(), "", W_OK, AT_EMPTY_PATH) == 0 &&
      ((found.st_mode & S_ISVTX) == 0 || found.st_uid == getuid())) {
    return absl::OkStatus();
  }
  return denied("a user can only mount on their own directories; choose another one");
}

absl::StatusOr<FuseMount> UserMount(const std::string& directory, const Fd& place,
                                    const std::string& source, const MountFlags& flags,
                                    FuseAccess access) {
  if (MayMount()) {
    MountFlags all = flags;
    all.nosuid = all.nodev = true;
    IMAGEFS_ASSIGN_OR_RETURN(FuseMount made, MakeFuse(/*writable=*/false, source, all, access));
    IMAGEFS_RETURN_IF_ERROR(AttachMount(made.mount, place, directory));
    return made;
  }
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
    return ErrnoStatus(errno, "cannot make a socket for fusermount3");
  }
  Fd ours(sockets[0]);
  Fd theirs(sockets[1]);
  IMAGEFS_ASSIGN_OR_RETURN(
      const FusermountResult result,
      RunFusermount({"-o",
                     StrCat("ro,fsname=", EscapeOption(source), ",subtype=", kFuseSubtype,
                            flags.noexec ? ",noexec" : "",
                            access == FuseAccess::kAll ? ",allow_other,default_permissions" : ""),
                     "--", directory},
                    theirs.get()));
  if (!result.succeeded) {
    if (result.errors.find("user_allow_other") != std::string::npos) return OthersDenied(directory);
    return absl::FailedPreconditionError(
        StrCat("cannot mount at ", directory, ": ", result.errors,
               "; the directory must be yours, and /dev/fuse must be open to users"));
  }
  FuseMount made;
  IMAGEFS_ASSIGN_OR_RETURN(made.device, ReceiveFd(ours.get()));
  return made;
}

absl::Status UserOverlayDenied(const std::string& directory) {
  return WithKind(
      absl::FailedPreconditionError(StrCat(
          "cannot mount ", directory, " writable: overlayfs needs root; use imagefs run, or mount ",
          "as root of a user namespace (unshare -rm), or leave out --rw")),
      FailureKind::kDenied);
}

absl::Status UserUnmount(const std::string& directory, bool lazy) {
  if (MayMount()) {
    // By its number: the path may lead elsewhere by the time that the kernel looks it up.
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<MountInfo> mounts, ReadMountInfo());
    const MountInfo* const there = FindMountAt(mounts, directory);
    if (there == nullptr) {
      return absl::NotFoundError(StrCat("nothing is mounted at ", directory));
    }
    return UnmountExactly(KeyOf(*there), there->source, directory, lazy);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const FusermountResult result,
                           RunFusermount({lazy ? "-uz" : "-u", "--", directory}, kDevNull));
  if (result.succeeded) return absl::OkStatus();
  if (result.errors.find("busy") != std::string::npos) return BusyError(directory);
  if (result.errors.find("not found in") != std::string::npos ||
      result.errors.find("Invalid argument") != std::string::npos) {
    return absl::NotFoundError(StrCat("nothing is mounted at ", directory));
  }
  return absl::InternalError(StrCat("cannot unmount ", directory, ": ", result.errors));
}

}  // namespace imagefs
