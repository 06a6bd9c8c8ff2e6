// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/cache/fake_source.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "base/json.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

constexpr size_t kPiece = 4096;  // bytes per sink call
constexpr std::string_view kManifestType = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kIndexType = "application/vnd.oci.image.index.v1+json";

std::string_view TypeOf(const std::string& manifest) {
  return manifest.find("\"manifests\":") == std::string::npos ? kManifestType : kIndexType;
}

}  // namespace

// Calls continue after it is destroyed, as with a real source: they do not refer to it.
class FakeSource : public ImageSource {
 public:
  FakeSource(FakeRepository& repository, std::string auth_scope, std::string registry)
      : repository_(repository),
        auth_scope_(std::move(auth_scope)),
        registry_(std::move(registry)) {}

  std::string auth_scope() const override { return auth_scope_; }
  std::string registry() const override { return registry_; }
  bool anonymous() const override { return auth_scope_.empty(); }
  bool remote() const override { return true; }

  void GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                   ManifestDone done) override {
    repository_.manifest_reads_++;
    {
      absl::MutexLock lock(&repository_.mu_);
      repository_.manifests_asked_.push_back(tag_or_digest);
    }
    repository_.threads_.Submit(
        [&repository = repository_, tag_or_digest, cancel, done = std::move(done)]() mutable {
          FetchedManifest fetched;
          {
            absl::MutexLock lock(&repository.mu_);
            const auto it = repository.manifests_.find(tag_or_digest);
            if (it != repository.manifests_.end()) fetched.bytes = it->second;
          }
          if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
          if (fetched.bytes.empty()) return done(absl::NotFoundError("no such manifest"));
          fetched.digest = Sha256Of(fetched.bytes);
          fetched.content_type = TypeOf(fetched.bytes);
          done(std::move(fetched));
        });
  }

  void GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                    SmallBlobDone done) override {
    repository_.threads_.Submit(
        [&repository = repository_, blob, max_bytes, cancel, done = std::move(done)]() mutable {
          absl::StatusOr<std::string> bytes = repository.Small(blob, max_bytes);
          if (cancel.cancelled()) bytes = absl::CancelledError("cancelled");
          done(std::move(bytes));
        });
  }

  void HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) override {
    repository_.threads_.Submit([&repository = repository_, auth_scope = auth_scope_, blob, cancel,
                                 done = std::move(done)]() mutable {
      const bool has = repository.Has(auth_scope, blob);
      if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
      done(has);
    });
  }

  void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, ReadOptions options,
                CancelToken cancel, BlobSink sink, BlobDone done) override {
    if (options.only_parts && !repository_.SendsParts(blob.digest)) {
      return done(absl::UnimplementedError("whole blobs only"));
    }
    repository_.threads_.Submit([&repository = repository_, auth_scope = auth_scope_, blob,
                                 ranges = std::move(ranges), cancel, sink = std::move(sink),
                                 done = std::move(done)]() mutable {
      const NeverBlocks as_the_network("a transfer's thread");
      repository.Transfer(auth_scope, blob, std::move(ranges), cancel, sink, done);
    });
  }

 private:
  FakeRepository& repository_;
  const std::string auth_scope_;
  const std::string registry_;
};

Digest FakeRepository::AddIndex(const std::string& tag, const std::vector<IndexEntry>& entries) {
  absl::MutexLock lock(&mu_);
  JsonWriter index;
  index.BeginObject()
      .Member("schemaVersion", int64_t{2})
      .Member("mediaType", kIndexType)
      .Key("manifests")
      .BeginArray();
  for (const IndexEntry& entry : entries) {
    const std::string& bytes = manifests_.at(entry.tag);
    index.BeginObject()
        .Member("mediaType", TypeOf(bytes))
        .Member("digest", Sha256Of(bytes).ToString())
        .Member("size", uint64_t{bytes.size()});
    if (!entry.platform.empty()) {
      const Platform platform = *Platform::Parse(entry.platform);
      index.Key("platform")
          .BeginObject()
          .Member("os", platform.os)
          .Member("architecture", platform.architecture)
          .Member("variant", platform.variant)
          .EndObject();
    }
    index.EndObject();
  }
  const std::string json = index.EndArray().EndObject().Take();
  const Digest digest = Sha256Of(json);
  manifests_[tag] = json;
  manifests_[digest.ToString()] = json;
  return digest;
}

