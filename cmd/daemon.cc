#include "cmd/daemon.h"

#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "base/executor.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/image_store.h"
#include "cmd/control_service.h"
#include "cmd/interrupt.h"
#include "cmd/records.h"
#include "cmd/rendezvous.h"
#include "fetch/credentials.h"
#include "fetch/source.h"
#include "fs/fuse_loop.h"
#include "fs/mount_table.h"

namespace imagefs {
namespace {

// Mounts and unmounts of different images go on at the same time; each may wait for the kernel.
constexpr int kControlThreads = 4;
constexpr int kIdleCheckMs = 1000;
constexpr auto kShutdownGrace = std::chrono::seconds(2);
// What all connections together may buffer.
constexpr size_t kRpcMemoryBytes = 8 << 20;

// Tells systemd, when it started us (sd_notify(3)): one datagram to the socket it named.
void NotifyServiceManager(std::string_view message) {
  const char* name = getenv("NOTIFY_SOCKET");
  if (name == nullptr || (name[0] != '/' && name[0] != '@')) return;
  sockaddr_un address{};
  const size_t size = strlen(name);
  if (size >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, name, size);
  if (name[0] == '@') address.sun_path[0] = '\0';
  Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size);
  (void)sendto(fd.get(), message.data(), message.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address), length);
}

// Each mount and each layer keeps descriptors open.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

// With what this process's user would ask a registry.
SourceFactory::Access OwnAccess(const Reference& reference) {
  SourceFactory::Access access;
  absl::StatusOr<Credential> credential =
      FindCredential(reference, CredentialOptions::FromEnvironment());
  if (credential.ok()) access.credential = *std::move(credential);
  return access;
}

class DaemonImpl : public Daemon {
 public:
  explicit DaemonImpl(Options options) : options_(std::move(options)) {}
  ~DaemonImpl() override;

  absl::Status Open();
  void Serve() override;
  void RequestStop(bool forget_mounts) override {
    if (forget_mounts) forget_mounts_ = true;
    stop_ = true;
    const uint64_t one = 1;
    (void)!write(wake_.get(), &one, sizeof(one));
  }

 private:
  absl::Status OpenParts();
  absl::Status Configure(ImageStore::Options& out) const;
  void AttachSources();
  absl::Status Listen();
  void Accept();
  bool Idle() const;
  // Takes the socket away such that no command can have connected in the meantime; false when one
  // has.
  bool RetireSocket();
  void ReadSignal();
  void StopServing();

  const Options options_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> forget_mounts_{false};
  bool stopped_ = false;
  Fd wake_, signals_, listener_;
  // From when this daemon no longer takes commands until its process is gone.
  Fd ending_lock_;
  // Destroyed from the last to the first.
  std::unique_ptr<SourceFactory> sources_;
  std::unique_ptr<ImageStore> store_;
  std::unique_ptr<FuseLoop> fuse_;
  std::unique_ptr<StoredMountRecords> records_;
  std::unique_ptr<MountTable> mounts_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<ControlService> service_;
  std::unique_ptr<grpc::Server> server_;
};

DaemonImpl::~DaemonImpl() {
  StopServing();
  // Its destructor waits; the parts below may not be used afterwards.
  executor_.reset();
}

absl::Status DaemonImpl::Open() {
  mallopt(M_ARENA_MAX, 2);
  signal(SIGPIPE, SIG_IGN);
  umask(022);
  RaiseDescriptorLimit();
  wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return ErrnoStatus(errno, "eventfd");
  if (options_.handle_signals) {
    const sigset_t signals = DaemonSignals();
    signals_ = Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return ErrnoStatus(errno, "signalfd");
  }
  IMAGEFS_RETURN_IF_ERROR(PrepareRunDir(options_.paths.run, geteuid()));
  std::optional<Fd> lock;
  if (!options_.starter_holds_lock) {
    IMAGEFS_ASSIGN_OR_RETURN(lock, TakeStartLock(options_.paths, /*wait=*/true));
  }
  IMAGEFS_RETURN_IF_ERROR(OpenParts());
  return Listen();
}

