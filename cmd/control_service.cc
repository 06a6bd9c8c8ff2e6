// SPDX-License-Identifier: Apache-2.0
#include "cmd/control_service.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/directory.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/ticket_group.h"
#include "cmd/calls.h"
#include "cmd/mount_status.h"
#include "cmd/options.h"
#include "cmd/process_stats.h"
#include "cmd/space_calls.h"
#include "fs/fuse_loop.h"
#include "fs/mount_namespace.h"
#include "fs/user_mount.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages of every method below

namespace {

void FillInspect(const ImageStore& store, const ResolvedImage& image, InspectReply* reply) {
  FillImage(image, reply->mutable_image());
  if (!image.index_digest.empty()) reply->set_index_digest(image.index_digest.ToString());
  reply->set_manifest_json(image.manifest_json);
  reply->set_config_json(image.config_json);
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    const Descriptor& blob = image.manifest.layers[i];
    const Digest& diff_id = image.config.diff_ids[i];
    InspectReply::Layer* layer = reply->add_layers();
    layer->set_digest(blob.digest.ToString());
    layer->set_media_type(blob.media_type);
    layer->set_size(blob.size);
    layer->set_diff_id(diff_id.ToString());
    layer->set_chain_id(image.chain_ids[i].ToString());
    layer->set_state(std::string(LayerStateName(store.StateOf(KeyOf(image, i)))));
    layer->set_source(std::string(store.SourceOf(KeyOf(image, i))));
  }
}

// Resolves an image and answers; leaves the single-flight task if the caller goes away.
class InspectCall : public grpc::ServerUnaryReactor,
                    public std::enable_shared_from_this<InspectCall> {
 public:
  static InspectCall* Start(ImageStore& store, CallCounter& counter,
                            grpc::CallbackServerContext* call, const InspectRequest& request,
                            InspectReply* reply) {
    auto self = std::make_shared<InspectCall>(counter);
    self->self_ = self;
    counter.Begin();
    absl::StatusOr<ResolveRequest> resolve = ParseImageRequest(request.image());
    if (!resolve.ok()) {
      self->Finish(AnswerOf(call, resolve.status()));
      return self.get();
    }
    const FlightTicket ticket =
        store.Resolve(*std::move(resolve),
                      [self, &store, call, reply](absl::StatusOr<ImageStore::Resolved> resolved) {
                        if (resolved.ok()) FillInspect(store, *resolved->image, reply);
                        self->Finish(AnswerOf(call, resolved.status()));
                      });
    self->group_->Add(ticket);
    return self.get();
  }

  explicit InspectCall(CallCounter& counter) : counter_(counter) {}

  void OnCancel() override { TicketGroup::TicketOf(group_).Leave(); }
  void OnDone() override {
    counter_.End();
    self_.reset();
  }

 private:
  CallCounter& counter_;
  std::shared_ptr<InspectCall> self_;  // until OnDone
  const std::shared_ptr<TicketGroup> group_ = std::make_shared<TicketGroup>();
};

class ControlServiceImpl : public ControlService, private Control::CallbackService {
 public:
  ControlServiceImpl(Options options, Deps deps)
      : options_(std::move(options)), deps_(std::move(deps)), ticker_(options_.progress_interval) {}

  grpc::Service& service() override { return *this; }
  Activity activity() const override { return {counter_.running(), counter_.last_end()}; }

 private:
  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;

  // Runs `work` on the executor and answers with its status.
  Unary* Run(Context* context, absl::AnyInvocable<absl::Status()> work) {
    Unary* reactor = context->DefaultReactor();
    counter_.Begin();
    deps_.executor.Submit([this, context, reactor, work = std::move(work)]() mutable {
      const absl::Status status = work();
      // End before answering: once the caller has the answer, the context and, after the last call,
      // this object may be gone.
      counter_.End();
      reactor->Finish(AnswerOf(context, status));
    });
    return reactor;
  }

