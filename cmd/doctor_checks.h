// SPDX-License-Identifier: Apache-2.0
// The checks of `imagefs doctor`, in groups. Each looks at the real thing, adds rows to the report,
// and has deadlines for what may hang. Used only by doctor.cc and tests.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cmd/client_session.h"
#include "cmd/config.h"
#include "cmd/doctor.h"
#include "cmd/options.h"

namespace imagefs {

// Where to look. Tests make up a tree of files.
struct Machine {
  std::string files;        // what stands before each absolute path; "" = this machine's files
  std::string search_path;  // $PATH
  bool root = false;        // of the daemon: checks that make no sense for a user are left out
  std::string At(std::string_view absolute) const;
  // Returns the path of a program (without `files`), or "" if it is in no directory of `path`.
  std::string FindProgram(std::string_view name, std::string_view path) const;
  std::string FindProgram(std::string_view name) const { return FindProgram(name, search_path); }
};

// doctor_machine.cc

// The kernel's calls, and as root its file systems. `scratch`: a directory on the store's file
// system in which EROFS is tried; "" = there is none.
void CheckKernel(const Machine& machine, const std::string& scratch, const Config& config,
                 DoctorReport& report);
void CheckFuse(const Machine& machine, DoctorReport& report);
// `daemon`: 0 = none runs; then what a daemon that is started here would have.
void CheckLimits(const Machine& machine, pid_t daemon, DoctorReport& report);
struct ClockState {
  int64_t now = 0;    // seconds since 1970
  int64_t built = 0;  // when this program was made
  bool synchronised = false;
};
ClockState ReadClock();
void CheckClock(const ClockState& clock, DoctorReport& report);
void CheckProxies(const Machine& machine, DoctorReport& report);

// doctor_store.cc

// Returns the directory for `scratch` of CheckKernel: the store, or, if it does not exist, the
// directory in which it would be made; "" if nothing can be written there.
std::string CheckStore(const Paths& paths, const Config& config, DoctorReport& report);

// doctor_runtimes.cc and doctor_containerd.cc. Only for the daemon of root.

void CheckSystemd(const Machine& machine, DoctorReport& report);
// `shown`: the output of systemctl show.
void JudgeUnits(std::string_view shown, DoctorReport& report);
// `version`: what `containerd --version` prints; "" = unknown.
void CheckContainerd(const Machine& machine, const Paths& paths, const Config& config,
                     std::string_view version, DoctorReport& report);
std::string ContainerdVersion(const Machine& machine);
void CheckPodman(const Machine& machine, const Paths& paths, const Config& config,
                 DoctorReport& report);
void CheckKubelet(const Machine& machine, const Config& config, DoctorReport& report);

// doctor_registry.cc

// The files that say which hosts serve a registry.
void CheckHosts(const HostResolver::Options& options, DoctorReport& report);
// Asks the registry of an image, within a few seconds. `daemon`: one runs, and is asked as well.
void CheckImage(ClientSession& session, const DoctorArgs& args, const Config& config, bool daemon,
                DoctorReport& report);

}  // namespace imagefs
