// SPDX-License-Identifier: Apache-2.0
#include "cmd/refusal.h"

#include <errno.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/types/span.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/text.h"
#include "cmd/calls.h"
#include "cmd/interrupt.h"
#include "cmd/listeners.h"
#include "cmd/rendezvous.h"

namespace imagefs {
namespace {

constexpr int kTurnMs = 500;  // between checks of the configuration
constexpr int64_t kGraceSeconds = 1;

class RefusedCall : public grpc::ServerGenericBidiReactor {
 public:
  static RefusedCall* Start(const grpc::Status& status) {
    auto self = std::make_shared<RefusedCall>();
    self->self_ = self;
    self->Finish(status);
    return self.get();
  }
  void OnDone() override { self_.reset(); }

 private:
  std::shared_ptr<RefusedCall> self_;  // until OnDone
};

class RefusingService : public grpc::CallbackGenericService {
 public:
  explicit RefusingService(absl::Status why) : why_(std::move(why)) {}
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return RefusedCall::Start(AnswerOf(context, why_));
  }

 private:
  const absl::Status why_;
};

void AcceptUntilChanged(Listeners& listeners, const std::string& config, const FileVersion& tried,
                        std::chrono::milliseconds at_most) {
  const sigset_t signals = DaemonSignals();
  const Fd ended(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const auto until = std::chrono::steady_clock::now() + at_most;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    std::vector<pollfd> fds = {{ended.get(), POLLIN, 0}};
    listeners.AppendTo(&fds);
    const int timeout = static_cast<int>(std::min<int64_t>(left.count(), kTurnMs));
    const int ready = poll(fds.data(), fds.size(), timeout);
    if (ready < 0 && errno != EINTR) return;
    // Check after the wait and before accepting a connection: a client that connects because its
    // user has repaired the file must not get the old error.
    if (VersionOf(config) != tried) return;
    if (ready <= 0) continue;
    if (fds[0].revents != 0) return;
    listeners.Accept(absl::MakeConstSpan(fds).subspan(1));
  }
}

}  // namespace

FileVersion VersionOf(const std::string& file) {
  struct stat st;
  if (stat(file.c_str(), &st) != 0) return {};
  return {true, st.st_dev, st.st_ino, st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
}

void ServeRefusal(const Paths& paths, std::vector<PassedSocket> sockets, const absl::Status& why,
                  const std::string& config, const FileVersion& tried,
                  std::chrono::milliseconds at_most) {
  const std::string text = StrCat("the daemon does not start: ", ToStd(why.message()));
  NotifyServiceManager(StrCat("STATUS=", text));
  RefusingService service(
      WithKind(absl::FailedPreconditionError(text), KindOf(NoDaemonBecause(why))));
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return;
  std::vector<std::string> names;
  for (const PassedSocket& socket : sockets) names.push_back(socket.name);
  Listeners listeners(paths, std::move(sockets));
  for (const std::string& name : names) (void)listeners.Add(name, *server);
  AcceptUntilChanged(listeners, config, tried, at_most);
  listeners.Close();
  server->Shutdown(gpr_time_from_seconds(kGraceSeconds, GPR_TIMESPAN));
  server->Wait();
}

}  // namespace imagefs
