// SPDX-License-Identifier: Apache-2.0
#include "cmd/client.h"

#include <errno.h>
#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/failure.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "fs/mount_namespace.h"
#include "proto/control.grpc.pb.h"
#include "snap/rpc_status.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages of every method below

// A reply may hold a manifest and a configuration, both of the maximum size.
constexpr int kMaxReplyBytes = 32 << 20;
constexpr char kIdleExitSeconds[] = "60";
constexpr auto kSilence = std::chrono::milliseconds(2000);  // before the user is told
constexpr auto kHungPatience = std::chrono::seconds(10);    // for a daemon that is running
constexpr auto kStartPatience = std::chrono::seconds(150);  // a start may take two minutes
constexpr int kAttempts = 3;

// A deadline on the monotonic clock.
gpr_timespec After(std::chrono::milliseconds duration) {
  return gpr_time_from_millis(duration.count(), GPR_TIMESPAN);
}

std::string CommOf(pid_t pid) {
  std::string name = ReadFile(StrCat("/proc/", pid, "/comm"), 64).value_or("");
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

// Returns whether the creator of the socket, which has not answered yet, is not a daemon but the
// service manager, which will start one.
bool IsManager(pid_t peer) {
  const std::string name = CommOf(peer);
  return !name.empty() && name != "imagefsd";
}

std::string Whom(pid_t peer) {
  if (IsManager(peer)) return "imagefs.service to start (systemctl status imagefs.service)";
  return StrCat("the daemon with pid ", peer);
}

}  // namespace

struct DaemonClient::Rpc {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<Control::Stub> stub;
};

// The result of one attempt.
struct DaemonClient::Outcome {
  absl::Status status;
  bool answered = false;
  bool lost = false;      // the connection ended without an answer
  bool repeated = false;  // and no result was seen, so it is safe to repeat the call

  static Outcome Of(const grpc::ClientContext& context, const grpc::Status& status, bool seen) {
    Outcome outcome;
    outcome.status = FromGrpc(status);
    // The daemon marks its answers; without the mark, the connection was lost.
    const auto& trailer = context.GetServerTrailingMetadata();
    const auto mark = trailer.find(kAnswerMark);
    outcome.answered = mark != trailer.end();
    if (outcome.answered) {
      // Daemons of other versions may say something else.
      const std::optional<FailureKind> kind =
          ParseKind(std::string_view(mark->second.data(), mark->second.size()));
      if (kind.has_value()) outcome.status = WithKind(std::move(outcome.status), *kind);
    }
    // gRPC cancels a call that reaches a daemon while it stops, so the answer has no mark.
    outcome.lost = (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                    status.error_code() == grpc::StatusCode::CANCELLED) &&
                   !outcome.answered;
    outcome.repeated = outcome.lost && !seen;
    return outcome;
  }
};

DaemonClient::DaemonClient(Options options, Interrupts& interrupts)
    : options_(std::move(options)), interrupts_(interrupts) {}
DaemonClient::~DaemonClient() = default;

absl::StatusOr<std::unique_ptr<DaemonClient>> DaemonClient::Connect(Options options,
                                                                    Interrupts& interrupts) {
  auto client = std::unique_ptr<DaemonClient>(new DaemonClient(std::move(options), interrupts));
  IMAGEFS_RETURN_IF_ERROR(NoDaemonBecause(client->Reconnect()));
  return client;
}

void DaemonClient::Say(const std::string& line) {
  if (options_.say && !said_.exchange(true)) options_.say(line);
}

absl::StatusOr<Fd> DaemonClient::ConnectOrStartOne() {
  const Paths& paths = options_.paths;
  if (other_store_) return ConnectInStore(paths);
  if (!options_.start) {
    absl::StatusOr<Fd> fd = ConnectDaemon(paths);
    return absl::IsNotFound(fd.status()) ? ExplainNoDaemon(paths) : std::move(fd);
  }
  std::vector<std::string> command = DaemonCommand(
      paths, {kIdleExitSeconds, options_.log_level, options_.ca_file, options_.config});
  command.insert(command.end(), {"--ready-fd", StrCat(kReadyFd)});
  Interrupts::Reminder reminder(interrupts_, kSilence, [this] {
    Say(StrCat("waiting for a daemon of ", options_.paths.root, " that is starting or ending"));
  });
  return ConnectOrStart(paths, command);
}

