// SPDX-License-Identifier: Apache-2.0
// Checks of the kernel, FUSE, limits, the clock and the environment.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/time/time.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/doctor_checks.h"
#include "fetch/proxy_choice.h"
#include "fs/erofs_mount.h"
#include "fs/mount_syscalls.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFile = 4 << 20;
constexpr uint64_t kFewDescriptors = 4096;
// Where the daemon looks for fusermount3, whatever its $PATH is.
constexpr char kFusermountPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr int64_t kDay = 86400;

// Returns the errno of a call that fails; 0 if it succeeded.
int ErrorOf(long result) {
  const int error = result < 0 ? errno : 0;
  if (result > 2) close(static_cast<int>(result));
  return error;
}

// Says whether each call exists; those of root are only tried by root.
void CheckCalls(const Machine& machine, DoctorReport& report) {
  utsname name{};
  uname(&name);
  std::string missing;
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  if (ErrorOf(syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how))) != 0) missing = "openat2";
  int may_mount = 0;
  if (machine.root) {
    may_mount = ErrorOf(open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    mount_attr attributes{};
    const std::pair<const char*, int> calls[] = {
        {"open_tree", may_mount},
        {"move_mount", ErrorOf(move_mount(-1, "", -1, "", MOVE_MOUNT_F_EMPTY_PATH))},
        {"fsopen", ErrorOf(fsopen("tmpfs", FSOPEN_CLOEXEC))},
        {"mount_setattr",
         ErrorOf(mount_setattr(-1, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)))}};
    for (const auto& [call, error] : calls) {
      if (error == ENOSYS) StrAppend(&missing, missing.empty() ? "" : ", ", call);
    }
  }
  const std::string kernel = StrCat("Linux ", Printable(name.release), " (", name.machine, ")");
  if (!missing.empty()) {
    report.Problem("kernel", StrCat(kernel, " lacks ", missing),
                   "nothing can be mounted: imagefs needs Linux 5.12, and a sandbox that allows "
                   "these calls",
                   "use a newer kernel; in a container, a seccomp profile that allows them");
  } else if (may_mount != 0) {
    report.Problem("kernel", StrCat(kernel, ": this process may not mount: ", strerror(may_mount)),
                   "the daemon cannot mount anything",
                   "in a container, add CAP_SYS_ADMIN (--privileged)");
  } else {
    report.Ok("kernel", kernel);
  }
}

// Opening a context loads the module if there is one.
int FileSystemError(const char* type) { return ErrorOf(fsopen(type, FSOPEN_CLOEXEC)); }

void CheckErofs(const std::string& scratch, const Config& config, DoctorReport& report) {
  if (scratch.empty()) {
    report.Note("erofs", "it was not tried, because nothing can be written to the store's disk",
                "it is unknown whether the kernel reads images by itself",
                "make the store writable first");
    return;
  }
  ErofsWays ways;
  ways.loop_devices = config.loop_devices;
  const absl::StatusOr<ErofsWay> way = ProbeErofs(scratch, ways);
  if (!way.ok()) {
    report.Warning("erofs", ToStd(way.status().message()),
                   "the daemon answers for every mount (FUSE), which is slower",
                   "modprobe erofs; Linux 6.12 and newer mount it from files, unless the store is "
                   "on tmpfs, older kernels from loop devices (mount.loop_devices)");
  } else if (*way == ErofsWay::kLoopDevices) {
    report.Note("erofs", "the kernel mounts it from loop devices, but not from files",
                "images that are not complete are served by FUSE",
                "use Linux 6.12 or newer, and a store that is not on tmpfs");
  } else {
    report.Ok("erofs", "the kernel mounts it from files on the store's file system");
  }
}

void CheckOverlay(DoctorReport& report) {
  const int error = FileSystemError("overlay");
  if (error == 0) {
    report.Ok("overlayfs", "it can be mounted");
    return;
  }
  report.Warning("overlayfs", StrCat("it cannot be mounted: ", strerror(error)),
                 "containers and mounts with --rw need it", "modprobe overlay");
}