absl::Status DaemonImpl::OpenParts() {
  const Paths& paths = options_.paths;
  IMAGEFS_RETURN_IF_ERROR(
      Annotate(MakeDirs(paths.root, 0700),
               StrCat("cannot make the store ", paths.root, " (--root chooses another)")));
  SourceFactory::Options source_options;
  source_options.http.ca_file = options_.ca_file;
  source_options.http.user_agent = StrCat("imagefs/", options_.version);
  IMAGEFS_ASSIGN_OR_RETURN(sources_, SourceFactory::Create(source_options));
  ImageStore::Options store_options;
  store_options.root = paths.root;
  IMAGEFS_RETURN_IF_ERROR(Configure(store_options));
  IMAGEFS_ASSIGN_OR_RETURN(store_, ImageStore::Open(std::move(store_options), *sources_));
  IMAGEFS_ASSIGN_OR_RETURN(fuse_, FuseLoop::Create({}));
  records_ = std::make_unique<StoredMountRecords>(store_->kv());
  MountTable::Options mount_options;
  mount_options.run_dir = paths.run;
  mount_options.upper_dir = StrCat(paths.root, "/upper");
  mount_options.as_root = geteuid() == 0;
  IMAGEFS_ASSIGN_OR_RETURN(mounts_, MountTable::Create(mount_options, *fuse_, *records_));
  const std::vector<std::string> recovered =
      mounts_->Recover([this](const Digest& chain_id) { return store_->FindChain(chain_id); });
  for (const std::string& directory : recovered) LogInfo("mounted_again directory=", directory);
  AttachSources();
  executor_ = std::make_unique<Executor>("control", kControlThreads);
  return absl::OkStatus();
}

absl::Status DaemonImpl::Configure(ImageStore::Options& out) const {
  const Config& config = options_.config;
  out.fill.background = config.fill_background;
  out.fill.quiet = config.fill_quiet;
  out.fill.deadline = config.fill_deadline;
  out.profiles = config.profile;
  out.index.lookup = config.index_lookup;
  out.index.trust_beside = config.index_trust_beside;
  for (const std::string& text : config.index_repositories) {
    IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(text));
    out.index.repositories.push_back(std::move(reference));
  }
  out.access_of = OwnAccess;
  return absl::OkStatus();
}

// Layers that fill had their bytes from a source that went with the daemon before this one. What
// the caller's credentials were is not known; those of the daemon's own user are tried.
void DaemonImpl::AttachSources() {
  for (const MountRecord& record : mounts_->List()) {
    const absl::StatusOr<ChainRef> chain = store_->FindChain(record.chain_id);
    const absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
    if (!chain.ok() || !reference.ok() || (*chain)->complete()) continue;
    store_->AttachSource(*chain, *reference, OwnAccess(*reference));
    if (record.deadline_seconds == 0) continue;
    for (const LayerRef& layer : (*chain)->layers) {
      if (layer->fill != nullptr) {
        layer->fill->AllowWaiting(absl::Seconds(record.deadline_seconds));
      }
    }
  }
}

absl::Status DaemonImpl::Listen() {
  ControlService::Options service_options;
  service_options.version = options_.version;
  service_options.root = options_.paths.root;
  service_options.run = options_.paths.run;
  service_options.publish = {options_.config.index_publish, options_.config.index_publish_to};
  service_options.request_stop = [this](bool unmount) { RequestStop(unmount); };
  service_ = ControlService::Create(std::move(service_options),
                                    {*store_, *sources_, *mounts_, fuse_.get(), *executor_});
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("imagefs");
  quota.Resize(kRpcMemoryBytes);
  builder.SetResourceQuota(quota);
  builder.RegisterService(&service_->service());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("the control service could not be started");
  // Connections are accepted here and handed to gRPC, so that their owner can be checked.
  IMAGEFS_ASSIGN_OR_RETURN(listener_, ListenForCommands(options_.paths));
  NotifyServiceManager("READY=1");
  LogInfo("listening socket=", options_.paths.socket(), " root=", options_.paths.root,
          " pid=", getpid(), " version=", options_.version);
  return absl::OkStatus();
}

