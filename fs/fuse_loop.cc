// SPDX-License-Identifier: Apache-2.0
// How requests reach the workers.
//
// One epoll instance holds every /dev/fuse descriptor, edge-triggered: a queued request wakes one
// worker, and while that one answers it, the next request wakes another. A worker reads until the
// descriptor is empty or it has answered its share, then rearms the descriptor, so that a busy
// mount does not starve the others.
//
// Descriptors are read and written through libfuse's custom I/O. It validates messages (libfuse
// trusts the sizes in them), and a socket can replace the device.

#include "fs/fuse_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/thread_role.h"
#include "fs/fuse_ops.h"

namespace imagefs {
namespace {

// Fits the kernel's largest message: a write of as many bytes as a read may return, plus headers.
constexpr size_t kMessageBytes = kFuseReplyBytes + (size_t{64} << 10);
// Zeros after each message, so that an unterminated name or a missing argument reads as empty.
constexpr size_t kPaddingBytes = 256;
// How many requests a worker answers for one session before it serves the others.
constexpr int kRequestsPerTurn = 64;
constexpr uint64_t kStopKey = 0;  // keys of sessions start at 1
// FUSE_NOTIFY_RESEND of Linux 6.9: requeues requests that were read but not answered.
constexpr int kNotifyResend = 7;
// The kernel's FUSE_REQ_ID_STEP, and how far back to look for hanging requests: about a second at
// the kernel's full rate, because many requests may pass while one waits for the network.
constexpr uint64_t kUniqueStep = 2;
constexpr uint64_t kOlderRequests = 1'000'000;

struct DestroyFuseSession {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};
using FuseSessionPtr = std::unique_ptr<fuse_session, DestroyFuseSession>;

// Fails the requests before `unique` that have not been answered. The kernel numbers requests in
// steps of two and rejects a second answer, so this affects only the few that are pending.
void FailOlder(int fd, uint64_t unique) {
  fuse_out_header reply = {};
  reply.len = sizeof(reply);
  reply.error = -EINTR;
  uint64_t failed = 0;
  for (uint64_t i = 0; i < kOlderRequests && unique > kUniqueStep; ++i) {
    unique -= kUniqueStep;
    reply.unique = unique;
    if (write(fd, &reply, sizeof(reply)) >= 0) ++failed;
  }
  LogInfo("fuse_requests_failed count=", failed, " cause=the previous daemon had read them");
}

// Reads one message into `buffer`, which has kPaddingBytes more than `size`.
ssize_t ReadMessage(int fd, void* buffer, size_t size, void* user_data) {
  FuseServed& served = *static_cast<FuseServed*>(user_data);
  // Read one at a time until the first message has arrived, so that no request read here counts as
  // older.
  std::optional<absl::MutexLock> first;
  if (served.fail_older.load(std::memory_order_acquire)) first.emplace(&served.mu);
  const ssize_t got = read(fd, buffer, std::min(size, kMessageBytes));
  if (got < 0) return got;
  if (got == 0) {  // only for a socket: the peer has closed it
    errno = ENODEV;
    return -1;
  }
  fuse_in_header header = {};
  memcpy(&header, buffer, std::min<size_t>(got, sizeof(header)));
  if (header.len != static_cast<size_t>(got) || header.len < sizeof(header)) {
    errno = ENOENT;  // makes libfuse read the next one
    return -1;
  }
  memset(static_cast<char*>(buffer) + got, 0, kPaddingBytes);
  const bool numbered = header.opcode != FUSE_INTERRUPT && header.opcode != FUSE_FORGET &&
                        header.opcode != FUSE_BATCH_FORGET;
  if (numbered && first.has_value() && served.fail_older.exchange(false)) {
    FailOlder(fd, header.unique);
  }
  return got;
}

// libfuse 3.14 accepts FUSE_CAP_PARALLEL_DIROPS but does not tell the kernel. The first successful
// reply is INIT's, and is the one that a later process may have to know.
std::optional<FuseAgreement> AmendInitReply(iovec* parts, int count) {
  fuse_out_header header;
  fuse_init_out init = {};
  if (count < 2 || parts[0].iov_len != sizeof(header) ||
      parts[1].iov_len < FUSE_COMPAT_22_INIT_OUT_SIZE) {
    return std::nullopt;
  }
  memcpy(&header, parts[0].iov_base, sizeof(header));
  if (header.error != 0) return std::nullopt;
  const size_t size = std::min(parts[1].iov_len, sizeof(init));
  memcpy(&init, parts[1].iov_base, size);
  init.flags |= FUSE_PARALLEL_DIROPS;
  memcpy(parts[1].iov_base, &init, size);
  return FuseAgreement{init.minor, init.max_readahead, init.flags, init.flags2};
}

ssize_t WriteMessage(int fd, iovec* parts, int count, void* user_data) {
  FuseServed& served = *static_cast<FuseServed*>(user_data);
  std::optional<FuseAgreement> agreed;
  if (!served.init_answered.load(std::memory_order_acquire)) {
    agreed = AmendInitReply(parts, count);
  }
  // Before it is written: the answers to what the kernel asks next, on other threads, are not this
  // one, and must not be amended.
  if (agreed.has_value()) served.init_answered.store(true, std::memory_order_release);
  if (agreed.has_value() && served.replaying) {
    ssize_t size = 0;
    for (int i = 0; i < count; ++i) size += static_cast<ssize_t>(parts[i].iov_len);
    return size;
  }
  const ssize_t written = writev(fd, parts, count);
  if (written > 0 && agreed.has_value()) {
    absl::MutexLock lock(&served.mu);
    served.agreed = agreed;
    served.init_done.SignalAll();
  }
  // The requester is gone (interrupted, or the mount ended). libfuse silently accepts ENOENT.
  if (written < 0 && (errno == ENODEV || errno == EPIPE || errno == EINVAL)) errno = ENOENT;
  return written;
}

void LogFuse(fuse_log_level level, const char* format, va_list arguments) {
  if (level > FUSE_LOG_WARNING) return;
  char text[512];
  int size = vsnprintf(text, sizeof(text), format, arguments);
  size = std::clamp<int>(size, 0, sizeof(text) - 1);
  std::string_view line(text, size);
  while (line.ends_with('\n')) line.remove_suffix(1);
  LogWarning("libfuse message=", line);
}

// The callback for the end of a session. A separate object, because the session is dropped first.
class Owner {
 public:
  explicit Owner(std::function<void()> on_unmounted) : on_unmounted_(std::move(on_unmounted)) {}