void CheckFusermount(const Machine& machine, DoctorReport& report) {
  const std::string program = machine.FindProgram("fusermount3", kFusermountPath);
  if (program.empty()) {
    report.Problem("fusermount3", StrCat("it is not in ", kFusermountPath),
                   "a user cannot mount without it", "install the package fuse3");
    return;
  }
  const absl::StatusOr<struct stat> st = StatPath(machine.At(program));
  if (st.ok() && (st->st_uid != 0 || (st->st_mode & S_ISUID) == 0)) {
    report.Problem("fusermount3", StrCat(program, " is not setuid root"),
                   "it cannot mount for a user", StrCat("reinstall fuse3, or chmod u+s ", program));
    return;
  }
  report.Ok("fusermount3", program);
}

// Returns the limit "Max open files" of a process, or nothing if it cannot be read.
std::optional<uint64_t> DescriptorsOf(const Machine& machine, pid_t pid) {
  const absl::StatusOr<std::string> text =
      ReadFile(machine.At(StrCat("/proc/", pid, "/limits")), kMaxFile);
  if (!text.ok()) return std::nullopt;
  for (std::string_view line : Split(*text, '\n')) {
    if (!ConsumePrefix(&line, "Max open files")) continue;
    while (line.starts_with(' ')) line.remove_prefix(1);
    const std::string_view soft = line.substr(0, line.find(' '));
    return soft == "unlimited" ? UINT64_MAX : ParseDecimal(soft);
  }
  return std::nullopt;
}

std::optional<uint64_t> NumberIn(const Machine& machine, std::string_view path) {
  absl::StatusOr<std::string> text = ReadFile(machine.At(path), 64);
  if (!text.ok()) return std::nullopt;
  while (text->ends_with('\n')) text->pop_back();
  return ParseDecimal(*text);
}

void CheckDescriptorLimit(const Machine& machine, pid_t daemon, DoctorReport& report) {
  std::optional<uint64_t> limit;
  if (daemon != 0) limit = DescriptorsOf(machine, daemon);
  const std::string whose = limit.has_value() ? "the daemon" : "a daemon started by this shell";
  if (!limit.has_value()) {
    rlimit own{};
    if (getrlimit(RLIMIT_NOFILE, &own) != 0) return;
    limit = own.rlim_max;  // to which a daemon raises its own
  }
  const std::string found =
      StrCat(whose, " may open ",
             *limit == UINT64_MAX ? std::string("any number of") : StrCat(*limit), " files");
  if (*limit < kFewDescriptors) {
    report.Warning("descriptors", found,
                   "each mount and each layer in use keeps some open; when there are no more, "
                   "mounts fail",
                   "raise the hard limit (ulimit -Hn), or LimitNOFILE= of the unit");
    return;
  }
  report.Ok("descriptors", found);
}

void CheckMountLimits(const Machine& machine, DoctorReport& report) {
  const std::optional<uint64_t> most = NumberIn(machine, "/proc/sys/fs/mount-max");
  const absl::StatusOr<std::string> mounts = ReadFile(machine.At("/proc/self/mountinfo"), kMaxFile);
  if (most.has_value() && mounts.ok()) {
    const auto count = static_cast<uint64_t>(std::count(mounts->begin(), mounts->end(), '\n'));
    const std::string found = StrCat(count, " mounts of at most ", *most);
    if (count >= *most / 10 * 9) {
      report.Warning("mounts", found, "soon no mount will succeed in this namespace",
                     "unmount what is not needed, or raise the sysctl fs.mount-max");
    } else {
      report.Ok("mounts", found);
    }
  }
  const std::optional<uint64_t> spaces = NumberIn(machine, "/proc/sys/user/max_mnt_namespaces");
  if (machine.root && spaces.has_value() && *spaces == 0) {
    report.Warning("namespaces", "user.max_mnt_namespaces is 0",
                   "what is below a dead mount cannot be seen, so some mounts do not come back "
                   "after a crash of the daemon",
                   "raise the sysctl user.max_mnt_namespaces");
  }
}

}  // namespace