  Unary* Version(Context* context, const VersionRequest*, VersionReply* reply) override {
    reply->set_version(options_.version);
    reply->set_pid(getpid());
    reply->set_root(options_.root);
    reply->set_run(options_.run);
    reply->set_config(options_.config_file);
    reply->set_ca_file(options_.ca_file);
    reply->set_log_level(std::string(LogLevelName(CurrentLogLevel())));
    reply->set_proxies(options_.proxies);
    reply->set_mount_namespace(mount_namespace_);
    reply->set_callers_mount(callers_mount_);
    Unary* reactor = context->DefaultReactor();
    reactor->Finish(AnswerOf(context, absl::OkStatus()));
    return reactor;
  }

  MountEventReactor* Mount(Context* context, const control::v1::MountRequest* request) override {
    return StartMount(calls_, context, *request);
  }
  MountEventReactor* Pull(Context* context, const PullRequest* request) override {
    return StartPull(calls_, context, *request);
  }
  MountEventReactor* Index(Context* context, const IndexRequest* request) override {
    return StartIndex(calls_, context, *request);
  }
  MountEventReactor* Add(Context* context, const AddRequest* request) override {
    return StartAdd(calls_, context, *request);
  }
  MountEventReactor* Export(Context* context, const ExportRequest* request) override {
    return StartExport(calls_, context, *request);
  }
  MountEventReactor* Import(Context* context, const ImportRequest* request) override {
    return StartImport(calls_, context, *request);
  }
  MountEventReactor* Files(Context* context, const FilesRequest* request) override {
    return StartFiles(calls_, context, *request);
  }
  MountEventReactor* Diff(Context* context, const DiffRequest* request) override {
    return StartDiff(calls_, context, *request);
  }
  Unary* ListShared(Context* context, const ListSharedRequest* request,
                    ListImagesReply* reply) override {
    return Run(context, [request, reply] { return ListSharedImages(request->directory(), reply); });
  }
  Unary* Drop(Context* context, const DropRequest* request, RemoveReply* reply) override {
    return Run(context, [this, request, reply] { return space_.Drop(*request, reply); });
  }
  Unary* ListAdded(Context* context, const ListAddedRequest*, ListAddedReply* reply) override {
    return Run(context, [this, reply]() -> absl::Status {
      if (deps_.podman == nullptr) return NoPodman();
      reply->set_store(deps_.podman->directory());
      for (const PodmanStore::Entry& entry : deps_.podman->List()) {
        FillAdded(deps_.store, entry, reply->add_images());
      }
      return absl::OkStatus();
    });
  }

  Unary* Inspect(Context* context, const InspectRequest* request, InspectReply* reply) override {
    return InspectCall::Start(deps_.store, counter_, context, *request, reply);
  }

