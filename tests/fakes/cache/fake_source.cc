#include "tests/fakes/cache/fake_source.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kPiece = 4096;  // bytes a sink call
constexpr std::string_view kManifestType = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kIndexType = "application/vnd.oci.image.index.v1+json";

std::string_view TypeOf(const std::string& manifest) {
  return manifest.find("\"manifests\":") == std::string::npos ? kManifestType : kIndexType;
}

}  // namespace

class FakeSource : public ImageSource {
 public:
  FakeSource(FakeRepository& repository, std::string audience, std::string registry)
      : repository_(repository), audience_(std::move(audience)), registry_(std::move(registry)) {}

  std::string audience() const override { return audience_; }
  std::string registry() const override { return registry_; }
  bool anonymous() const override { return audience_.empty(); }
  bool remote() const override { return true; }

  void GetManifest(const std::string& tag_or_digest, CancelToken, ManifestDone done) override {
    repository_.manifest_reads_++;
    repository_.threads_.Submit([this, tag_or_digest, done = std::move(done)]() mutable {
      FetchedManifest fetched;
      {
        absl::MutexLock lock(&repository_.mu_);
        const auto it = repository_.manifests_.find(tag_or_digest);
        if (it != repository_.manifests_.end()) fetched.bytes = it->second;
      }
      if (fetched.bytes.empty()) return done(absl::NotFoundError("no such manifest"));
      fetched.digest = Sha256Of(fetched.bytes);
      fetched.content_type = TypeOf(fetched.bytes);
      done(std::move(fetched));
    });
  }

  void GetSmallBlob(const Descriptor& blob, uint64_t, CancelToken, SmallBlobDone done) override {
    repository_.threads_.Submit([this, blob, done = std::move(done)]() mutable {
      std::string bytes;
      {
        absl::MutexLock lock(&repository_.mu_);
        bytes = repository_.blobs_[blob.digest].bytes;
      }
      done(std::move(bytes));
    });
  }

  void HasBlob(const Descriptor& blob, CancelToken, HasBlobDone done) override {
    repository_.threads_.Submit(
        [this, blob, done = std::move(done)]() mutable { done(repository_.Has(audience_, blob)); });
  }

  void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, PriorityRef,
                CancelToken cancel, BlobSink sink, BlobDone done) override {
    repository_.threads_.Submit([this, blob, ranges = std::move(ranges), cancel,
                                 sink = std::move(sink), done = std::move(done)]() mutable {
      repository_.Transfer(audience_, blob, std::move(ranges), cancel, sink, done);
    });
  }

 private:
  FakeRepository& repository_;
  const std::string audience_;
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
        .EndObject();
  }
  const std::string json = manifest.EndArray().EndObject().Take();
  const Digest digest = Sha256Of(json);
  manifests_[tag] = json;
  manifests_[digest.ToString()] = json;
  return digest;
}

void FakeRepository::HoldAt(const Digest& blob, uint64_t offset) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].hold_at = offset;
}

void FakeRepository::Release(const Digest& blob) {
  absl::MutexLock lock(&mu_);
  blobs_[blob].hold_at = UINT64_MAX;
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

void FakeRepository::Deny(const std::string& audience) {
  absl::MutexLock lock(&mu_);
  denied_.push_back(audience);
}

void FakeRepository::Deny(const std::string& audience, const Digest& blob) {
  absl::MutexLock lock(&mu_);
  denied_blobs_.emplace(audience, blob);
}

bool FakeRepository::DeniedLocked(const std::string& audience, const Digest& blob) const {
  return std::find(denied_.begin(), denied_.end(), audience) != denied_.end() ||
         denied_blobs_.contains({audience, blob});
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

bool FakeRepository::Has(const std::string& audience, const Descriptor& blob) {
  ++questions_;
  absl::MutexLock lock(&mu_);
  if (DeniedLocked(audience, blob.digest)) return false;
  const auto it = blobs_.find(blob.digest);
  return it != blobs_.end() && it->second.bytes.size() == blob.size;
}

std::shared_ptr<ImageSource> FakeRepository::Open(const std::string& audience,
                                                  const std::string& registry) {
  return std::make_shared<FakeSource>(*this, audience, registry);
}

void FakeRepository::Transfer(const std::string& audience, const Descriptor& blob,
                              std::vector<ByteRange> ranges, const CancelToken& cancel,
                              ImageSource::BlobSink& sink, ImageSource::BlobDone& done) {
  {
    absl::MutexLock lock(&mu_);
    if (DeniedLocked(audience, blob.digest)) {
      return done(absl::PermissionDeniedError(StrCat("denied to ", audience)));
    }
  }
  for (const ByteRange& range : ranges) {
    {
      absl::MutexLock lock(&mu_);
      blobs_[blob.digest].reads.push_back(range);
    }
    if (absl::Status status = Deliver(blob, range, cancel, sink); !status.ok()) {
      return done(status);
    }
  }
  done(absl::OkStatus());
}

absl::Status FakeRepository::Deliver(const Descriptor& blob, ByteRange range,
                                     const CancelToken& cancel, ImageSource::BlobSink& sink) {
  for (uint64_t at = range.begin; at < range.end;) {
    std::string piece;
    {
      absl::MutexLock lock(&mu_);
      Blob& entry = blobs_[blob.digest];
      if (at >= entry.hold_at) {
        ++entry.held;
        auto go = [&entry, &cancel, at] { return at < entry.hold_at || cancel.cancelled(); };
        // Cancellation does not touch mu_, so it is looked for again and again.
        while (!mu_.AwaitWithTimeout(absl::Condition(&go), absl::Milliseconds(5))) {
        }
        --entry.held;
      }
      if (cancel.cancelled()) return absl::CancelledError("cancelled");
      if (entry.failures > 0 && at >= entry.fail_at) {
        --entry.failures;
        return entry.failure;
      }
      uint64_t end = std::min<uint64_t>(range.end, at + kPiece);
      if (entry.hold_at > at) end = std::min(end, entry.hold_at);
      if (entry.failures > 0 && entry.fail_at > at) end = std::min(end, entry.fail_at);
      piece = entry.bytes.substr(at, end - at);
      if (entry.corruptions > 0 && entry.corrupt_at >= at && entry.corrupt_at < end) {
        --entry.corruptions;
        piece[entry.corrupt_at - at] ^= 1;
      }
    }
    if (absl::Status status = sink(at, piece); !status.ok()) return status;
    at += piece.size();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ImageSource>> FakeSourceFactory::Open(const Reference& reference,
                                                                     const Access& access) {
  return repository_.Open(access.credential.username, reference.host);
}

}  // namespace imagefs