absl::Status DaemonClient::Reconnect() {
  absl::Status status;
  for (int attempt = 1;; ++attempt) {
    absl::StatusOr<Fd> fd = ConnectOrStartOne();
    // Then report what was found out about the daemon of the run directory.
    if (other_store_ && !status.ok() && absl::IsNotFound(fd.status())) return status;
    if (!fd.ok()) return fd.status();
    IMAGEFS_ASSIGN_OR_RETURN(const Peer peer, PeerOf(fd->get()));
    if (fcntl(fd->get(), F_SETFL, O_NONBLOCK) != 0) {
      return ErrnoStatus(errno, options_.paths.socket());
    }
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxReplyBytes);
    rpc_ = std::make_unique<Rpc>();
    // Never undone: when the last channel ends, gRPC would join its threads one by one, which takes
    // milliseconds of a process that ends anyway.
    grpc_init();
    rpc_->channel = grpc::CreateCustomInsecureChannelFromFd("imagefs", fd->Release(), arguments);
    rpc_->stub = Control::NewStub(rpc_->channel);
    bool lost = false;
    const bool in_store = other_store_;
    status = Greet(peer.pid, &lost);
    if (other_store_ && !in_store) continue;
    // The daemon ended in between: there is another one, or one can be started.
    if (!lost || attempt == kAttempts || interrupts_.interrupted()) return status;
  }
}

// Makes the first call. A running daemon answers at once; one that is starting, or that the service
// manager has yet to start, answers when it is ready.
absl::Status DaemonClient::Greet(pid_t peer, bool* lost) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const std::chrono::milliseconds patience = options_.patience;
  while (true) {
    VersionReply reply;
    grpc::ClientContext context;
    context.set_deadline(After(patience.count() == 0 ? kSilence : std::min(kSilence, patience)));
    Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    const Outcome outcome = Outcome::Of(
        context, rpc_->stub->Version(&context, VersionRequest(), &reply), /*seen=*/false);
    *lost = outcome.lost;
    if (outcome.status.ok()) {
      pid_ = static_cast<pid_t>(reply.pid());
      proxies_ = reply.proxies();
      daemon_ = options_.paths;
      if (!reply.root().empty()) daemon_.root = reply.root();
      if (!reply.run().empty()) daemon_.run = reply.run();
      mount_namespace_ = reply.mount_namespace();
      callers_mount_ = reply.callers_mount();
      return CheckSettings(reply);
    }
    if (outcome.answered || !absl::IsDeadlineExceeded(outcome.status)) return outcome.status;
    const auto waited = Clock::now() - begin;
    if (patience.count() != 0 && waited >= patience) return NoAnswer(peer);
    Say(StrCat("waiting for ", Whom(peer)));
    // A daemon that is starting or stopping, and the service manager, are given more time.
    if (waited >= kStartPatience) return NoAnswer(peer);
    if (waited >= kHungPatience && !IsManager(peer) &&
        !absl::IsUnavailable(TakeStartLock(options_.paths, /*wait=*/false).status())) {
      return NoAnswer(peer);
    }
  }
}

absl::Status DaemonClient::NoAnswer(pid_t peer) const {
  if (IsManager(peer)) {
    return WithKind(
        absl::DeadlineExceededError(StrCat(
            "imagefs.service does not start; `systemctl status imagefs.service` and `journalctl "
            "-u imagefs.service` say why")),
        FailureKind::kNoDaemon);
  }
  return WithKind(absl::DeadlineExceededError(StrCat(
                      "the daemon with pid ", peer, " does not answer; see its log, ",
                      options_.paths.log(), " or that of imagefs.service; end it (`kill -9 ", peer,
                      "`): the next daemon "
                      "takes over the mounts that need one")),
                  FailureKind::kNoDaemon);
}

absl::Status DaemonClient::CheckSettings(const VersionReply& daemon) {
  const Paths& paths = options_.paths;
  if (paths.root_named && !daemon.root().empty() && !SameFile(paths.root, daemon.root())) {
    other_store_ = true;
    return WithKind(absl::FailedPreconditionError(StrCat(
                        "the daemon of ", daemon.run(), " (pid ", pid_, ") uses the store ",
                        daemon.root(), ", not ", paths.root, "; choose another --run for that")),
                    FailureKind::kBusy);
  }
  // Daemons of older versions do not report this.
  if (!options_.same_settings || daemon.config().empty()) return absl::OkStatus();
  const auto other = [this](std::string_view option, const std::string& has,
                            const std::string& asked, std::string_view remedy = "") {
    return WithKind(absl::FailedPreconditionError(StrCat(
                        "a daemon is already running (pid ", pid_, "), which was started with",
                        has.empty() ? "out " : " ", option, has.empty() ? "" : " ", has,
                        ", not with ", asked, "; ", remedy,
                        "stop it (imagefs stop), or omit the option and its environment variable")),
                    FailureKind::kBusy);
  };
  if (!options_.config.empty() && !SameFile(options_.config, daemon.config())) {
    return other("--config", daemon.config(), options_.config);
  }
  if (!options_.ca_file.empty() && !SameFile(options_.ca_file, daemon.ca_file())) {
    return other("--ca-file", daemon.ca_file(), options_.ca_file);
  }
  if (!options_.log_level.empty() && options_.log_level != daemon.log_level()) {
    return other("--log-level", daemon.log_level(), options_.log_level,
                 StrCat("change it (imagefs log-level ", options_.log_level, "), "));
  }
  return absl::OkStatus();
}