  Unary* Unmount(Context* context, const UnmountRequest* request, UnmountReply* reply) override {
    return Run(context, [this, request, reply] { return DoUnmount(*request, reply); });
  }
  Unary* ListMounts(Context* context, const ListMountsRequest*, ListMountsReply* reply) override {
    return Run(context, [this, reply] {
      deps_.mounts.Refresh();
      for (const MountState& state : deps_.mounts.List()) FillState(state, reply->add_mounts());
      return absl::OkStatus();
    });
  }
  Unary* ListImages(Context* context, const ListImagesRequest* request,
                    ListImagesReply* reply) override {
    return Run(context,
               [this, request, reply] { return space_.ListImages(request->all(), reply); });
  }
  Unary* Remove(Context* context, const RemoveRequest* request, RemoveReply* reply) override {
    return Run(context, [this, request, reply] { return space_.Remove(*request, reply); });
  }
  Unary* Status(Context* context, const StatusRequest*, StatusReply* reply) override {
    return Run(context, [this, reply] { return DoStatus(reply); });
  }
  Unary* MountStatus(Context* context, const MountStatusRequest* request,
                     MountStatusReply* reply) override {
    return Run(context, [this, request, reply] { return DoMountStatus(*request, reply); });
  }
  Unary* Profile(Context* context, const ProfileRequest* request, ProfileReply* reply) override {
    return Run(context, [this, request, reply] { return DoProfile(*request, reply); });
  }
  Unary* Evict(Context* context, const RemoveRequest* request, RemoveReply* reply) override {
    return Run(context, [this, request, reply] { return space_.Evict(*request, reply); });
  }
  Unary* Pin(Context* context, const PinRequest* request, PinReply*) override {
    return Run(context, [this, request] { return space_.Pin(*request); });
  }
  Unary* DiskUsage(Context* context, const DiskUsageRequest*, DiskUsageReply* reply) override {
    return Run(context, [this, reply] {
      reply->set_root(options_.root);
      return space_.DiskUsage(reply);
    });
  }
  Unary* Prune(Context* context, const control::v1::PruneRequest* request,
               PruneReply* reply) override {
    return Run(context, [this, request, reply] { return space_.Prune(*request, reply); });
  }
  Unary* Check(Context* context, const CheckRequest* request, CheckReply* reply) override {
    return Run(context, [this, context, request, reply] {
      // Stops if the caller goes away.
      return DoCheck(
          *request, [context](size_t) { return !context->IsCancelled(); }, reply);
    });
  }
  Unary* LogLevel(Context* context, const LogLevelRequest* request, LogLevelReply* reply) override {
    return Run(context, [request, reply]() -> absl::Status {
      if (!request->level().empty()) {
        if (!IsLogLevel(request->level())) {
          return absl::InvalidArgumentError(
              StrCat("no log level ", PrintableName(request->level())));
        }
        SetLogLevel(ParseLogLevel(request->level()));
        LogInfo("log.level level=", request->level());
      }
      reply->set_level(std::string(LogLevelName(CurrentLogLevel())));
      return absl::OkStatus();
    });
  }
  Unary* Shutdown(Context* context, const ShutdownRequest* request, ShutdownReply* reply) override {
    const bool unmount = request->unmount();
    reply->set_pid(getpid());
    if (!unmount) reply->set_waiting_mounts(MountsThatNeedADaemon());
    Unary* reactor = context->DefaultReactor();
    LogInfo("shutdown_requested unmount=", unmount ? "yes" : "no");
    reactor->Finish(AnswerOf(context, absl::OkStatus()));
    if (options_.request_stop) options_.request_stop(unmount);
    return reactor;
  }

  uint32_t MountsThatNeedADaemon() const;
  absl::Status DoUnmount(const UnmountRequest& request, UnmountReply* reply);
  absl::Status DoCheck(const CheckRequest& request, Scrubber::Pace pace, CheckReply* reply);
  absl::Status DoStatus(StatusReply* reply);
  absl::Status DoMountStatus(const MountStatusRequest& request, MountStatusReply* reply);
  absl::Status DoProfile(const ProfileRequest& request, ProfileReply* reply);

  const Options options_;
  const Deps deps_;
  const uint64_t mount_namespace_ = OwnMountNamespace().value_or(0);
  const bool callers_mount_ = CannotMount();
  const SpaceCalls space_{deps_.store, deps_.mounts, deps_.podman, deps_.runtime_users};
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  CallCounter counter_;
  Ticker ticker_;
  const CallContext calls_{deps_, ticker_, counter_};
};

uint32_t ControlServiceImpl::MountsThatNeedADaemon() const {
  const std::vector<MountState> mounts = deps_.mounts.List();
  return static_cast<uint32_t>(std::count_if(
      mounts.begin(), mounts.end(), [](const MountState& mount) { return mount.needs_daemon(); }));
}