Digest FakeRepository::AddManifest(const std::string& tag, const std::string& json) {
  absl::MutexLock lock(&mu_);
  const Digest digest = Sha256Of(json);
  manifests_[tag] = json;
  manifests_[digest.ToString()] = json;
  return digest;
}

Descriptor FakeRepository::AddBlob(std::string bytes) {
  absl::MutexLock lock(&mu_);
  Descriptor blob;
  blob.digest = Sha256Of(bytes);
  blob.size = bytes.size();
  blobs_[blob.digest].bytes = std::move(bytes);
  return blob;
}

Digest FakeRepository::AddImage(const std::string& tag, const std::vector<std::string>& tars) {
  std::vector<LayerSpec> layers;
  for (const std::string& tar : tars) layers.push_back({tar, Sha256Of(tar), false});
  return AddImage(tag, layers);
}

Digest FakeRepository::AddImage(const std::string& tag, const std::vector<LayerSpec>& layers) {
  absl::MutexLock lock(&mu_);
  last_layers_.clear();
  JsonWriter config;
  config.BeginObject()
      .Member("architecture", Platform::Host().architecture)
      .Member("os", "linux")
      .Key("rootfs")
      .BeginObject()
      .Member("type", "layers")
      .Key("diff_ids")
      .BeginArray();
  for (const LayerSpec& spec : layers) {
    Descriptor layer;
    layer.media_type = spec.gzip ? "application/vnd.oci.image.layer.v1.tar+gzip"
                                 : "application/vnd.oci.image.layer.v1.tar";
    layer.digest = Sha256Of(spec.blob);
    layer.size = spec.blob.size();
    blobs_[layer.digest].bytes = spec.blob;
    if (spec.foreign) layer.urls = {"https://elsewhere.test/layer"};
    if (spec.foreign) foreign_.insert(layer.digest);
    last_layers_.push_back(layer);
    config.String(spec.diff_id.ToString());
  }
  const std::string config_json = config.EndArray().EndObject().EndObject().Take();
  blobs_[Sha256Of(config_json)].bytes = config_json;
  JsonWriter manifest;
  manifest.BeginObject()
      .Member("schemaVersion", int64_t{2})
      .Member("mediaType", kManifestType)
      .Key("config")
      .BeginObject()
      .Member("mediaType", "application/vnd.oci.image.config.v1+json")
      .Member("digest", Sha256Of(config_json).ToString())
      .Member("size", uint64_t{config_json.size()})
      .EndObject()
      .Key("layers")
      .BeginArray();
  for (const Descriptor& layer : last_layers_) {
    manifest.BeginObject()
        .Member("mediaType", layer.media_type)
        .Member("digest", layer.digest.ToString())
        .Member("size", layer.size)
        .Key("urls")
        .BeginArray();
    for (const std::string& url : layer.urls) manifest.String(url);
    manifest.EndArray().EndObject();
  }
  const std::string json = manifest.EndArray().EndObject().Take();
  const Digest digest = Sha256Of(json);
  manifests_[tag] = json;
  manifests_[digest.ToString()] = json;
  return digest;
}

void FakeRepository::IgnoreRanges(const Digest& blob) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].whole_only = true;
}

bool FakeRepository::SendsParts(const Digest& blob) {
  absl::MutexLock lock(&mu_);
  return !blobs_[blob].whole_only;
}

void FakeRepository::HoldAt(const Digest& blob, uint64_t offset) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].hold_at = offset;
}

void FakeRepository::Release(const Digest& blob) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].hold_at = UINT64_MAX;
  blobs_[blob].released = true;
}

void FakeRepository::Stall(const Digest& blob, int times) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].stalls = times;
  blobs_[blob].released = false;
}

int FakeRepository::Standing(const Digest& blob) const {
  absl::MutexLock lock(&mu_);
  const auto it = blobs_.find(blob);
  return it == blobs_.end() ? 0 : it->second.held;
}

void FakeRepository::FailAt(const Digest& blob, uint64_t offset, absl::Status status, int times) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].fail_at = offset;
  blobs_[blob].failure = std::move(status);
  blobs_[blob].failures = times;
}