// Returns whether a call that may start a daemon finds one after a stop: the sockets of a service
// stay, and the service manager starts it again at once.
bool DaemonClient::IsDaemonListening() const {
  return options_.start && ConnectDaemon(options_.paths).ok();
}

template <typename Attempt>
absl::Status DaemonClient::WithDaemon(Attempt attempt) {
  Outcome outcome = attempt();
  // Retry more than once, since a daemon may be killed, started and stopped again; but not forever,
  // since the request itself may crash every daemon.
  for (int i = 1; i < kAttempts && outcome.lost && !interrupts_.interrupted(); ++i) {
    if (WasStopped(daemon_, pid_) && !(outcome.repeated && IsDaemonListening())) {
      return WithKind(
          absl::UnavailableError(StrCat(
              "the daemon was stopped before it had answered; run this again to start another")),
          FailureKind::kNoDaemon);
    }
    if (!outcome.repeated) break;
    IMAGEFS_RETURN_IF_ERROR(NoDaemonBecause(Reconnect()));
    outcome = attempt();
  }
  if (outcome.lost && !interrupts_.interrupted()) {
    return WithKind(
        absl::UnavailableError(StrCat("the daemon ended during the call; see its log, ",
                                      options_.paths.log(), " or that of imagefs.service")),
        FailureKind::kNoDaemon);
  }
  if (!outcome.answered && absl::IsDeadlineExceeded(outcome.status)) return NoAnswer(pid_);
  // This shell may have a proxy for what the daemon cannot reach; a user's daemon uses that.
  const std::string proxies = ProxyDigest();
  if (IsMachineRoot() && outcome.answered && !proxies.empty() && proxies != proxies_ &&
      (absl::IsUnavailable(outcome.status) || absl::IsDeadlineExceeded(outcome.status))) {
    return WithKind(absl::Status(outcome.status.code(),
                                 StrCat(outcome.status.message(),
                                        "; run imagefs stop and then this again, since the daemon "
                                        "was started with other proxies than this shell has")),
                    KindOf(outcome.status));
  }
  return outcome.status;
}

template <typename Method, typename Request, typename Reply>
absl::Status DaemonClient::Unary(Method method, const Request& request, Reply* reply,
                                 std::string_view waits_for) {
  return WithDaemon([&] {
    grpc::ClientContext context;
    if (options_.patience.count() != 0) {
      context.set_deadline(After(options_.patience));
    }
    Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    Interrupts::Reminder reminder(interrupts_, kSilence, [&] {
      Say(waits_for.empty() ? StrCat("waiting for the daemon with pid ", pid_)
                            : StrCat("waiting for ", waits_for));
    });
    const grpc::Status status = (rpc_->stub.get()->*method)(&context, request, reply);
    return Outcome::Of(context, status, /*seen=*/false);
  });
}

template <typename Method, typename Request>
absl::Status DaemonClient::Stream(Method method, const Request& request, const OnEvent& on_event) {
  return WithDaemon([&] {
    grpc::ClientContext context;
    Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    std::optional<Interrupts::Reminder> reminder;
    // With progress, the first event arrives at once.
    if (request.progress()) {
      reminder.emplace(interrupts_, kSilence,
                       [this] { Say(StrCat("waiting for the daemon with pid ", pid_)); });
    }
    auto reader = (rpc_->stub.get()->*method)(&context, request);
    MountEvent event;
    bool result = false;
    bool seen = false;  // a part of the result, which must not come twice
    absl::Status taken;
    while (taken.ok() && reader->Read(&event)) {
      reminder.reset();
      result |= event.has_result();
      seen |= !event.has_progress();
      taken = on_event(event);
    }
    if (!taken.ok()) context.TryCancel();
    const grpc::Status status = reader->Finish();
    Outcome outcome = Outcome::Of(context, status, seen);
    if (!taken.ok()) {
      outcome.lost = outcome.repeated = false;
      outcome.answered = true;
      outcome.status = taken;
      return outcome;
    }
    if (outcome.status.ok() && !result) {
      outcome.status = absl::InternalError("the daemon ended the call without a result");
    }
    return outcome;
  });
}

