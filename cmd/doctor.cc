// SPDX-License-Identifier: Apache-2.0
#include "cmd/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/client.h"
#include "cmd/client_session.h"
#include "cmd/config.h"
#include "cmd/doctor_checks.h"
#include "cmd/print.h"
#include "cmd/rendezvous.h"

namespace imagefs {
namespace {

// A daemon that answers takes milliseconds.
constexpr auto kDaemonPatience = std::chrono::seconds(1);
constexpr size_t kMostEndpoints = 8;

// Returns the configuration, or the default one if it is invalid.
Config CheckConfiguration(const std::string& named, DoctorReport& report) {
  const std::string file = ConfigFile(named);
  absl::StatusOr<Config> config = LoadConfig(named);
  if (!config.ok()) {
    report.Problem("configuration", ToStd(config.status().message()),
                   "the daemon does not start with it",
                   "correct that file; `imagefs daemon --check-config` says OK when it is right");
    return Config();
  }
  const bool there = !named.empty() || access(file.c_str(), F_OK) == 0;
  report.Ok("configuration", there ? file : StrCat("there is no ", file, ": the defaults"));
  return *std::move(config);
}

void JudgeDaemon(const control::v1::StatusReply& status, const ClientSession& session,
                 DoctorReport& report) {
  const std::string found =
      StrCat("it runs with pid ", status.pid(), ", version ", Printable(status.version()), ", for ",
             status.root(), " and ", status.run());
  if (status.version() != session.version()) {
    report.Warning("daemon", StrCat(found, "; this command has version ", session.version()),
                   "what is new in this version does not work yet",
                   "imagefs stop: the next daemon takes over the mounts");
  } else {
    report.Ok("daemon", found);
  }
  for (const std::string& warning : status.warnings()) {
    report.Warning("daemon", Printable(warning, 1000), "the daemon says so itself",
                   "do what it says, then restart it (imagefs stop)");
  }
  int shown = 0;
  for (const control::v1::StatusReply::Endpoint& endpoint : status.endpoints()) {
    if (shown++ == kMostEndpoints) break;
    report.Warning("daemon",
                   StrCat(Printable(endpoint.endpoint()),
                          " failed lately: ", Printable(endpoint.cause(), 400)),
                   "the daemon leaves it out for a while, and asks others if there are any",
                   "repair it, or remove it from the file that names it (docs/mirrors.md)");
  }
}

// Returns the pid of the daemon if it answers, else 0. Connects only if a process holds the store:
// systemd would start one for a connection to its socket.
pid_t CheckDaemon(ClientSession& session, DoctorReport& report) {
  const absl::Status none = ExplainNoDaemon(session.paths());
  if (absl::IsNotFound(none)) {
    report.Ok("daemon", StrCat("none runs for ", session.paths().root, "; commands start one"));
    return 0;
  }
  if (absl::IsUnavailable(none)) {
    report.Note("daemon", ToStd(none.message()), "commands wait for it",
                "run this again in a few seconds");
    return 0;
  }
  if (!absl::IsFailedPrecondition(none)) {
    report.Problem("daemon", ToStd(none.message()), "it is unknown whether one runs for this store",
                   "become the owner of the store, or choose another one with --root");
    return 0;
  }
  control::v1::StatusReply reply;
  auto client = session.ConnectToAny(kDaemonPatience);
  const absl::Status status = client.ok() ? (*client)->GetStatus(&reply) : client.status();
  if (!status.ok()) {
    report.Problem(
        "daemon", ToStd(status.message()), "commands wait for it, and then fail",
        StrCat("look at its log: ", session.paths().log(), ", or `journalctl -u imagefs.service`"));
    return 0;
  }
  JudgeDaemon(reply, session, report);
  return static_cast<pid_t>(reply.pid());
}

void CheckAll(ClientSession& session, const DoctorArgs& args, DoctorReport& report) {
  Machine machine;
  machine.search_path = ProcessEnvironment("PATH");
  machine.root = IsMachineRoot();
  const Paths& paths = session.paths();
  const Config config = CheckConfiguration(session.global().config, report);
  const pid_t daemon = CheckDaemon(session, report);
  const std::string scratch = CheckStore(paths, config, report);
  CheckKernel(machine, scratch, config, report);
  CheckFuse(machine, report);
  CheckLimits(machine, daemon, report);
  CheckClock(ReadClock(), report);
  CheckProxies(machine, report);
  if (machine.root) {
    CheckSystemd(machine, report);
    CheckContainerd(machine, paths, config, ContainerdVersion(machine), report);
    CheckPodman(machine, paths, config, report);
    CheckKubelet(machine, config, report);
  }
  CheckHosts(config.HostsOptions(), report);
  if (!args.reference.empty()) CheckImage(session, args, config, daemon != 0, report);
}

}  // namespace

void DoctorReport::Add(std::string_view name, Finding result, std::string_view found,
                       std::string_view meaning, std::string_view remedy) {
  checks_.push_back(
      {std::string(name), result, std::string(found), std::string(meaning), std::string(remedy)});
}

size_t DoctorReport::Count(Finding result) const {
  return static_cast<size_t>(
      std::count_if(checks_.begin(), checks_.end(),
                    [result](const DoctorCheck& check) { return check.result == result; }));
}

int RunDoctor(const GlobalOptions& global, const DoctorArgs& args, Paths paths,
              std::string_view version, Output& out) {
  // What is found is in the report.
  SetLogLevel(global.log_level.empty() ? LogLevel::kOff : ParseLogLevel(global.log_level));
  ClientSession session(global, std::move(paths), version, out);
  DoctorReport report;
  CheckAll(session, args, report);
  out.Print(global.json ? DoctorJson(report) : DoctorText(report));
  return report.Count(Finding::kProblem) > 0 ? 1 : 0;
}

}  // namespace imagefs