void FakeRepository::CorruptAt(const Digest& blob, uint64_t offset, int times) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].corrupt_at = offset;
  blobs_[blob].corruptions = times;
}

void FakeRepository::Interleave(const Digest& blob, uint64_t part, size_t at_once) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].part = part;
  blobs_[blob].at_once = at_once;
}

void FakeRepository::RepeatPieces(const Digest& blob, int times) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].repeats = times;
}

void FakeRepository::EndEarly(const Digest& blob, uint64_t offset, int times) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].end_at = offset;
  blobs_[blob].early_ends = times;
}

void FakeRepository::Deny(const std::string& auth_scope) {
  absl::MutexLock lock(&mu_);
  denied_.push_back(auth_scope);
}

void FakeRepository::Deny(const std::string& auth_scope, const Digest& blob) {
  absl::MutexLock lock(&mu_);
  denied_blobs_.emplace(auth_scope, blob);
}

bool FakeRepository::DeniedLocked(const std::string& auth_scope, const Digest& blob) const {
  return std::find(denied_.begin(), denied_.end(), auth_scope) != denied_.end() ||
         denied_blobs_.contains({auth_scope, blob});
}

std::vector<ByteRange> FakeRepository::Reads(const Digest& blob) const {
  absl::MutexLock lock(&mu_);
  const auto it = blobs_.find(blob);
  return it == blobs_.end() ? std::vector<ByteRange>() : it->second.reads;
}

void FakeRepository::AwaitHeld(const Digest& blob) {
  absl::MutexLock lock(&mu_);
  Blob& entry = blobs_[blob];
  auto held = [&entry] { return entry.held > 0; };
  mu_.Await(absl::Condition(&held));
}

bool FakeRepository::Has(const std::string& auth_scope, const Descriptor& blob) {
  ++questions_;
  absl::MutexLock lock(&mu_);
  if (DeniedLocked(auth_scope, blob.digest) || foreign_.contains(blob.digest)) return false;
  const auto it = blobs_.find(blob.digest);
  return it != blobs_.end() && it->second.bytes.size() == blob.size;
}

absl::StatusOr<std::string> FakeRepository::Small(const Descriptor& blob, uint64_t max_bytes) {
  if (blob.size > max_bytes) return absl::InvalidArgumentError("more bytes than are allowed");
  absl::MutexLock lock(&mu_);
  const auto it = blobs_.find(blob.digest);
  if (it == blobs_.end()) return absl::NotFoundError("no such blob");
  Blob& entry = it->second;
  if (entry.bytes.size() != blob.size) return absl::DataLossError("another size");
  if (entry.corruptions > 0) {
    --entry.corruptions;
    return absl::DataLossError("its bytes do not have its digest");
  }
  return entry.bytes;
}

std::shared_ptr<ImageSource> FakeRepository::Open(const std::string& auth_scope,
                                                  const std::string& registry) {
  return std::make_shared<FakeSource>(*this, auth_scope, registry);
}

void FakeRepository::Transfer(const std::string& auth_scope, const Descriptor& blob,
                              std::vector<ByteRange> ranges, const CancelToken& cancel,
                              ImageSource::BlobSink& sink, ImageSource::BlobDone& done) {
  {
    absl::MutexLock lock(&mu_);
    if (DeniedLocked(auth_scope, blob.digest)) {
      return done(absl::PermissionDeniedError(StrCat("denied to ", auth_scope)));
    }
  }
  if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
  RangeSet wanted;
  for (const ByteRange& range : ranges) {
    if (range.end < range.begin || range.end > blob.size) {
      return done(absl::InvalidArgumentError("a range outside of the blob"));
    }
    wanted.Add(range);
  }
  bool repeats;
  {
    absl::MutexLock lock(&mu_);
    const auto it = blobs_.find(blob.digest);
    if (it == blobs_.end()) return done(absl::NotFoundError("no such blob"));
    if (it->second.bytes.size() != blob.size) return done(absl::DataLossError("another size"));
    repeats = it->second.repeats > 0 && it->second.repeats-- > 0;
    if (Blob& entry = it->second; entry.stalls > 0) {
      --entry.stalls;
      entry.reads.push_back(wanted.ranges().empty() ? ByteRange() : wanted.ranges().front());
      ++entry.held;
      auto go = [&entry, &cancel] { return entry.released || cancel.cancelled(); };
      while (!mu_.AwaitWithTimeout(absl::Condition(&go), absl::Milliseconds(5))) {
      }
      --entry.held;
      if (cancel.cancelled()) return done(absl::CancelledError("cancelled"));
    }
  }
  ImageSource::BlobSink twice = [&sink](uint64_t offset, std::string_view data) {
    absl::Status status = sink(offset, data);
    return status.ok() ? sink(offset, data) : status;
  };
  for (const ByteRange& range : wanted.ranges()) {
    {
      absl::MutexLock lock(&mu_);
      blobs_[blob.digest].reads.push_back(range);
    }
    if (absl::Status status = Deliver(blob, range, cancel, repeats ? twice : sink); !status.ok()) {
      return done(status);
    }
  }
  done(absl::OkStatus());
}

