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

}  // namespace

// One scan. Its steps run one after the other: on a worker, and in the callbacks of its request.
class StoredLayerFinder::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(StoredLayerFinder& finder, const Descriptor& blob, std::shared_ptr<ImageSource> source,
      std::string repository, FlightTable<FoundIndexRef>::Context context)
      : finder_(finder),
        blob_(blob),
        source_(std::move(source)),
        repository_(std::move(repository)),
        context_(std::move(context)),
        scan_(blob.size),
        plan_(blob.size) {}
  // It was counted as running before.
  ~Job() {
    absl::MutexLock lock(&finder_.mu_);
    --finder_.running_;
  }

  // Blocks on the disk and the processor.
  void Step() {
    if (context_.cancel.cancelled()) return End(absl::CancelledError("nobody waits for it"));
    const absl::StatusOr<std::optional<uint64_t>> needed =
        scan_.Continue(window_.begin, bytes_, [this](TarEntry& entry) { return Add(entry); });
    if (!needed.ok()) return End(needed.status());
    if (!needed->has_value()) return End(Finish());
    const absl::StatusOr<ByteRange> next =
        plan_.Next(scan_.position(), **needed, Moment::Now() - began_);
    if (!next.ok()) return End(next.status());
    Request(*next);
  }

 private:
  absl::Status Add(TarEntry& entry) {
    IMAGEFS_RETURN_IF_ERROR(builder_.Add(entry));
    if (builder_.memory_bytes() <= kMostTree) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        StrCat("its tree takes more than ", FormatBytes(kMostTree)));
  }

  void Request(ByteRange range) {
    window_ = range;
    bytes_.assign(range.size(), '\0');
    received_ = RangeSet();
    ImageSource::ReadOptions options(context_.priority);
    options.only_parts = true;
    source_->ReadBlob(
        blob_, {range}, std::move(options), context_.cancel,
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
    Step();
  }

  absl::StatusOr<FoundIndexRef> Finish() {
    IMAGEFS_ASSIGN_OR_RETURN(LayerBuilder::Result layer, std::move(builder_).Finish(blob_.size));
    return finder_.opener_.OpenTar(std::move(layer), blob_, repository_);
  }

  void End(absl::StatusOr<FoundIndexRef> found) {
    (found.ok() ? finder_.scanned_ : finder_.given_up_)++;
    LogDebug("layer.scanned layer=", blob_.digest.Short(), " requests=", plan_.requests(),
             " bytes=", plan_.bytes(),
             " cause=", found.ok() ? "-" : std::string(found.status().message()));
    context_.finish(std::move(found));
  }

  StoredLayerFinder& finder_;
  const Descriptor blob_;
  const std::shared_ptr<ImageSource> source_;
  const std::string repository_;
  const FlightTable<FoundIndexRef>::Context context_;
  const Moment began_ = Moment::Now();
  TarScan scan_;
  ScanPlan plan_;
  LayerBuilder builder_;
  ByteRange window_;  // of the blob; what was requested last
  std::string bytes_;
  RangeSet received_;
};

StoredLayerFinder::~StoredLayerFinder() {
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0; };
  mu_.Await(absl::Condition(&none));
}

bool StoredLayerFinder::MayFind(const Descriptor& blob, const Digest& diff_id) {
  // Bytes from the URLs of an image are nobody's: they are read as a whole.
  return blob.digest == diff_id && blob.size >= kLeastBytes && blob.urls.empty();
}

FlightTicket StoredLayerFinder::Find(const Descriptor& blob, std::shared_ptr<ImageSource> source,
                                     const std::string& repository, Done done) {
  FlightTable<FoundIndexRef>::Caller caller;
  caller.auth_scope = source->auth_scope();
  const std::string key = StrCat(blob.digest.hex(), " ", repository, " ", source->auth_scope());
  caller.start = [this, blob, source = std::move(source),
                  repository](FlightTable<FoundIndexRef>::Context context) {
    bool free = false;
    {
      absl::MutexLock lock(&mu_);
      free = running_ < kMostAtOnce;
      if (free) ++running_;
    }
    if (!free) {
      given_up_++;
      return context.finish(absl::ResourceExhaustedError("too many layers are scanned already"));
    }
    work_.Submit([job = std::make_shared<Job>(*this, blob, source, repository,
                                              std::move(context))] { job->Step(); });
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