std::string Machine::At(std::string_view absolute) const { return StrCat(files, absolute); }

std::string Machine::FindProgram(std::string_view name, std::string_view path) const {
  for (const std::string_view directory : Split(path, ':')) {
    if (!directory.starts_with('/')) continue;
    std::string program = StrCat(directory, "/", name);
    const absl::StatusOr<struct stat> st = StatPath(At(program));
    if (st.ok() && S_ISREG(st->st_mode) && access(At(program).c_str(), X_OK) == 0) return program;
  }
  return "";
}

void CheckKernel(const Machine& machine, const std::string& scratch, const Config& config,
                 DoctorReport& report) {
  CheckCalls(machine, report);
  if (!machine.root) return;
  CheckErofs(scratch, config, report);
  CheckOverlay(report);
}

void CheckFuse(const Machine& machine, DoctorReport& report) {
  const std::string device = "/dev/fuse";
  const absl::StatusOr<Fd> opened = OpenFile(machine.At(device), O_RDWR);
  if (opened.ok()) {
    report.Ok("fuse", StrCat(device, " can be opened"));
  } else if (absl::IsNotFound(opened.status())) {
    report.Problem("fuse", StrCat(device, " does not exist"),
                   machine.root ? "lazy mounts and those with --mode fuse fail"
                                : "a user cannot mount anything",
                   "modprobe fuse; in a container, --device /dev/fuse");
  } else {
    report.Problem("fuse", ToStd(opened.status().message()),
                   machine.root ? "lazy mounts and those with --mode fuse fail"
                                : "a user cannot mount anything",
                   "open it to users (chmod 666 /dev/fuse, as udev does); in a container, "
                   "--device /dev/fuse");
  }
  if (!machine.root) CheckFusermount(machine, report);
}

void CheckLimits(const Machine& machine, pid_t daemon, DoctorReport& report) {
  CheckDescriptorLimit(machine, daemon, report);
  CheckMountLimits(machine, report);
}

ClockState ReadClock() {
  ClockState out;
  out.now = time(nullptr);
  if (const auto self = StatPath("/proc/self/exe"); self.ok()) out.built = self->st_mtim.tv_sec;
  timex state{};
  out.synchronised = adjtimex(&state) != TIME_ERROR;
  return out;
}

void CheckClock(const ClockState& clock, DoctorReport& report) {
  const std::string date = absl::FormatTime("%Y-%m-%d %H:%M:%S UTC",
                                            absl::FromUnixSeconds(clock.now), absl::UTCTimeZone());
  if (clock.now < clock.built - kDay) {
    report.Problem("clock", StrCat(date, ", which is before this program was made"),
                   "certificates of registries are refused as not yet valid",
                   "set the clock, and let NTP keep it");
  } else if (!clock.synchronised) {
    report.Note("clock", StrCat(date, ", not synchronised"),
                "certificates and tokens are refused once the clock is wrong by more than minutes",
                "let NTP keep it (timedatectl set-ntp true), unless the host of this machine does");
  } else {
    report.Ok("clock", StrCat(date, ", synchronised"));
  }
}

void CheckProxies(const Machine& machine, DoctorReport& report) {
  const ProxySettings proxies = ProxySettings::FromEnvironment();
  std::string found;
  for (const ProxySettings::Proxy* proxy : {&proxies.https, &proxies.http}) {
    if (!proxy->none()) StrAppend(&found, found.empty() ? "" : ", ", proxy->Name());
  }
  if (found.empty()) {
    report.Ok("proxies", "none in the environment");
    return;
  }
  if (!proxies.exceptions.empty()) {
    StrAppend(&found, "; not for ", Printable(proxies.exceptions));
  }
  if (!machine.root) {
    report.Ok("proxies", found);
    return;
  }
  report.Note("proxies", found,
              "they are this shell's: a daemon that runs already, and that of systemd, go by those "
              "of their own environment",
              "for the service, set them in /etc/default/imagefs");
}

}  // namespace imagefs