absl::Status ControlServiceImpl::DoUnmount(const UnmountRequest& request, UnmountReply* reply) {
  if (request.all()) deps_.mounts.Refresh();
  const std::vector<MountState> mounts = deps_.mounts.List();
  struct Place {
    std::string directory;
    uint64_t name_space = 0;
  };
  std::vector<Place> places;
  for (const std::string& directory : request.directories()) {
    places.push_back({directory, request.mount_namespace()});
  }
  if (request.all()) {
    places.clear();
    // Newest first, since a mount may lie inside another.
    for (auto it = mounts.rbegin(); it != mounts.rend(); ++it) {
      places.push_back({it->record.directory, it->record.name_space});
    }
  }
  const auto unmount = [&](Place& place) -> absl::Status {
    IMAGEFS_RETURN_IF_ERROR(CheckPath(place.directory, "the directory to unmount"));
    // A mount keeps the name it was created with, even if its parents are symbolic links by now.
    const bool listed = std::any_of(mounts.begin(), mounts.end(), [&](const MountState& mount) {
      return mount.record.directory == place.directory &&
             mount.record.name_space == place.name_space;
    });
    if (!listed && place.name_space == 0) {
      IMAGEFS_ASSIGN_OR_RETURN(place.directory, ResolveParents(place.directory));
    }
    return deps_.mounts.Unmount(place.directory, request.lazy(), place.name_space);
  };
  for (Place& place : places) {
    const absl::Status status = unmount(place);
    if (status.ok()) {
      reply->add_unmounted(place.directory);
      continue;
    }
    UnmountReply::Failure* failure = reply->add_failures();
    failure->set_directory(PrintableName(place.directory));
    failure->set_message(std::string(status.message()));
    failure->set_kind(std::string(KindName(KindOf(status))));
  }
  return absl::OkStatus();
}

void AddFlight(const FlightReport& report, StatusReply* reply) {
  StatusReply::Flight* flight = reply->add_flights();
  flight->set_name(report.name);
  flight->set_leaders(report.counters.leaders);
  flight->set_joins(report.counters.joins);
  flight->set_handovers(report.counters.handovers);
  flight->set_cancelled(report.counters.cancelled);
  flight->set_failed(report.counters.failed);
  flight->set_active(report.counters.active);
  flight->set_waiting(report.counters.waiting);
  for (const auto& [key, callers] : report.running) {
    flight->add_running(StrCat(key, " callers=", callers));
  }
}

absl::Status ControlServiceImpl::DoMountStatus(const MountStatusRequest& request,
                                               MountStatusReply* reply) {
  std::string directory = request.directory();
  // A path of another namespace means nothing here.
  if (request.mount_namespace() == 0) {
    IMAGEFS_ASSIGN_OR_RETURN(directory, ResolveParents(directory));
  }
  return FillMountStatus(deps_.store, deps_.mounts, directory, request.mount_namespace(),
                         request.picture(), reply);
}

absl::Status ControlServiceImpl::DoProfile(const ProfileRequest& request, ProfileReply* reply) {
  IMAGEFS_ASSIGN_OR_RETURN(const ResolveRequest asked, ParseImageRequest(request.image()));
  Digest manifest;
  if (const absl::StatusOr<ImageRef> image = deps_.store.FindImage(asked.reference, asked.platform);
      image.ok()) {
    manifest = (*image)->manifest_digest;
  } else if (asked.reference.digest.has_value()) {
    manifest = *asked.reference.digest;
  } else {
    return image.status();
  }
  reply->set_manifest_digest(manifest.ToString());
  ProfileKeeper& profiles = deps_.store.profiles();
  if (request.verb() == "clear") return profiles.Clear(manifest);
  if (request.verb() == "import") {
    IMAGEFS_ASSIGN_OR_RETURN(const imagefs::Profile profile,
                             imagefs::Profile::Parse(request.json()));
    return profiles.Put(manifest, profile);
  }
  if (request.verb() != "show") return absl::InvalidArgumentError("no such verb");
  profiles.Collect(/*all=*/true);
  IMAGEFS_ASSIGN_OR_RETURN(const imagefs::Profile profile, profiles.Get(manifest));
  reply->set_json(profile.ToJson());
  return absl::OkStatus();
}

