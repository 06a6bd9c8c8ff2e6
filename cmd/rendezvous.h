// SPDX-License-Identifier: Apache-2.0
// How the command and the daemon of a store find each other: connecting to the sockets, checking
// the peer, and starting a daemon if none runs, such that two concurrent starters end up with one.
// POSIX only; functions block on local work and, if they say so, on the start lock.
//
// A daemon listens in its run directory and in its store, so that whoever knows one of the two
// finds it: a run directory may be removed while the daemon runs (logind removes it at the last
// logout), and two shells of a user may have different ones. The daemon holds <root>/lock (flock)
// for its lifetime; the text of the file is the daemon's pid, followed by " stopped" once it was
// told to stop. <root>/start.lock (flock) is held by a starter until its daemon listens, and by a
// stopping daemon until its process is gone, so that a starter never meets a half-started or
// half-stopped daemon.
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

// Returns the failure to find, reach or start a daemon as one of the kind kNoDaemon, unless a more
// specific one is known: a kind set where it arose, a denied access, or a damaged store. Keeps the
// code.
absl::Status NoDaemonBecause(absl::Status failure);

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
};
absl::StatusOr<Peer> PeerOf(int socket);

// Connects to this user's daemon, in the run directory or else in the store. Returns kNotFound if
// none listens (no socket, or one left by a killed daemon), and kPermissionDenied if the daemon
// belongs to another user.
absl::StatusOr<Fd> ConnectDaemon(const Paths& paths);
// Connects in the store only, for when the daemon of the run directory has another store.
absl::StatusOr<Fd> ConnectInStore(const Paths& paths);

// Connects to NAME.sock of the daemon of that store, in the store or else in the run directory, as
// ConnectDaemon does. In another mount namespace the run directory may be that of another daemon.
absl::StatusOr<Fd> ConnectSocket(const Paths& paths, std::string_view name);

// Explains why ConnectDaemon found no daemon. kNotFound: there is none. kUnavailable: one is
// starting or stopping. kFailedPrecondition, with its pid: one holds the store but does not listen.
absl::Status ExplainNoDaemon(const Paths& paths);
// Waits up to `patience` while a daemon is starting, stopping or not listening. Returns OK once one
// listens, kNotFound if there is none, or the status of ExplainNoDaemon on timeout.
absl::Status AwaitListener(const Paths& paths, std::chrono::milliseconds patience);

// Creates the control socket, with mode 0600. Its name appears only once it listens, and replaces a
// socket left by a killed daemon. Returns kFailedPrecondition, with its pid, if another daemon
// listens there.
absl::StatusOr<Fd> ListenForCommands(const Paths& paths);
// Creates <directory>/NAME.sock in the same way, but replaces a socket on which someone listens.
absl::StatusOr<Fd> ListenIn(const std::string& directory, std::string_view name);
inline constexpr int kSocketBacklog = 256;  // many commands may connect at once

// Blocks until the lock is free, or fails at once with kUnavailable if it is taken and `wait` is
// false. REQUIRES: the directory of the store exists.
absl::StatusOr<Fd> TakeStartLock(const Paths& paths, bool wait);

// Called by the holder of the store's lock: tells commands that wait for this daemon not to start
// another one. Commands that lost their connection to `pid` check it with WasStopped.
absl::Status NoteStopped(const Paths& paths);
bool WasStopped(const Paths& paths, pid_t pid);

// The path of imagefsd, which is next to the running program.
std::string DaemonProgram();
// The path of imagefs-holder: next to the running program or in its installed location.
std::string HolderProgram();

// The command line, including argv[0], of a daemon that exits after `idle_seconds` without use.
// Settings that are "" are omitted.
struct DaemonSettings {
  std::string idle_seconds, log_level, ca_file, config;
};
std::vector<std::string> DaemonCommand(const Paths& paths, const DaemonSettings& settings);

// Like ConnectDaemon, but if no daemon runs, starts one and waits until it listens: runs
// DaemonProgram with the arguments `command` (including argv[0]) in a new session, with output to
// the log, default signals and only the descriptors 0-2 and kReadyFd. Returns the daemon's own
// error if it cannot start. Blocks on the start lock.
inline constexpr int kReadyFd = 3;
absl::StatusOr<Fd> ConnectOrStart(const Paths& paths, const std::vector<std::string>& command);

// The daemon's side of ConnectOrStart: reports that it listens, or why it does not.
void ReportReady(int ready_fd, const absl::Status& status);

// Blocks until the process is gone, or returns kDeadlineExceeded after `timeout_ms`.
absl::Status WaitForExit(pid_t pid, int timeout_ms);

}  // namespace imagefs