void DaemonImpl::Accept() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  absl::StatusOr<Peer> peer = PeerOf(fd.get());
  if (!peer.ok() || (peer->uid != geteuid() && peer->uid != 0)) {
    LogWarning("connection_refused uid=", peer.ok() ? peer->uid : static_cast<uid_t>(-1));
    return;
  }
  grpc::AddInsecureChannelFromFd(server_.get(), fd.Release());
}

bool DaemonImpl::Idle() const {
  if (options_.idle_exit.count() == 0 || mounts_->NeedProcess()) return false;
  const ControlService::Activity activity = service_->activity();
  return activity.running_calls == 0 &&
         std::chrono::steady_clock::now() - activity.last_call_end >= options_.idle_exit;
}

bool DaemonImpl::RetireSocket() {
  absl::StatusOr<Fd> lock = TakeStartLock(options_.paths, /*wait=*/false);
  if (!lock.ok()) return false;  // somebody is about to connect
  unlink(options_.paths.socket().c_str());
  pollfd p{listener_.get(), POLLIN, 0};
  if (poll(&p, 1, 0) <= 0) {
    ending_lock_ = *std::move(lock);
    return true;
  }
  Accept();
  absl::StatusOr<Fd> listener = ListenForCommands(options_.paths);
  if (!listener.ok()) {
    LogError("listen_failed cause=", listener.status().message());
    return true;
  }
  listener_ = *std::move(listener);
  return false;
}

void DaemonImpl::ReadSignal() {
  signalfd_siginfo info{};
  if (read(signals_.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) return;
  LogInfo("signal number=", info.ssi_signo, " from_pid=", info.ssi_pid);
  RequestStop(info.ssi_signo == SIGINT);
}

void DaemonImpl::Serve() {
  while (!stop_) {
    pollfd fds[] = {{wake_.get(), POLLIN, 0},
                    {listener_.get(), POLLIN, 0},
                    {signals_.get(), POLLIN, 0}};  // a negative descriptor is passed over
    const int timeout = options_.idle_exit.count() == 0 ? -1 : kIdleCheckMs;
    const int ready = poll(fds, std::size(fds), timeout);
    if (ready < 0 && errno != EINTR) {
      LogError("poll_failed cause=", strerror(errno));
      break;
    }
    if (ready > 0 && fds[1].revents != 0) Accept();
    if (ready > 0 && fds[2].revents != 0) ReadSignal();
    if (ready == 0 && Idle() && RetireSocket()) {
      LogInfo("idle_exit");
      break;
    }
  }
  StopServing();
}

void DaemonImpl::StopServing() {
  if (stopped_) return;
  stopped_ = true;
  NotifyServiceManager("STOPPING=1");
  if (listener_.valid()) {
    if (!ending_lock_.valid()) {
      // A starter that waits for this lock finds no daemon and a free store once it has it.
      absl::StatusOr<Fd> lock = TakeStartLock(options_.paths, /*wait=*/false);
      if (lock.ok()) ending_lock_ = *std::move(lock);
      unlink(options_.paths.socket().c_str());
    }
    listener_.Reset();
  }
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
    server_->Wait();
  }
  server_.reset();
  // The tasks that undo mounts of cancelled calls run before this returns.
  executor_.reset();
  if (mounts_ != nullptr) mounts_->UnmountAll(/*keep_records=*/!forget_mounts_);
  LogInfo("stopped");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(Options options) {
  auto daemon = std::make_unique<DaemonImpl>(std::move(options));
  IMAGEFS_RETURN_IF_ERROR(daemon->Open());
  return daemon;
}

}  // namespace imagefs