  // Runs the callback, at most once.
  void Notify() ABSL_LOCKS_EXCLUDED(mu_) {
    std::function<void()> callback;
    {
      absl::MutexLock lock(&mu_);
      callback = std::exchange(on_unmounted_, nullptr);
      if (!callback) return;
      notifier_ = std::this_thread::get_id();
    }
    callback();
    callback = nullptr;
    absl::MutexLock lock(&mu_);
    notifier_ = std::thread::id();
  }

  // Disables the callback. Waits for a running one, unless called from within it.
  void Disown() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    on_unmounted_ = nullptr;
    if (notifier_ == std::this_thread::get_id()) return;
    mu_.Await(absl::Condition(
        +[](std::thread::id* notifier) { return *notifier == std::thread::id(); }, &notifier_));
  }

 private:
  absl::Mutex mu_;
  std::function<void()> on_unmounted_ ABSL_GUARDED_BY(mu_);
  std::thread::id notifier_ ABSL_GUARDED_BY(mu_);  // the thread running on_unmounted, if any
};

// The part of a session that workers share. Lives until the last worker has left it.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(uint64_t key, bool resend, std::unique_ptr<FuseServed> served,
          const fuse_lowlevel_ops& operations, std::function<void()> on_unmounted)
      : key_(key),
        resend_(resend),
        owner_(std::make_shared<Owner>(std::move(on_unmounted))),
        operations_(operations),
        served_(std::move(served)) {}

  absl::Status Start(FuseDevice device) {
    const int flags = fcntl(device.fd.get(), F_GETFL);
    if (flags < 0 || fcntl(device.fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
      return ErrnoStatus(errno, "cannot make the FUSE descriptor nonblocking");
    }
    char name[] = "imagefs";
    char* argv[] = {name, nullptr};
    fuse_args arguments = {1, argv, 0};
    fuse_.reset(
        fuse_session_new(&arguments, &operations_, sizeof(fuse_lowlevel_ops), served_.get()));
    fuse_opt_free_args(&arguments);  // libfuse has made a copy
    if (fuse_ == nullptr) return absl::InternalError("libfuse cannot make a session");
    fuse_custom_io io = {};
    io.read = ReadMessage;
    io.writev = WriteMessage;
    if (const int result = fuse_session_custom_io(fuse_.get(), &io, device.fd.get()); result < 0) {
      return ErrnoStatus(-result, "libfuse rejects the FUSE descriptor");
    }
    fd_ = device.fd.Release();  // fuse_session_destroy closes it
    return device.agreed.has_value() ? TakeOver(*device.agreed) : absl::OkStatus();
  }

  absl::StatusOr<FuseAgreement> AwaitInit(absl::Duration at_most) {
    const Moment deadline = Moment::Now() + at_most;
    absl::MutexLock lock(&served_->mu);
    while (!served_->agreed.has_value() && served_->init_done.WaitUntil(&served_->mu, deadline)) {
    }
    if (served_->agreed.has_value()) return *served_->agreed;
    return WithKind(absl::DeadlineExceededError("the kernel has not started the FUSE session"),
                    FailureKind::kOther);
  }

  void Leave() { served_->leaving.store(true, std::memory_order_release); }

  uint64_t key() const { return key_; }
  int fd() const { return fd_; }
  bool fails_older() const { return fails_older_; }
  const std::shared_ptr<Owner>& owner() const { return owner_; }

  enum class Turn { kIdle, kMore, kEnded };
  // Answers queued requests. `buffer` holds kMessageBytes + kPaddingBytes.
  Turn Answer(FuseWorkerContext& context, char* buffer) {
    context.session = shared_from_this();
    absl::Cleanup forget = [&context] { context.session = nullptr; };
    for (int i = 0; i < kRequestsPerTurn; ++i) {
      fuse_buf message = {};
      message.mem = buffer;
      const int result = fuse_session_receive_buf(fuse_.get(), &message);
      if (result == -EINTR) continue;
      if (result == -EAGAIN) return Turn::kIdle;
      if (result <= 0) {
        if (result < 0) LogError("fuse_read_failed errno=", -result);
        return Turn::kEnded;
      }
      FuseWorkerContext::Count(context.requests);
      fuse_session_process_buf(fuse_.get(), &message);
    }
    return Turn::kMore;
  }

 private:
  // Continues a session that another process began.
  absl::Status TakeOver(const FuseAgreement& agreed) {
    // Brings libfuse into the same state as in that process: it is offered exactly what was granted
    // then, and accepts all of it.
    struct {
      fuse_in_header header = {};
      fuse_init_in init = {};
    } message;
    message.header.len = sizeof(message);
    message.header.opcode = FUSE_INIT;
    message.header.unique = 1;
    message.init.major = FUSE_KERNEL_VERSION;
    message.init.minor = agreed.minor;
    message.init.max_readahead = agreed.max_readahead;
    message.init.flags = agreed.flags;
    message.init.flags2 = agreed.flags2;
    fuse_buf buffer = {};
    buffer.mem = &message;
    buffer.size = sizeof(message);
    served_->replaying = true;
    fuse_session_process_buf(fuse_.get(), &buffer);
    served_->replaying = false;
    if (!served_->init_answered.load(std::memory_order_acquire)) {
      return absl::FailedPreconditionError("libfuse does not accept what was agreed at INIT");
    }
    {
      absl::MutexLock lock(&served_->mu);
      served_->agreed = agreed;
    }
    fuse_out_header resend = {};
    resend.len = sizeof(resend);
    resend.error = kNotifyResend;
    // On ENODEV, ENOTCONN or EPERM the session has ended; the worker will find out by reading.
    const bool sent = resend_ && (write(fd_, &resend, sizeof(resend)) >= 0 || errno != EINVAL);
    if (!sent) served_->fail_older.store(true);
    fails_older_ = !sent;
    return absl::OkStatus();
  }

  const uint64_t key_;
  const bool resend_;
  bool fails_older_ = false;
  const std::shared_ptr<Owner> owner_;
  const fuse_lowlevel_ops& operations_;
  const std::unique_ptr<FuseServed> served_;
  FuseSessionPtr fuse_;  // destroyed before served_
  int fd_ = -1;
};

