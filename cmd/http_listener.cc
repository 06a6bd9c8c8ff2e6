// SPDX-License-Identifier: Apache-2.0
#include "cmd/http_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <thread>
#include <utility>

#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kPlain[] = "text/plain; charset=utf-8";

void LogHttp(void*, const char* format, va_list arguments) {
  char text[256];
  vsnprintf(text, sizeof(text), format, arguments);
  LogDebug("http_listener said=", Printable(text));
}

HttpListener::Request RequestOf(MHD_Connection* connection) {
  HttpListener::Request request;
  const char* host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
  if (host != nullptr) request.host = host;
  MHD_get_connection_values(
      connection, MHD_GET_ARGUMENT_KIND,
      [](void* arguments, MHD_ValueKind, const char* key, const char* value) {
        static_cast<std::map<std::string, std::string>*>(arguments)->emplace(
            key, value == nullptr ? "" : value);
        return MHD_YES;
      },
      &request.arguments);
  return request;
}

class HttpListenerImpl : public HttpListener {
 public:
  HttpListenerImpl(std::unique_ptr<ListenSocket> socket, Handlers handlers, Options options)
      : socket_(std::move(socket)), handlers_(std::move(handlers)), options_(options) {}

  ~HttpListenerImpl() override {
    if (thread_.joinable()) {
      const uint64_t one = 1;
      (void)!write(wake_.get(), &one, sizeof(one));
      thread_.join();
    }
    if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
  }

  const ListenAddress& address() const override { return socket_->address(); }

  absl::Status Start();

 private:
  struct Connection {
    int fd;
    Clock::time_point until;
  };

  static MHD_Result OnRequest(void* self, MHD_Connection* connection, const char* path,
                              const char* method, const char* version, const char* body,
                              size_t* body_bytes, void** context);
  static void OnConnection(void* self, MHD_Connection* connection, void** context,
                           MHD_ConnectionNotificationCode code);
  MHD_Result Reply(MHD_Connection* connection, std::string_view method, std::string_view path);
  void Run();
  // Cuts what exceeds its deadline; returns how long until the next one, or -1.
  int CutLateMs();

  const std::unique_ptr<ListenSocket> socket_;
  const Handlers handlers_;
  const Options options_;
  Fd wake_;
  MHD_Daemon* daemon_ = nullptr;
  int poll_fd_ = -1;                                   // the daemon's
  std::map<MHD_Connection*, Connection> connections_;  // used by the thread only
  std::thread thread_;
};

absl::Status HttpListenerImpl::Start() {
  wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  // The daemon closes its descriptor, also if it cannot start.
  const int fd = fcntl(socket_->fd(), F_DUPFD_CLOEXEC, 0);
  if (!wake_.valid() || fd < 0) return ErrnoStatus(errno, "the HTTP listener");
  // Without a thread of the library's own: this object's thread calls it.
  daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, nullptr, nullptr, &OnRequest, this,
      // First, so that it applies to the other options.
      MHD_OPTION_EXTERNAL_LOGGER, &LogHttp, nullptr, MHD_OPTION_LISTEN_SOCKET, fd,
      MHD_OPTION_CONNECTION_LIMIT, options_.connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      options_.request_bytes, MHD_OPTION_NOTIFY_CONNECTION, &OnConnection, this, MHD_OPTION_END);
  const MHD_DaemonInfo* info =
      daemon_ == nullptr ? nullptr : MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == nullptr) return absl::InternalError("libmicrohttpd cannot start");
  poll_fd_ = info->epoll_fd;
  thread_ = std::thread([this] {
    EnterThread(ThreadRole::kHttp);
    Run();
  });
  return absl::OkStatus();
}

void HttpListenerImpl::Run() {
  while (true) {
    int timeout = CutLateMs();
    MHD_UNSIGNED_LONG_LONG own = 0;
    if (MHD_get_timeout(daemon_, &own) == MHD_YES) {
      const int at_most = static_cast<int>(std::min<unsigned long long>(own, 1000));
      timeout = timeout < 0 ? at_most : std::min(timeout, at_most);
    }
    pollfd fds[] = {{wake_.get(), POLLIN, 0}, {poll_fd_, POLLIN, 0}};
    if (poll(fds, 2, timeout) < 0 && errno != EINTR) {
      return LogError("http_listener_failed errno=", errno);
    }
    if (fds[0].revents != 0) return;
    const size_t before = connections_.size();
    MHD_run(daemon_);
    // At its limit the daemon accepts nothing; it notices in its next run that there is room.
    if (connections_.size() < before) MHD_run(daemon_);
  }
}

int HttpListenerImpl::CutLateMs() {
  const Clock::time_point now = Clock::now();
  Clock::time_point next = Clock::time_point::max();
  for (auto& [connection, one] : connections_) {
    if (one.until <= now) {
      // The daemon sees the end of the connection and closes it.
      shutdown(one.fd, SHUT_RDWR);
      one.until = now + options_.deadline;
    }
    next = std::min(next, one.until);
  }
  if (next == Clock::time_point::max()) return -1;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(next - now).count());
}

void HttpListenerImpl::OnConnection(void* self, MHD_Connection* connection, void**,
                                    MHD_ConnectionNotificationCode code) {
  auto& listener = *static_cast<HttpListenerImpl*>(self);
  if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
    listener.connections_.erase(connection);
    return;
  }
  const MHD_ConnectionInfo* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  if (info == nullptr) return;
  listener.connections_[connection] = {info->connect_fd, Clock::now() + listener.options_.deadline};
}

// Answers at once: the body of a request, which no page has a use for, is not read.
MHD_Result HttpListenerImpl::OnRequest(void* self, MHD_Connection* connection, const char* path,
                                       const char* method, const char*, const char*, size_t*,
                                       void**) {
  return static_cast<HttpListenerImpl*>(self)->Reply(connection, method, path);
}

MHD_Result HttpListenerImpl::Reply(MHD_Connection* connection, std::string_view method,
                                   std::string_view path) {
  Answer answer{404, kPlain, "no such page\n"};
  const bool allowed = method == "GET" || method == "HEAD";
  if (!allowed) {
    answer = {405, kPlain, "only GET and HEAD\n"};
  } else if (const auto found = handlers_.find(path); found != handlers_.end()) {
    answer = found->second(RequestOf(connection));
  }
  MHD_Response* response = MHD_create_response_from_buffer(answer.body.size(), answer.body.data(),
                                                           MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, "Content-Type", answer.content_type.c_str());
  for (const auto& [name, value] : answer.headers) {
    MHD_add_response_header(response, name.c_str(), value.c_str());
  }
  MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header(response, "Cache-Control", "no-store");
  // The deadline is that of a connection, so each has one request.
  MHD_add_response_header(response, "Connection", "close");
  if (!allowed) MHD_add_response_header(response, "Allow", "GET, HEAD");
  const MHD_Result queued =
      MHD_queue_response(connection, static_cast<unsigned>(answer.status), response);
  MHD_destroy_response(response);
  return queued;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Open(const ListenAddress& address,
                                                                 Handlers handlers,
                                                                 Options options) {
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<ListenSocket> socket, ListenSocket::Open(address));
  auto listener =
      std::make_unique<HttpListenerImpl>(std::move(socket), std::move(handlers), options);
  IMAGEFS_RETURN_IF_ERROR(listener->Start());
  return listener;
}

}  // namespace imagefs