absl::StatusOr<std::string> FakeRepository::NextPiece(const Digest& blob, uint64_t at, uint64_t end,
                                                      const CancelToken& cancel) {
  absl::MutexLock lock(&mu_);
  Blob& entry = blobs_[blob];
  if (at >= entry.hold_at) {
    ++entry.held;
    auto go = [&entry, &cancel, at] { return at < entry.hold_at || cancel.cancelled(); };
    // Cancellation does not signal mu_, so it is polled.
    while (!mu_.AwaitWithTimeout(absl::Condition(&go), absl::Milliseconds(5))) {
    }
    --entry.held;
  }
  if (cancel.cancelled()) return absl::CancelledError("cancelled");
  if (entry.failures > 0 && at >= entry.fail_at) {
    --entry.failures;
    return entry.failure;
  }
  if (entry.early_ends > 0 && at >= entry.end_at) {
    --entry.early_ends;
    return "";
  }
  end = std::min<uint64_t>(end, at + (entry.at_once > 1 ? kPiece - at % 1000 : kPiece));
  if (entry.hold_at > at) end = std::min(end, entry.hold_at);
  if (entry.failures > 0 && entry.fail_at > at) end = std::min(end, entry.fail_at);
  if (entry.early_ends > 0 && entry.end_at > at) end = std::min(end, entry.end_at);
  std::string piece = entry.bytes.substr(at, end - at);
  if (entry.corruptions > 0 && entry.corrupt_at >= at && entry.corrupt_at < end) {
    --entry.corruptions;
    piece[entry.corrupt_at - at] ^= 1;
  }
  return piece;
}

absl::Status FakeRepository::Deliver(const Descriptor& blob, ByteRange range,
                                     const CancelToken& cancel, ImageSource::BlobSink& sink) {
  std::deque<ByteRange> waiting;
  size_t at_once;
  {
    absl::MutexLock lock(&mu_);
    const Blob& entry = blobs_[blob.digest];
    at_once = entry.at_once;
    for (uint64_t at = range.begin; at < range.end;) {
      const uint64_t end = range.end - at > entry.part ? at + entry.part : range.end;
      waiting.push_back({at, end});
      at = end;
    }
  }
  std::vector<ByteRange> parts;  // in flight
  for (size_t turn = 0; !waiting.empty() || !parts.empty(); ++turn) {
    while (!waiting.empty() && parts.size() < at_once) {
      parts.push_back(waiting.front());
      waiting.pop_front();
    }
    // Three pieces of the last part for one of another part.
    ByteRange& part = parts[turn % 4 < 3 ? parts.size() - 1 : turn / 4 % parts.size()];
    const absl::StatusOr<std::string> piece = NextPiece(blob.digest, part.begin, part.end, cancel);
    if (!piece.ok()) return piece.status();
    if (piece->empty()) return absl::OkStatus();
    if (absl::Status status = sink(part.begin, *piece); !status.ok()) return status;
    part.begin += piece->size();
    std::erase_if(parts, [](const ByteRange& one) { return one.empty(); });
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ImageSource>> FakeSourceFactory::Open(const Reference& reference,
                                                                     const Access& access) {
  return repository_.Open(access.credential.username, reference.host);
}

}  // namespace imagefs