absl::Status DaemonClient::Mount(const MountRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Mount, request, on_event);
}

absl::Status DaemonClient::Pull(const PullRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Pull, request, on_event);
}

absl::Status DaemonClient::Index(const IndexRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Index, request, on_event);
}

absl::Status DaemonClient::Add(const AddRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Add, request, on_event);
}

absl::Status DaemonClient::Export(const ExportRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Export, request, on_event);
}

absl::Status DaemonClient::Import(const ImportRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Import, request, on_event);
}

absl::Status DaemonClient::Files(const FilesRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Files, request, on_event);
}

absl::Status DaemonClient::Diff(const DiffRequest& request, const OnEvent& on_event) {
  return Stream(&Control::Stub::Diff, request, on_event);
}

absl::Status DaemonClient::ListShared(const std::string& directory, ListImagesReply* reply) {
  ListSharedRequest request;
  request.set_directory(directory);
  return Unary(&Control::Stub::ListShared, request, reply);
}

absl::StatusOr<std::string> DaemonClient::LogLevel(const std::string& level) {
  LogLevelRequest request;
  request.set_level(level);
  LogLevelReply reply;
  IMAGEFS_RETURN_IF_ERROR(Unary(&Control::Stub::LogLevel, request, &reply));
  return reply.level();
}

absl::Status DaemonClient::Drop(const DropRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Drop, request, reply);
}

absl::Status DaemonClient::ListAdded(ListAddedReply* reply) {
  return Unary(&Control::Stub::ListAdded, ListAddedRequest(), reply);
}

absl::Status DaemonClient::Evict(const RemoveRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Evict, request, reply);
}

absl::Status DaemonClient::Check(const CheckRequest& request, CheckReply* reply) {
  return Unary(&Control::Stub::Check, request, reply, "layers to be read from the disk");
}

absl::Status DaemonClient::Profile(const ProfileRequest& request, ProfileReply* reply) {
  return Unary(&Control::Stub::Profile, request, reply);
}

uint64_t DaemonClient::NamespaceHere() const {
  const uint64_t own = OwnMountNamespace().value_or(mount_namespace_);
  return mount_namespace_ == 0 || own == mount_namespace_ ? 0 : own;
}

absl::Status DaemonClient::MountStatus(const std::string& directory, uint64_t name_space,
                                       bool picture, MountStatusReply* reply) {
  MountStatusRequest request;
  request.set_directory(directory);
  request.set_picture(picture);
  request.set_mount_namespace(name_space);
  return Unary(&Control::Stub::MountStatus, request, reply);
}

absl::Status DaemonClient::Unmount(const UnmountRequest& request, UnmountReply* reply) {
  return Unary(&Control::Stub::Unmount, request, reply);
}

absl::Status DaemonClient::ListMounts(ListMountsReply* reply) {
  return Unary(&Control::Stub::ListMounts, ListMountsRequest(), reply);
}

absl::Status DaemonClient::ListImages(bool all, ListImagesReply* reply) {
  ListImagesRequest request;
  request.set_all(all);
  return Unary(&Control::Stub::ListImages, request, reply);
}

absl::Status DaemonClient::Pin(const PinRequest& request) {
  PinReply reply;
  return Unary(&Control::Stub::Pin, request, &reply);
}

absl::Status DaemonClient::DiskUsage(DiskUsageReply* reply) {
  return Unary(&Control::Stub::DiskUsage, DiskUsageRequest(), reply);
}

absl::Status DaemonClient::Prune(const PruneRequest& request, PruneReply* reply) {
  return Unary(&Control::Stub::Prune, request, reply, "files to be removed");
}

absl::Status DaemonClient::Inspect(const InspectRequest& request, InspectReply* reply) {
  return Unary(&Control::Stub::Inspect, request, reply, "the registry");
}

absl::Status DaemonClient::Remove(const RemoveRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Remove, request, reply);
}

absl::Status DaemonClient::GetStatus(StatusReply* reply) {
  return Unary(&Control::Stub::Status, StatusRequest(), reply);
}

absl::Status DaemonClient::Shutdown(bool unmount, ShutdownReply* reply) {
  ShutdownRequest request;
  request.set_unmount(unmount);
  return Unary(&Control::Stub::Shutdown, request, reply);
}

}  // namespace imagefs