// The active sessions and the epoll instance of their descriptors. Shared by the loop and the
// handles returned by it, which may outlive it.
class Registry {
 public:
  absl::Status Open() {
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_.valid() || !stop_.valid()) return ErrnoStatus(errno, "cannot create an epoll set");
    epoll_event event = {};
    event.events = EPOLLIN;  // level-triggered, so that every worker sees it
    event.data.u64 = kStopKey;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event) < 0) {
      return ErrnoStatus(errno, "cannot fill the epoll set");
    }
    return absl::OkStatus();
  }

  uint64_t NewKey() { return next_key_.fetch_add(1, std::memory_order_relaxed); }

  absl::Status Add(std::shared_ptr<Session> session) ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t key = session->key();
    const int fd = session->fd();
    epoll_event event = Event(*session);
    absl::MutexLock lock(&mu_);
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
      return ErrnoStatus(errno, "cannot watch the FUSE descriptor");
    }
    sessions_.emplace(key, std::move(session));
    return absl::OkStatus();
  }

  std::shared_ptr<Session> Find(uint64_t key) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::ReaderMutexLock lock(&mu_);
    const auto found = sessions_.find(key);
    return found == sessions_.end() ? nullptr : found->second;
  }

  size_t size() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::ReaderMutexLock lock(&mu_);
    return sessions_.size();
  }

  // Returns false if the session was already removed.
  bool Remove(const Session& session) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (sessions_.erase(session.key()) == 0) return false;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, session.fd(), nullptr);
    return true;
  }

  void Leave() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::ReaderMutexLock lock(&mu_);
    for (const auto& [key, session] : sessions_) session->Leave();
  }

  // Allows the next turn of the session, which begins immediately if there is something to read.
  void Rearm(const Session& session) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::ReaderMutexLock lock(&mu_);
    if (!sessions_.contains(session.key())) return;
    epoll_event event = Event(session);
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, session.fd(), &event);
  }

  // Returns the key of a session with something to read, or kStopKey.
  uint64_t Wait() {
    while (true) {
      epoll_event event = {};
      const int count = epoll_wait(epoll_.get(), &event, 1, -1);
      if (count == 1) return event.data.u64;
      if (count < 0 && errno != EINTR) {
        LogError("epoll_failed errno=", errno);
        return kStopKey;
      }
    }
  }

  void Stop() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
  }

 private:
  static epoll_event Event(const Session& session) {
    epoll_event event = {};
    event.events = EPOLLIN | EPOLLET;
    event.data.u64 = session.key();
    return event;
  }

  Fd epoll_;
  Fd stop_;
  std::atomic<uint64_t> next_key_{kStopKey + 1};
  absl::Mutex mu_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mu_);
};

