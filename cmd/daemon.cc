// SPDX-License-Identifier: Apache-2.0
#include "cmd/daemon.h"

#include <errno.h>
#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/executor.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/units.h"
#include "cache/image_store.h"
#include "cmd/auto_publisher.h"
#include "cmd/call_metrics.h"
#include "cmd/control_service.h"
#include "cmd/http_listener.h"
#include "cmd/image_users.h"
#include "cmd/interrupt.h"
#include "cmd/journal.h"
#include "cmd/listeners.h"
#include "cmd/metrics.h"
#include "cmd/mount_channel.h"
#include "cmd/mount_recovery.h"
#include "cmd/page_handlers.h"
#include "cmd/publish.h"
#include "cmd/records.h"
#include "cmd/rendezvous.h"
#include "cmd/service_manager.h"
#include "cmd/snapshots_server.h"
#include "cmd/source_options.h"
#include "cmd/space_calls.h"
#include "fetch/node_credentials.h"
#include "fetch/source.h"
#include "fs/fuse_loop.h"
#include "fs/mount_table.h"
#include "fs/mount_target.h"
#include "fs/mount_visibility.h"
#include "fs/session_holder.h"
#include "fs/session_store.h"
#include "fs/user_mount.h"
#include "snap/cri_proxy.h"
#include "snap/image_uses.h"
#include "snap/podman_layer_store.h"
#include "snap/podman_store.h"

namespace imagefs {
namespace {

// Mounts and unmounts of different images run in parallel; each may wait for the kernel.
constexpr int kControlThreads = 4;
constexpr int kIdleCheckMs = 1000;
constexpr int kRepairMs = 5000;  // between checks for removed sockets
constexpr int64_t kShutdownGraceSeconds = 2;
// Limit of the buffers of all connections together.
constexpr size_t kRpcMemoryBytes = 8 << 20;
// What is kept of the credentials of the kubelet: name and size (base/kept_memory.h).
constexpr char kCredentials[] = "credentials";
constexpr size_t kCredentialBytes = 4 << 20;

// Every mount and every layer keeps descriptors open.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

class DaemonImpl : public Daemon {
 public:
  explicit DaemonImpl(Options options)
      : sockets_(std::move(options.sockets)),
        kept_(std::move(options.sessions)),
        options_(std::move(options)) {}
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
  absl::Status MakePublisher(ImageStore::Events& events);
  std::vector<std::pair<std::string, uint64_t>> MoreCounters() const;
  std::vector<ImageUser> RuntimeUsersNow() const;
  void KeepCredentials();
  std::vector<std::string> Warnings() const;
  // Returns what the administrator has to do about it; "" = nothing. A taken port stops no mount.
  std::string ServeMetrics();
  std::string Metrics() const;
  absl::Status Listen();
  bool Idle() const;
  // Returns false if a client has connected in the meantime.
  bool RetireSockets();
  void ReadSignal();
  void StopServing();