absl::Status ControlServiceImpl::DoCheck(const CheckRequest& request, Scrubber::Pace pace,
                                         CheckReply* reply) {
  std::vector<Reference> references;
  for (const std::string& text : request.references()) {
    IMAGEFS_ASSIGN_OR_RETURN(references.emplace_back(), Reference::Parse(text));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const CheckReport report,
                           deps_.store.Check(references, request.repair(), pace));
  for (const CheckFinding& finding : report.findings) {
    CheckReply::Finding* out = reply->add_findings();
    out->set_kind(finding.kind);
    out->set_name(finding.name);
    out->set_problem(finding.problem);
    out->set_action(finding.action);
  }
  for (const CheckedLayer& layer : report.layers) {
    CheckReply::Layer* out = reply->add_layers();
    out->set_name(layer.id.ToString());
    out->set_diff_id(layer.diff_id.ToString());
    out->set_state(std::string(layer.state));
    out->set_data_bytes(layer.bytes);
    out->set_reason(layer.reason);
    out->set_action(layer.action);
  }
  return absl::OkStatus();
}

void AddEndpoints(const SourceFactory& sources, StatusReply* reply) {
  for (const EndpointHealth::Row& row : sources.endpoints_in_trouble()) {
    StatusReply::Endpoint* endpoint = reply->add_endpoints();
    endpoint->set_endpoint(row.endpoint);
    endpoint->set_cause(row.cause);
    endpoint->set_failures(static_cast<uint32_t>(row.failures));
    endpoint->set_lies(static_cast<uint32_t>(row.lies));
    endpoint->set_left_out_for_ms(static_cast<uint64_t>(row.left_out_for.count()));
  }
  for (const std::string& file : sources.hosts_files()) reply->add_hosts_files(file);
}

absl::Status ControlServiceImpl::DoStatus(StatusReply* reply) {
  reply->set_version(options_.version);
  reply->set_pid(getpid());
  reply->set_root(options_.root);
  reply->set_run(options_.run);
  reply->set_uptime_seconds(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started_)
          .count());
  reply->set_rss_bytes(ReadProcessStats().resident_bytes);
  const std::vector<MountState> mounts = deps_.mounts.List();
  const auto waiting = std::count_if(mounts.begin(), mounts.end(),
                                     [](const MountState& mount) { return !mount.mounted(); });
  reply->set_mounts(static_cast<uint32_t>(mounts.size() - static_cast<size_t>(waiting)));
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> images, deps_.store.ListImages(false));
  reply->set_images(static_cast<uint32_t>(images.size()));
  for (const std::string& warning : options_.warnings) reply->add_warnings(warning);

  auto count = [reply](std::string_view name, uint64_t value) {
    StatusReply::Counter* counter = reply->add_counters();
    counter->set_name(std::string(name));
    counter->set_value(value);
  };
  for (const auto& [name, value] : deps_.store.Counters()) count(name, value);
  count("mounts_not_there", static_cast<uint64_t>(waiting));
  if (options_.more_counters) {
    for (const auto& [name, value] : options_.more_counters()) count(name, value);
  }
  const SourceFactory::Counters source = deps_.sources.counters();
  count("http_requests", source.http.requests);
  count("http_connections", source.http.connections);
  count("http_bytes_received", source.http.bytes_received);
  count("http_retries", source.retries);
  count("http_resumes", source.resumes);
  count("http_redirects", source.redirects);
  count("http_failovers", source.failovers);
  if (deps_.fuse != nullptr) {
    const FuseCounters fuse = deps_.fuse->counters();
    count("fuse_requests", fuse.requests);
    count("fuse_lookups", fuse.lookups);
    count("fuse_getattrs", fuse.getattrs);
    count("fuse_reads", fuse.reads);
    count("fuse_read_bytes", fuse.read_bytes);
    count("fuse_readdirs", fuse.readdirs);
    count("fuse_xattr_requests", fuse.xattr_requests);
    count("fuse_errors", fuse.errors);
  }
  AddEndpoints(deps_.sources, reply);
  for (const FlightReport& report : deps_.store.Flights()) AddFlight(report, reply);
  // A token's key is derived from credentials, so its single-flight tasks are counted but not
  // named.
  AddFlight({"token", source.tokens, {}}, reply);
  FillLayers(deps_.store, reply);
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<ControlService> ControlService::Create(Options options, Deps deps) {
  return std::make_unique<ControlServiceImpl>(std::move(options), std::move(deps));
}

}  // namespace imagefs