class SessionHandle : public FuseSession {
 public:
  SessionHandle(std::shared_ptr<Registry> registry, std::shared_ptr<Session> session)
      : registry_(std::move(registry)), session_(std::move(session)) {}
  ~SessionHandle() override {
    session_->owner()->Disown();
    registry_->Remove(*session_);
  }
  absl::StatusOr<FuseAgreement> AwaitInit(absl::Duration at_most) override {
    return session_->AwaitInit(at_most);
  }
  bool fails_older() const override { return session_->fails_older(); }

 private:
  const std::shared_ptr<Registry> registry_;
  const std::shared_ptr<Session> session_;
};

class EpollFuseLoop : public FuseLoop {
 public:
  EpollFuseLoop(int workers, bool resend)
      : resend_(resend),
        registry_(std::make_shared<Registry>()),
        contexts_(static_cast<size_t>(workers)) {}
  ~EpollFuseLoop() override { Stop(); }

  absl::Status Start() {
    IMAGEFS_RETURN_IF_ERROR(registry_->Open());
    for (FuseWorkerContext& context : contexts_) {
      threads_.emplace_back([this, &context] { Work(context); });
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<FuseSession>> Serve(ChainRef chain, FuseDevice device,
                                                     ServeOptions options,
                                                     std::function<void()> on_unmounted) override {
    auto tree = std::make_unique<FuseTree>();
    // An ACL says who may read the image's files, not those that are shown as another user's.
    tree->has_acls = chain->index->has_acls() && !options.shown_as.any();
    tree->chain = std::move(chain);
    tree->overlay_form = options.overlay_form;
    tree->shown_as = options.shown_as;
    return Begin(std::move(tree), FuseTreeOperations(), std::move(device), std::move(on_unmounted));
  }

  absl::StatusOr<std::unique_ptr<FuseSession>> ServeData(
      std::shared_ptr<DataFiles> files, FuseDevice device,
      std::function<void()> on_unmounted) override {
    auto data = std::make_unique<FuseData>();
    data->files = std::move(files);
    return Begin(std::move(data), FuseDataOperations(), std::move(device), std::move(on_unmounted));
  }

  absl::StatusOr<std::unique_ptr<FuseSession>> ServeLayers(
      std::shared_ptr<LayerDirectory> directory, Fd device,
      std::function<void()> on_unmounted) override {
    auto layers = std::make_unique<FuseLayers>();
    layers->directory = std::move(directory);
    return Begin(std::move(layers), FuseLayersOperations(), std::move(device),
                 std::move(on_unmounted));
  }

  void Leave() override {
    registry_->Leave();
    Stop();
  }

  FuseCounters counters() const override {
    FuseCounters sum;
    for (const FuseWorkerContext& context : contexts_) context.AddTo(sum);
    sum.sessions = registry_->size();
    return sum;
  }

 private:
  absl::StatusOr<std::unique_ptr<FuseSession>> Begin(std::unique_ptr<FuseServed> served,
                                                     const fuse_lowlevel_ops& operations,
                                                     FuseDevice device,
                                                     std::function<void()> on_unmounted) {
    auto session = std::make_shared<Session>(registry_->NewKey(), resend_, std::move(served),
                                             operations, std::move(on_unmounted));
    IMAGEFS_RETURN_IF_ERROR(session->Start(std::move(device)));
    IMAGEFS_RETURN_IF_ERROR(registry_->Add(session));
    return std::make_unique<SessionHandle>(registry_, std::move(session));
  }

  void Stop() {
    registry_->Stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void Work(FuseWorkerContext& context) {
    sigset_t others;
    sigfillset(&others);
    // Raised by the thread itself. If they are blocked, the kernel kills the process.
    for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&others, own);
    pthread_sigmask(SIG_BLOCK, &others, nullptr);
    EnterThread(ThreadRole::kFuse);
    SetFuseWorkerContext(&context);
    const auto buffer = std::make_unique_for_overwrite<char[]>(kMessageBytes + kPaddingBytes);
    while (true) {
      const uint64_t key = registry_->Wait();
      if (key == kStopKey) return;
      std::shared_ptr<Session> session = registry_->Find(key);
      if (session == nullptr) continue;
      switch (session->Answer(context, buffer.get())) {
        case Session::Turn::kIdle:
          break;
        case Session::Turn::kMore:
          registry_->Rearm(*session);
          break;
        case Session::Turn::kEnded: {
          registry_->Remove(*session);
          const std::shared_ptr<Owner> owner = session->owner();
          session.reset();
          owner->Notify();
          break;
        }
      }
    }
  }

  const bool resend_;
  const std::shared_ptr<Registry> registry_;
  std::vector<FuseWorkerContext> contexts_;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FuseLoop>> FuseLoop::Create(Options options) {
  int workers = options.workers;
  if (workers <= 0) {
    workers = std::clamp(2 * static_cast<int>(std::thread::hardware_concurrency()), 2, 16);
  }
  fuse_set_log_func(LogFuse);
  auto loop = std::make_unique<EpollFuseLoop>(workers, options.resend);
  IMAGEFS_RETURN_IF_ERROR(loop->Start());
  return loop;
}

}  // namespace imagefs
