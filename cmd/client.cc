#include "cmd/client.h"

#include <errno.h>
#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>

#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "proto/control.grpc.pb.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages of every method below

// A manifest and a configuration, both at the largest that is accepted, in one reply.
constexpr int kMaxReplyBytes = 32 << 20;
constexpr char kIdleExitSeconds[] = "60";

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// The daemon marks its answers: without the mark the connection has ended.
bool Answered(const grpc::ClientContext& context) {
  return context.GetServerTrailingMetadata().count("imagefs") > 0;
}

// What one attempt came to.
struct Outcome {
  absl::Status status;
  bool lost = false;      // the connection ended without an answer
  bool repeated = false;  // and nothing was seen of it yet, so that asking again is the same
};

Outcome OutcomeOf(const grpc::ClientContext& context, const grpc::Status& status, bool seen) {
  Outcome outcome{FromGrpc(status)};
  // A call that reaches a daemon while it ends is cancelled by gRPC, without a word of ours.
  outcome.lost = (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                  status.error_code() == grpc::StatusCode::CANCELLED) &&
                 !Answered(context);
  outcome.repeated = outcome.lost && !seen;
  return outcome;
}

}  // namespace

struct DaemonClient::Rpc {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<Control::Stub> stub;
};

DaemonClient::DaemonClient(Options options, Interrupts& interrupts)
    : options_(std::move(options)), interrupts_(interrupts) {}
DaemonClient::~DaemonClient() = default;

absl::StatusOr<std::unique_ptr<DaemonClient>> DaemonClient::Connect(Options options,
                                                                    Interrupts& interrupts) {
  auto client = std::unique_ptr<DaemonClient>(new DaemonClient(std::move(options), interrupts));
  IMAGEFS_RETURN_IF_ERROR(client->Reconnect());
  return client;
}

absl::Status DaemonClient::Reconnect() {
  const Paths& paths = options_.paths;
  absl::StatusOr<Fd> fd;
  if (options_.start) {
    std::vector<std::string> command = {
        "imagefs", "daemon",      "--root",         paths.root,   "--run",
        paths.run, "--idle-exit", kIdleExitSeconds, "--ready-fd", StrCat(kReadyFd)};
    if (!options_.log_level.empty()) {
      command.insert(command.end(), {"--log-level", options_.log_level});
    }
    if (!options_.ca_file.empty()) command.insert(command.end(), {"--ca-file", options_.ca_file});
    if (!options_.config.empty()) command.insert(command.end(), {"--config", options_.config});
    fd = ConnectOrStart(paths, command);
  } else {
    fd = ConnectDaemon(paths);
  }
  if (!fd.ok()) return fd.status();
  if (fcntl(fd->get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus(errno, paths.socket());
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReplyBytes);
  rpc_ = std::make_unique<Rpc>();
  rpc_->channel = grpc::CreateCustomInsecureChannelFromFd("imagefs", fd->Release(), arguments);
  rpc_->stub = Control::NewStub(rpc_->channel);
  return absl::OkStatus();
}

template <typename Attempt>
absl::Status DaemonClient::WithDaemon(Attempt attempt) {
  Outcome outcome = attempt();
  if (outcome.repeated && !interrupts_.interrupted()) {
    IMAGEFS_RETURN_IF_ERROR(Reconnect());
    outcome = attempt();
  }
  if (outcome.lost && !interrupts_.interrupted()) {
    return absl::UnavailableError(
        StrCat("the daemon went away in the middle of the call; see its log, ",
               options_.paths.log(), " or that of imagefs.service"));
  }
  return outcome.status;
}

template <typename Method, typename Request, typename Reply>
absl::Status DaemonClient::Unary(Method method, const Request& request, Reply* reply) {
  return WithDaemon([&] {
    grpc::ClientContext context;
    Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    const grpc::Status status = (rpc_->stub.get()->*method)(&context, request, reply);
    return OutcomeOf(context, status, /*seen=*/false);
  });
}

template <typename Method, typename Request>
absl::Status DaemonClient::Stream(Method method, const Request& request, const OnEvent& on_event) {
  return WithDaemon([&] {
    grpc::ClientContext context;
    Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    auto reader = (rpc_->stub.get()->*method)(&context, request);
    MountEvent event;
    bool result = false;
    while (reader->Read(&event)) {
      result |= event.has_result();
      on_event(event);
    }
    const grpc::Status status = reader->Finish();
    Outcome outcome = OutcomeOf(context, status, result);
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

absl::Status DaemonClient::Drop(const DropRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Drop, request, reply);
}

absl::Status DaemonClient::ListAdded(ListAddedReply* reply) {
  return Unary(&Control::Stub::ListAdded, ListAddedRequest(), reply);
}

absl::Status DaemonClient::Evict(const RemoveRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Evict, request, reply);
}

absl::Status DaemonClient::Profile(const ProfileRequest& request, ProfileReply* reply) {
  return Unary(&Control::Stub::Profile, request, reply);
}

absl::Status DaemonClient::MountStatus(const std::string& directory, MountStatusReply* reply) {
  MountStatusRequest request;
  request.set_directory(directory);
  return Unary(&Control::Stub::MountStatus, request, reply);
}

absl::Status DaemonClient::Unmount(const UnmountRequest& request, UnmountReply* reply) {
  return Unary(&Control::Stub::Unmount, request, reply);
}

absl::Status DaemonClient::ListMounts(ListMountsReply* reply) {
  return Unary(&Control::Stub::ListMounts, ListMountsRequest(), reply);
}

absl::Status DaemonClient::ListImages(ListImagesReply* reply) {
  return Unary(&Control::Stub::ListImages, ListImagesRequest(), reply);
}

absl::Status DaemonClient::Inspect(const InspectRequest& request, InspectReply* reply) {
  return Unary(&Control::Stub::Inspect, request, reply);
}

absl::Status DaemonClient::Remove(const RemoveRequest& request, RemoveReply* reply) {
  return Unary(&Control::Stub::Remove, request, reply);
}

absl::Status DaemonClient::GetStatus(StatusReply* reply) {
  return Unary(&Control::Stub::Status, StatusRequest(), reply);
}

absl::StatusOr<pid_t> DaemonClient::Shutdown(bool unmount) {
  ShutdownRequest request;
  request.set_unmount(unmount);
  ShutdownReply reply;
  IMAGEFS_RETURN_IF_ERROR(Unary(&Control::Stub::Shutdown, request, &reply));
  return reply.pid();
}

}  // namespace imagefs
