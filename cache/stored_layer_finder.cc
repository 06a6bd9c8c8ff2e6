// SPDX-License-Identifier: Apache-2.0
#include "cache/stored_layer_finder.h"

#include <algorithm>
#include <optional>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cache/received_bytes.h"
#include "cache/scan_plan.h"
#include "image/layer_builder.h"
#include "image/tar.h"

namespace imagefs {
namespace {

// A smaller layer is streamed in about the time of the requests that this takes.
constexpr uint64_t kLeastBytes = 4 << 20;
// Each takes little memory as a rule, and at most this and the headers of one entry.
constexpr uint64_t kMostTree = 4 << 20;
constexpr int kMostAtOnce = 32;
// Of a file, whose index needs none of them.
constexpr uint64_t kProbeBytes = 512;

using Kind = LayerForm::Kind;

}  // namespace

// One scan. Its steps run one after the other: on a worker, and in the callbacks of its request.
class StoredLayerFinder::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(StoredLayerFinder& finder, const Layer& layer, std::shared_ptr<ImageSource> source,
      std::string repository, FlightTable<FoundIndexRef>::Context context)
      : finder_(finder),
        layer_(layer),
        source_(std::move(source)),
        repository_(std::move(repository)),
        context_(std::move(context)),
        scan_(layer.blob.size),
        plan_(layer.blob.size) {}
  // It was counted as running before. The next one takes its place.
  ~Job() {
    std::shared_ptr<Job> next;
    absl::MutexLock lock(&finder_.mu_);
    if (finder_.waiting_.empty()) {
      --finder_.running_;
      return;
    }
    next = std::move(finder_.waiting_.front());
    finder_.waiting_.pop_front();
    finder_.work_.Submit([next] { next->Start(); });
  }

  // Like all steps, blocks on the disk and the processor.
  void Start() {
    began_ = Moment::Now();
    if (layer_.form.kind != Kind::kFile) return Step();
    if (context_.cancel.cancelled()) return End(absl::CancelledError("nobody waits for it"));
    // Whether the registry has the blob, and sends parts of it.
    Request({0, kProbeBytes});
  }

 private:
  void Step() {
    if (context_.cancel.cancelled()) return End(absl::CancelledError("nobody waits for it"));
    const absl::StatusOr<std::optional<uint64_t>> needed =
        scan_.Continue(window_.begin, bytes_, [this](TarEntry& entry) { return Add(entry); });
    if (!needed.ok()) return End(needed.status());
    if (!needed->has_value()) return End(Open(std::move(builder_).Finish(layer_.blob.size)));
    const absl::StatusOr<ByteRange> next =
        plan_.Next(scan_.position(), **needed, Moment::Now() - began_);
    if (!next.ok()) return End(next.status());
    Request(*next);
  }

  absl::Status Add(TarEntry& entry) {
    IMAGEFS_RETURN_IF_ERROR(builder_.Add(entry));
    if (builder_.memory_bytes() <= kMostTree) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        StrCat("its tree takes more than ", FormatBytes(kMostTree)));
  }

  void Request(ByteRange range) {
    ++requests_;
    bytes_requested_ += range.size();
    window_ = range;
    bytes_.assign(range.size(), '\0');
    received_ = RangeSet();
    ImageSource::ReadOptions options(context_.priority);
    options.only_parts = true;
    source_->ReadBlob(
        layer_.blob, {range}, std::move(options), context_.cancel,
        [self = shared_from_this()](uint64_t offset, std::string_view data) {
          return TakeReceived(self->window_, offset, data, self->bytes_.data(), self->received_);
        },
        [self = shared_from_this()](const absl::Status& status) {
          self->finder_.work_.Submit([self, status] { self->OnReceived(status); });
        });
  }

  // Zeros in the place of missing headers would look like the end of the tar.
  void OnReceived(const absl::Status& status) {
    if (!status.ok()) return End(status);
    if (!received_.Contains(window_)) return End(absl::DataLossError("headers ended early"));
    if (layer_.form.kind == Kind::kFile) {
      return End(Open(FileTree(layer_.form.file, layer_.blob.size)));
    }
    Step();
  }

  absl::StatusOr<FoundIndexRef> Open(absl::StatusOr<LayerBuilder::Result> layer) {
    IMAGEFS_RETURN_IF_ERROR(layer.status());
    return finder_.opener_.OpenStored(*std::move(layer), layer_.blob, layer_.diff_id, repository_);
  }

  void End(absl::StatusOr<FoundIndexRef> found) {
    (found.ok() ? finder_.scanned_ : finder_.given_up_)++;
    LogDebug("layer.scanned layer=", layer_.blob.digest.Short(), " requests=", requests_,
             " bytes=", bytes_requested_,
             " cause=", found.ok() ? "-" : std::string(found.status().message()));
    context_.finish(std::move(found));
  }

  StoredLayerFinder& finder_;
  const Layer layer_;
  const std::shared_ptr<ImageSource> source_;
  const std::string repository_;
  const FlightTable<FoundIndexRef>::Context context_;
  Moment began_;
  uint64_t requests_ = 0, bytes_requested_ = 0;
  TarScan scan_;
  ScanPlan plan_;
  LayerBuilder builder_;
  ByteRange window_;  // of the blob; what was requested last
  std::string bytes_;
  RangeSet received_;
};

StoredLayerFinder::~StoredLayerFinder() {
  absl::MutexLock lock(&mu_);
  auto none = [this]()
                  ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0 && waiting_.empty(); };
  mu_.Await(absl::Condition(&none));
}

bool StoredLayerFinder::MayFind(const Layer& layer) {
  const Descriptor& blob = layer.blob;
  // Bytes from the URLs of an image are nobody's: they are read as a whole.
  if (blob.size < kLeastBytes || !blob.urls.empty()) return false;
  switch (layer.form.kind) {
    case Kind::kTar:
      return blob.digest == layer.diff_id;
    case Kind::kBlobTar:
      // If it is compressed nevertheless, its first header shows it.
      return blob.media_type.ends_with(".tar") &&
             (layer.form.content.empty() || layer.form.content == blob.digest);
    case Kind::kFile:
      return true;
    case Kind::kErofs:
      return false;
  }
  return false;
}

FlightTicket StoredLayerFinder::Find(const Layer& layer, std::shared_ptr<ImageSource> source,
                                     const std::string& repository, Done done) {
  FlightTable<FoundIndexRef>::Caller caller;
  caller.auth_scope = source->auth_scope();
  const std::string key = StrCat(layer.blob.digest.hex(), " ", layer.diff_id.hex(), " ", repository,
                                 " ", source->auth_scope());
  caller.start = [this, layer, source = std::move(source),
                  repository](FlightTable<FoundIndexRef>::Context context) {
    auto job = std::make_shared<Job>(*this, layer, source, repository, std::move(context));
    absl::MutexLock lock(&mu_);
    if (running_ >= kMostAtOnce) return waiting_.push_back(std::move(job));
    ++running_;
    work_.Submit([job = std::move(job)] { job->Start(); });
  };
  caller.done = [done = std::move(done)](absl::StatusOr<FoundIndexRef> found) mutable {
    done(std::move(found));
  };
  return flights_.Join(key, std::move(caller)).ticket;
}

void StoredLayerFinder::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("stored_layers_scanned", scanned_.load());
  out.emplace_back("stored_scans_given_up", given_up_.load());
}

}  // namespace imagefs