  const BackgroundLog log_{JournalWriter()};  // first: threads of all later members log
  std::vector<PassedSocket> sockets_;         // until handed to the listeners
  std::vector<KeptDescriptor> kept_;          // until handed to the keeper
  const Options options_;
  std::atomic<bool> stop_{false};
  // The daemon was told to stop, and clients must not start another in its place.
  std::atomic<bool> told_to_stop_{false};
  std::atomic<bool> forget_mounts_{false};
  bool stopped_ = false;
  Fd wake_, signals_;
  // Held from when this daemon stops accepting commands until its process is gone.
  Fd ending_lock_;
  // Destroyed in reverse order (docs/lifetimes.md).
  std::shared_ptr<NodeCredentials> credentials_;
  std::unique_ptr<SourceFactory> sources_;
  std::unique_ptr<AutoPublisher> publisher_;  // null: not configured
  std::unique_ptr<ImageStore> store_;
  std::unique_ptr<DescriptorKeeper> keeper_;
  bool managed_ = false;  // it is the service manager
  std::unique_ptr<SessionStore> sessions_;
  std::unique_ptr<FuseLoop> fuse_;
  std::unique_ptr<StoredMountRecords> records_;
  std::unique_ptr<MountTable> mounts_;
  std::unique_ptr<ImageUses> uses_;
  std::unique_ptr<PodmanStore> podman_;         // null: a user's daemon
  std::unique_ptr<PodmanLayerStore> layers_;    // null: not configured
  std::unique_ptr<SnapshotsServer> snapshots_;  // null: a user's daemon
  std::unique_ptr<CriProxy> cri_;               // null: not configured
  CallMetrics calls_;
  std::unique_ptr<MountRecovery> recovery_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Publications> publications_;
  std::unique_ptr<ControlService> service_;
  std::unique_ptr<grpc::Server> server_;
  MountChannels channels_;
  std::unique_ptr<Listeners> listeners_;
  std::atomic<size_t> warnings_{0};
  const RuntimeUsers users_ = [this] { return RuntimeUsersNow(); };
  std::optional<SpaceCalls> page_calls_;
  std::unique_ptr<HttpListener> http_;  // null: not configured, or its address is taken
  Watchdog watchdog_{Watchdog::LimitFromEnvironment()};
};

DaemonImpl::~DaemonImpl() {
  StopServing();
  // The destructor waits for tasks, which use the other parts.
  executor_.reset();
}

absl::Status DaemonImpl::Open() {
  listeners_ = std::make_unique<Listeners>(options_.paths, std::move(sockets_));
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
  IMAGEFS_RETURN_IF_ERROR(PrepareStore(options_.paths.root));
  std::optional<Fd> lock;
  if (!options_.starter_holds_lock) {
    IMAGEFS_ASSIGN_OR_RETURN(lock, TakeStartLock(options_.paths, /*wait=*/true));
  }
  IMAGEFS_RETURN_IF_ERROR(OpenParts());
  return Listen();
}

absl::Status DaemonImpl::OpenParts() {
  const Paths& paths = options_.paths;
  const auto trust_of = [](LazyPolicy policy) -> TrustOf {
    return [policy = std::move(policy)](const Reference& image) { return policy.For(image); };
  };
  NodeCredentials::Options credential_options;
  credential_options.kubelet.config = options_.config.kubelet_config;
  credential_options.kubelet.bin_dir = options_.config.kubelet_bin_dir;
  credential_options.files = CredentialOptions::FromEnvironment();
  credentials_ = NodeCredentials::Create(std::move(credential_options));
  SourceFactory::Options source_options =
      SourceOptionsOf(options_.config, options_.ca_file, options_.version);
  source_options.mirror_credential = [credentials = credentials_](const Reference& mirror,
                                                                  const Credential& refused) {
    return credentials->FindOwn(mirror, refused.empty() ? nullptr : &refused);
  };
  IMAGEFS_ASSIGN_OR_RETURN(sources_, SourceFactory::Create(source_options));
  ImageStore::Options store_options;
  store_options.root = paths.root;
  IMAGEFS_RETURN_IF_ERROR(Configure(store_options));
  IMAGEFS_RETURN_IF_ERROR(MakePublisher(store_options.events));
  IMAGEFS_ASSIGN_OR_RETURN(store_, ImageStore::Open(std::move(store_options), *sources_));
  keeper_ = ServiceManagerKeeper(std::move(kept_));
  managed_ = keeper_ != nullptr;
  if (keeper_ == nullptr) {
    keeper_ = std::make_unique<SessionHolder>(
        SessionHolder::Options{paths.run, HolderProgram(), options_.restart});
  }
  IMAGEFS_ASSIGN_OR_RETURN(std::string boot_id, BootId());
  sessions_ = std::make_unique<SessionStore>(store_->kv(), keeper_.get(), std::move(boot_id));
  IMAGEFS_ASSIGN_OR_RETURN(fuse_, FuseLoop::Create({}));
  records_ = std::make_unique<StoredMountRecords>(store_->kv());
  MountTable::Options mount_options;
  mount_options.run_dir = paths.run;
  mount_options.root_dir = paths.root;
  mount_options.as_root = MountsAsRoot();
  mount_options.erofs.loop_devices = options_.config.loop_devices;
  mount_options.sessions = sessions_.get();
  mount_options.find_chain = [this](const Digest& chain_id) {
    return ImageUses::FindTree(*store_, PodmanLayerStore::kHolder, chain_id);
  };
  IMAGEFS_ASSIGN_OR_RETURN(mounts_, MountTable::Create(mount_options, *fuse_, *records_));
  KeepCredentials();
  uses_ = std::make_unique<ImageUses>(ImageUses::Deps{
      *store_, *mounts_,
      [this](const Reference& reference) { return credentials_->AccessFor(reference); },
      [this](const Reference& reference) { return credentials_->QuickAccessFor(reference); }});
  if (mount_options.as_root) {
    IMAGEFS_ASSIGN_OR_RETURN(
        podman_, PodmanStore::Open(StrCat(paths.root, "/podman"),
                                   {*store_, *uses_, trust_of(options_.config.PodmanPolicy())}));
    IMAGEFS_ASSIGN_OR_RETURN(
        snapshots_,
        SnapshotsServer::Open({paths.root, paths.run, trust_of(options_.config.ContainerdPolicy()),
                               options_.config.verify_require, options_.config.containerd_socket,
                               [this](const Reference& reference) {
                                 return sources_->Open(reference,
                                                       credentials_->QuickAccessFor(reference));
                               }},
                              *store_, *uses_));
    if (options_.config.podman_layers) {
      IMAGEFS_ASSIGN_OR_RETURN(
          layers_, PodmanLayerStore::Open(
                       StrCat(paths.run, "/als"),
                       {*store_, *uses_, *fuse_, trust_of(options_.config.PodmanPolicy())}));
    }
  }
  uses_->Recover();
  recovery_ = std::make_unique<MountRecovery>(
      MountRecovery::Deps{*mounts_, *uses_, trust_of(options_.config.CommandPolicy())});
  executor_ = std::make_unique<Executor>(ThreadRole::kControl, kControlThreads);
  publications_ =
      std::make_unique<Publications>(Publications::Deps{*store_, *sources_, *executor_});
  return absl::OkStatus();
}

absl::Status DaemonImpl::Configure(ImageStore::Options& out) const {
  const Config& config = options_.config;
  out.fill.background = config.fill_background;
  out.fill.quiet = config.fill_quiet;
  out.fill.deadline = config.fill_deadline;
  out.profiles = config.profile;
  out.index.lookup = config.index_lookup;
  out.index.hot_packs = config.fill_hot_pack;
  out.index.memory = config.index_memory;
  out.parallel.least_processors = static_cast<int>(config.index_least_processors);
  out.share_all = config.store_open;
  out.keep_blobs = config.containerd_keep_blobs && IsMachineRoot();
  out.scrub.interval = config.store_scrub;
  out.space = config.space;
  out.keep_partial = config.store_keep_partial;
  out.shared = config.store_shared;
  if (config.verify_require || !config.verify_bin_dir.empty()) {
    out.verify = {config.verify_bin_dir, config.verify_timeout};
  }
  // Without keys, no signatures are fetched.
  if (!config.index_keys.empty()) {
    out.index.verify_signature = [keys = config.index_keys](const Manifest& artifact) {
      return keys.Verify(artifact);
    };
  }
  for (const std::string& text : config.index_repositories) {
    IMAGEFS_ASSIGN_OR_RETURN(Reference reference, Reference::Parse(text));
    out.index.repositories.push_back(std::move(reference));
  }
  out.access_of = [this](const Reference& reference) {
    return credentials_->QuickAccessFor(reference);
  };
  return absl::OkStatus();
}

absl::Status DaemonImpl::MakePublisher(ImageStore::Events& events) {
  const Config& config = options_.config;
  if (!config.index_publish) return absl::OkStatus();
  AutoPublisher::Options publish;
  publish.images = config.index_publish_images;
  publish.spread = config.index_publish_spread;
  if (!config.index_publish_to.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(publish.to, Reference::Parse(config.index_publish_to));
  }
  publisher_ = std::make_unique<AutoPublisher>(std::move(publish));
  events.readable = [this](const ImageRef& image, const Chain& chain) {
    publisher_->OnReadable(image, chain);
  };
  events.profiled = [this](const Digest& manifest) { publisher_->OnProfiled(manifest); };
  return absl::OkStatus();
}

// What the kubelet passed is all that this node has for a private image: the kubelet passes it
// again only with the next pull, and images that are being filled must be readable until then.
void DaemonImpl::KeepCredentials() {
  Fd fd = sessions_->TakeOther(kCredentials);
  if (!options_.config.cri_proxy) {
    if (fd.valid()) keeper_->Drop(kCredentials);
    return;
  }
  absl::StatusOr<std::unique_ptr<KeptMemory>> memory =
      absl::NotFoundError("no earlier daemon has kept any");
  if (fd.valid()) memory = KeptMemory::Adopt(std::move(fd), kCredentialBytes);
  if (!memory.ok()) {
    keeper_->Drop(kCredentials);
    memory = KeptMemory::Create("imagefs-credentials", kCredentialBytes);
    absl::Status status = memory.status();
    if (status.ok()) status = keeper_->Keep(kCredentials, (*memory)->fd());
    if (!status.ok()) {
      LogWarning("credentials_not_kept cause=", ToStd(status.message()));
      return;
    }
  }
  credentials_->KeepIn(*std::move(memory));
}

std::vector<std::pair<std::string, uint64_t>> DaemonImpl::MoreCounters() const {
  std::vector<std::pair<std::string, uint64_t>> out;
  if (snapshots_ != nullptr) out = snapshots_->Counters();
  if (podman_ != nullptr) out.emplace_back("podman_images", podman_->List().size());
  if (layers_ != nullptr) {
    const PodmanLayerStore::Counters layers = layers_->counters();
    out.emplace_back("podman_layers_found", layers.found);
    out.emplace_back("podman_layers_absent", layers.absent);
  }
  const NodeCredentials::Counters credentials = credentials_->counters();
  out.emplace_back("credentials_remembered", credentials.remembered);
  out.emplace_back("credential_plugin_runs", credentials.plugin_runs);
  out.emplace_back("credential_renewals", credentials.renewals);
  out.emplace_back("credentials_renewed", credentials.renewed);
  out.emplace_back("control_tasks_queued", executor_->queued());
  if (publisher_ != nullptr) {
    for (auto& counter : publisher_->Counters()) out.push_back(std::move(counter));
  }
  return out;
}

std::vector<ImageUser> DaemonImpl::RuntimeUsersNow() const {
  std::vector<ImageUser> users;
  if (snapshots_ != nullptr) {
    for (Snapshotter::ImageUse& use : snapshots_->ImagesInUse()) {
      users.push_back(
          {ImageUser::Kind::kContainerd, use.manifest, std::move(use.name_space), use.containers});
    }
  }
  if (podman_ != nullptr) {
    for (PodmanStore::Entry& entry : podman_->List()) {
      users.push_back({ImageUser::Kind::kPodman, entry.manifest, std::move(entry.name), 0});
    }
  }
  if (layers_ != nullptr) {
    const auto held = store_->ListHeld(PodmanLayerStore::kHolder);
    if (!held.ok()) return users;
    for (const ImageRef& image : *held) {
      users.push_back(
          {ImageUser::Kind::kPodman, image->manifest_digest, "additional layer store", 0});
    }
  }
  return users;
}

// Mounts that nobody sees are the one mistake of an installation in which nothing fails.
std::vector<std::string> DaemonImpl::Warnings() const {
  std::vector<std::string> out;
  if (snapshots_ == nullptr) return out;
  const std::string run = MountPointOf(options_.paths.run);
  for (const HiddenMounts& hidden : FindHiddenMounts({run + "/chains", run + "/mapped"})) {
    out.push_back(hidden.Explain());
    LogWarning("mounts_not_visible directory=", hidden.directory, " cause=", hidden.cause,
               " remedy=a volume of its own with mountPropagation: Bidirectional");
  }
  return out;
}

std::string DaemonImpl::ServeMetrics() {
  if (!options_.config.metrics_listen.has_value()) return "";
  const ListenAddress& address = *options_.config.metrics_listen;
  HttpListener::Handlers pages;
  pages["/metrics"] = [this](const HttpListener::Request&) {
    return HttpListener::Answer{200, kMetricTextType, Metrics()};
  };
  if (options_.config.metrics_page) {
    const auto about = [this](control::v1::StatusReply* reply) {
      reply->set_version(options_.version);
      reply->set_root(options_.paths.root);
    };
    AddPageHandlers(page_calls_.emplace(SpaceCalls{*store_, *mounts_, podman_.get(), users_}),
                    about, pages);
  }
  absl::StatusOr<std::unique_ptr<HttpListener>> http =
      HttpListener::Open(address, std::move(pages), {});
  if (!http.ok()) {
    LogWarning("metrics_not_served address=", address.ToString(),
               " cause=", ToStd(http.status().message()));
    return StrCat("metrics are not served (metrics.listen): ", ToStd(http.status().message()));
  }
  http_ = *std::move(http);
  LogInfo("serving_metrics address=", http_->address().ToString());
  if (!address.local()) {
    LogWarning("metrics_are_public address=", address.ToString(),
               " cause=everybody who reaches it may read them");
  }
  return "";
}

std::string DaemonImpl::Metrics() const {
  return MetricText(CollectMetrics(
      {options_.version, *store_, *sources_, *mounts_, *fuse_, calls_, MoreCounters(), warnings_}));
}

absl::Status DaemonImpl::Listen() {
  ControlService::Options service_options;
  service_options.version = options_.version;
  service_options.root = options_.paths.root;
  service_options.run = options_.paths.run;
  service_options.config_file = options_.config_file;
  service_options.ca_file = options_.ca_file;
  service_options.proxies = ProxyDigest();
  service_options.request_stop = [this](bool unmount) {
    told_to_stop_ = true;
    RequestStop(unmount);
  };
  service_options.more_counters = [this] { return MoreCounters(); };
  service_options.warnings = Warnings();
  if (std::string problem = ServeMetrics(); !problem.empty()) {
    service_options.warnings.push_back(std::move(problem));
  }
  warnings_ = service_options.warnings.size();
  service_ = ControlService::Create(
      std::move(service_options),
      {*store_, *sources_, *mounts_, fuse_.get(), *executor_, *publications_,
       [this](const Reference& reference) { return credentials_->RefreshFor(reference); },
       podman_.get(),
       [policy = options_.config.CommandPolicy()](const Reference& image) {
         return policy.For(image);
       },
       users_, &calls_, &channels_});
  if (options_.config.cri_proxy) {
    IMAGEFS_ASSIGN_OR_RETURN(cri_,
                             CriProxy::Start({options_.config.containerd_socket}, credentials_));
  }
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("imagefs");
  quota.Resize(kRpcMemoryBytes);
  builder.SetResourceQuota(quota);
  builder.RegisterService(&service_->service());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("the control service could not be started");
  // The listeners accept connections and hand them to gRPC, so that they can check the peer.
  if (snapshots_ != nullptr) {
    IMAGEFS_RETURN_IF_ERROR(listeners_->Add(kSnapshotterSocket, *snapshots_->server()));
  }
  if (cri_ != nullptr) IMAGEFS_RETURN_IF_ERROR(listeners_->Add(kCriSocket, *cri_->server()));
  IMAGEFS_RETURN_IF_ERROR(listeners_->Add(kControlSocket, *server_));
  const auto to_channels = [this](Fd connection) { channels_.Accept(std::move(connection)); };
  IMAGEFS_RETURN_IF_ERROR(listeners_->Add(kMountSocket, to_channels));
  listeners_->AddInStore(kControlSocket, *server_);
  listeners_->AddInStore(kMountSocket, to_channels);
  LogInfo("ready root=", options_.paths.root, " run=", options_.paths.run, " pid=", getpid(),
          " version=", options_.version);
  if (publisher_ != nullptr) {
    publisher_->Start({*store_, *sources_, *publications_, [this](const Reference& reference) {
                         return credentials_->OwnAccessFor(reference);
                       }});
  }
  uses_->Serve();
  recovery_->Start();
  store_->StartCollecting();
  NotifyServiceManager(StrCat("READY=1\nSTATUS=Serving ", options_.paths.root));
  return absl::OkStatus();
}

bool DaemonImpl::Idle() const {
  if (options_.idle_exit.count() == 0 || mounts_->NeedProcess()) return false;
  // containerd may use its snapshots at any time, and does not start a daemon.
  if (snapshots_ != nullptr && !snapshots_->empty()) return false;
  // So may podman, which fails if its layer store is missing.
  if (layers_ != nullptr) return false;
  // Let a running attempt finish; the next daemon retries mounts that wait for the network or a
  // directory.
  if (recovery_->busy()) return false;
  // Publications continue after their command has ended.
  if (publications_->running() > 0) return false;
  if (publisher_ != nullptr && publisher_->busy()) return false;
  const ControlService::Activity activity = service_->activity();
  return activity.running_calls == 0 &&
         std::chrono::steady_clock::now() - activity.last_call_end >= options_.idle_exit;
}

bool DaemonImpl::RetireSockets() {
  absl::StatusOr<Fd> lock = TakeStartLock(options_.paths, /*wait=*/false);
  if (!lock.ok()) return false;  // a client is about to connect
  if (!listeners_->Retire()) return false;
  ending_lock_ = *std::move(lock);
  return true;
}

void DaemonImpl::ReadSignal() {
  signalfd_siginfo info{};
  if (read(signals_.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) return;
  LogInfo("signal number=", info.ssi_signo, " from_pid=", info.ssi_pid);
  if (info.ssi_signo == SIGINT) told_to_stop_ = true;
  RequestStop(info.ssi_signo == SIGINT);
}

void DaemonImpl::Serve() {
  const int turn = options_.idle_exit.count() == 0 ? kRepairMs : kIdleCheckMs;
  auto repaired = std::chrono::steady_clock::now();
  while (!stop_) {
    // poll(2) ignores negative descriptors.
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
    const size_t own = fds.size();
    listeners_->AppendTo(&fds);
    const int ready = poll(fds.data(), fds.size(),
                           watchdog_.PollTimeoutMs(turn, std::chrono::steady_clock::now()));
    if (ready < 0 && errno != EINTR) {
      LogError("poll_failed cause=", strerror(errno));
      break;
    }
    watchdog_.Turn(std::chrono::steady_clock::now());
    if (ready > 0) {
      if (fds[1].revents != 0) ReadSignal();
      listeners_->Accept(absl::MakeConstSpan(fds).subspan(own));
    }
    if (const auto now = std::chrono::steady_clock::now();
        now - repaired >= std::chrono::milliseconds(turn)) {
      repaired = now;
      listeners_->Repair();
      if (mounts_->AnyElsewhere()) executor_->Submit([this] { mounts_->Refresh(); });
    }
    if (ready == 0 && Idle() && RetireSockets()) {
      LogInfo("idle_exit");
      break;
    }
  }
  StopServing();
}

void DaemonImpl::StopServing() {
  if (stopped_) return;
  stopped_ = true;
  if (server_ != nullptr) NotifyServiceManager("STOPPING=1");
  // Before the first call is cancelled, because its client reads this then.
  if (told_to_stop_) {
    if (const absl::Status status = NoteStopped(options_.paths); !status.ok()) {
      LogWarning("stop_not_noted cause=", ToStd(status.message()));
    }
  }
  if (server_ != nullptr && !ending_lock_.valid()) {
    // A starter that gets this lock then finds no daemon and an unlocked store.
    absl::StatusOr<Fd> lock = TakeStartLock(options_.paths, /*wait=*/false);
    if (lock.ok()) ending_lock_ = *std::move(lock);
  }
  if (listeners_ != nullptr) listeners_->Close();
  http_.reset();  // before the parts that it reads
  if (server_ != nullptr) {
    server_->Shutdown(gpr_time_from_seconds(kShutdownGraceSeconds, GPR_TIMESPAN));
    server_->Wait();
  }
  server_.reset();
  // They need the executor and the store to finish.
  if (publisher_ != nullptr) publisher_->Stop();
  if (publications_ != nullptr) publications_->Stop();
  cri_.reset();
  if (snapshots_ != nullptr) snapshots_->Shutdown(/*hide=*/forget_mounts_);
  if (layers_ != nullptr && forget_mounts_) layers_->ReleaseAll();
  layers_.reset();
  if (podman_ != nullptr) podman_->Leave(/*hide=*/forget_mounts_);
  // Waits for the tasks that undo the mounts of cancelled calls.
  executor_.reset();
  recovery_.reset();
  if (mounts_ != nullptr && forget_mounts_) {
    mounts_->UnmountAll();
    sessions_->ForgetAll();
    keeper_->Drop(kCredentials);
  } else if (fuse_ != nullptr) {
    // Leave all mounts to the next daemon.
    store_->StopCollecting();
    // The service manager discards them at the end of the service. Otherwise they are of use to the
    // next daemon only if it goes on with something.
    if (!managed_ && !sessions_->any()) keeper_->Drop(kCredentials);
    keeper_->Leave();
    // Before fetching stops: the next daemon also answers the reads that wait for missing bytes.
    fuse_->Leave();
  }
  LogInfo("stopped");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(Options options) {
  auto daemon = std::make_unique<DaemonImpl>(std::move(options));
  IMAGEFS_RETURN_IF_ERROR(daemon->Open());
  return daemon;
}

}  // namespace imagefs
