// SPDX-License-Identifier: Apache-2.0
// How the command and the daemon of a store find each other: the sockets, who is at the other end,
// and starting a daemon where none runs, such that two starters at the same instant end up with
// one. POSIX only; functions block on local work and, where they say so, on the start lock.
//
// A daemon listens in its run directory and in its store, so that whoever knows one of the two
// finds it: a run directory may go away while the daemon lives (logind removes it at the last
// logout), and two shells of a user may have different ones. <root>/lock (flock) is held by the
// daemon for as long as it lives; its text is the daemon's pid, followed by " stopped" once it was
// told to end. <root>/start.lock (flock) is held by whoever starts a daemon until that daemon
// listens, and by a daemon that ends until its process is gone, so that a starter never meets half
// a daemon.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/options.h"

namespace imagefs {

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
};
absl::StatusOr<Peer> PeerOf(int socket);

// A connection to the daemon of this user that listens in the run directory, or else in the store.
// kNotFound when none listens (no socket, or one that a killed daemon left); kPermissionDenied when
// the one that does is another user's.
absl::StatusOr<Fd> ConnectDaemon(const Paths& paths);
// The same in the store only, where the daemon of the run directory has another one.
absl::StatusOr<Fd> ConnectInStore(const Paths& paths);

// After ConnectDaemon found nobody. kNotFound: there is no daemon. kUnavailable: one is starting or
// ending. kFailedPrecondition, with its pid: one holds the store and listens nowhere.
absl::Status WhyNobodyListens(const Paths& paths);
// Waits for as long as one is starting or ending, or listens nowhere: OK when one listens,
// kNotFound when there is none, or what it was at the end of the time.
absl::Status AwaitListener(const Paths& paths, std::chrono::milliseconds patience);

// A listening socket of mode 0600 that appears under its name only once it listens, in place of one
// that a killed daemon left. kFailedPrecondition, with its pid, when another daemon listens there.
absl::StatusOr<Fd> ListenForCommands(const Paths& paths);
// The same as <directory>/NAME.sock, whoever listened there before.
absl::StatusOr<Fd> ListenIn(const std::string& directory, std::string_view name);
inline constexpr int kSocketBacklog = 256;  // a storm of commands connects at once

// Waits for the lock, or fails at once with kUnavailable when `wait` is false and it is taken. The
// store has to be there.
absl::StatusOr<Fd> TakeStartLock(const Paths& paths, bool wait);

// Of the process that holds the store's lock, by that process: whoever waits for it is not to start
// another daemon. WasStopped: by those that lost their connection to `pid`.
absl::Status NoteStopped(const Paths& paths);
bool WasStopped(const Paths& paths, pid_t pid);

// The path of the program imagefsd: beside the program that runs now.
std::string DaemonProgram();
// Of imagefs-holder: beside it as well, or where it is installed.
std::string HolderProgram();

// The command line of a daemon that ends when nobody has needed it for `idle_seconds`; the first is
// its name. Settings that are "" are left out.
struct DaemonSettings {
  std::string idle_seconds, log_level, ca_file, config;
};
std::vector<std::string> DaemonCommand(const Paths& paths, const DaemonSettings& settings);

// ConnectDaemon; where none runs, runs DaemonProgram with the arguments `command` (the first is its
// name) as a daemon (new session, output to the log, no
// descriptor but 0-2 and kReadyFd inherited, default signals) and waits until it listens. The
// daemon's own words when it cannot start.
inline constexpr int kReadyFd = 3;
absl::StatusOr<Fd> ConnectOrStart(const Paths& paths, const std::vector<std::string>& command);

// The daemon's side of ConnectOrStart: says that it listens, or why it does not.
void ReportReady(int ready_fd, const absl::Status& status);

// Waits until that process is gone; kDeadlineExceeded after `timeout_ms`.
absl::Status WaitForExit(pid_t pid, int timeout_ms);

}  // namespace imagefs
