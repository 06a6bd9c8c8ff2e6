// SPDX-License-Identifier: Apache-2.0
#include "fetch/registry_writer.h"

#include <deque>
#include <memory>
#include <utility>

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/blob_push.h"
#include "fetch/referrers_tag.h"
#include "fetch/registry.h"

namespace imagefs {
namespace {

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kEmptyType[] = "application/vnd.oci.empty.v1+json";
constexpr char kEmptyBytes[] = "{}";
constexpr size_t kBlobsInFlight = 3;

void WriteAnnotations(JsonWriter& out, const std::map<std::string, std::string>& annotations) {
  if (annotations.empty()) return;
  out.Key("annotations").BeginObject();
  for (const auto& [key, value] : annotations) out.Member(key, value);
  out.EndObject();
}

void WriteDescriptor(JsonWriter& out, const Descriptor& descriptor) {
  out.BeginObject();
  out.Member("mediaType", descriptor.media_type);
  out.Member("digest", descriptor.digest.ToString());
  out.Member("size", descriptor.size);
  if (!descriptor.artifact_type.empty()) out.Member("artifactType", descriptor.artifact_type);
  WriteAnnotations(out, descriptor.annotations);
  out.EndObject();
}

Descriptor Plain(std::string_view media_type, const Digest& digest, uint64_t size) {
  Descriptor descriptor;
  descriptor.media_type = std::string(media_type);
  descriptor.digest = digest;
  descriptor.size = size;
  return descriptor;
}

Descriptor EmptyDescriptor() {
  return Plain(kEmptyType, Sha256Of(kEmptyBytes), sizeof(kEmptyBytes) - 1);
}

// Whether an entry of an index equals `descriptor`, regardless of order.
bool Matches(const Json& entry, const Descriptor& descriptor) {
  std::map<std::string, std::string> annotations;
  for (const auto& [key, value] : entry["annotations"].members()) {
    annotations[key] = value.string().value_or("");
  }
  return entry.StringOr("mediaType") == descriptor.media_type &&
         entry.StringOr("digest") == descriptor.digest.ToString() &&
         entry.IntOr("size", -1) == static_cast<int64_t>(descriptor.size) &&
         entry.StringOr("artifactType") == descriptor.artifact_type &&
         annotations == descriptor.annotations;
}

struct Target {
  std::shared_ptr<RegistryShared> shared;
  std::shared_ptr<const RegistryEndpoint> endpoint;
};

void PutManifest(const Target& target, const std::string& tag_or_digest,
                 const std::string& media_type, std::string bytes, CancelToken cancel,
                 RegistryWriter::ManifestDone done) {
  RegistryWriter::PushedManifest pushed;
  pushed.digest = Sha256Of(bytes);
  RegistryCall::Spec spec = ManifestSpec("PUT", target.endpoint->RepositoryName(), tag_or_digest);
  const absl::StatusOr<Digest> wanted = Digest::Parse(tag_or_digest);
  const bool is_digest = tag_or_digest.find(':') != std::string::npos;
  if (!IsTagOrDigest(tag_or_digest) || (is_digest && !wanted.ok())) {
    return done(absl::InvalidArgumentError(
        StrCat("\"", Printable(tag_or_digest), "\" is neither a tag nor a digest")));
  }
  if (is_digest && *wanted != pushed.digest) {
    return done(absl::InvalidArgumentError(
        StrCat(spec.what, ": the bytes of the manifest have digest ", pushed.digest.ToString())));
  }
  if (bytes.size() > kMaxManifestBytes) {
    return done(
        absl::InvalidArgumentError(StrCat(spec.what, ": a manifest of ", bytes.size(),
                                          " bytes; registries take at most ", kMaxManifestBytes)));
  }
  spec.headers.emplace_back("Content-Type", media_type);
  spec.body = [bytes = std::move(bytes)]() -> absl::StatusOr<std::string> { return bytes; };
  spec.answers = [](int status) { return status == 201 || status == 202 || status == 204; };
  spec.stall_timeout = std::chrono::milliseconds(120'000);
  const std::string what = spec.what;
  RegistryCall::Run(
      target.shared, target.endpoint, std::move(spec), std::move(cancel),
      [target, what, pushed,
       done = std::move(done)](absl::StatusOr<HttpResponse> response) mutable {
        if (!response.ok()) return done(response.status());
        const absl::StatusOr<Digest> announced =
            Digest::Parse(response->Header("docker-content-digest"));
        if (announced.ok() && *announced != pushed.digest) {
          return done(absl::DataLossError(StrCat(
              what, ": the registry claims to have stored ", announced->ToString(), " and not ",
              pushed.digest.ToString(), "; check the registry and everything in between")));
        }
        pushed.listed = Digest::Parse(response->Header("oci-subject")).ok();
        if (pushed.listed) {
          target.shared->HostState(target.endpoint->at.host).referrers =
              RegistryShared::Host::Referrers::kSupported;
        }
        done(pushed);
      });
}

// The push of an artifact: blobs, manifest, and the tag if needed. Runs on the HTTP client's
// thread.
class ArtifactPush : public std::enable_shared_from_this<ArtifactPush> {
 public:
  ArtifactPush(Target target, RegistryWriter::Artifact artifact, CancelToken cancel,
               RegistryWriter::ArtifactDone done)
      : target_(std::move(target)),
        manifest_bytes_(ArtifactManifest(artifact)),
        what_(StrCat(Printable(artifact.artifact_type), " of ", target_.endpoint->host, "/",
                     target_.endpoint->at.repository, "@", artifact.subject.digest.ToString())),
        subject_(artifact.subject.digest),
        cancel_(std::move(cancel)),
        done_(std::move(done)) {
    Descriptor& manifest = pushed_.manifest;
    manifest = Plain(kManifestType, Sha256Of(manifest_bytes_), manifest_bytes_.size());
    manifest.artifact_type = artifact.artifact_type;
    manifest.annotations = artifact.annotations;
    const Descriptor empty = EmptyDescriptor();
    blobs_.push_back({empty.digest, empty.size, RegistryWriter::FromMemory(kEmptyBytes), ""});
    for (RegistryWriter::Layer& layer : artifact.layers) blobs_.push_back(std::move(layer.blob));
  }

  void Start() {
    registration_ = cancel_.OnCancel([weak = weak_from_this(), &http = target_.shared->http] {
      http.After({}, [weak] {
        if (const auto self = weak.lock()) self->Finish(absl::CancelledError("push cancelled"));
      });
    });
    PushBlobs();
  }

 private:
  void PushBlobs() {
    while (!blobs_.empty() && in_flight_ < kBlobsInFlight && !done_.called()) {
      RegistryWriter::Blob blob = std::move(blobs_.front());
      blobs_.pop_front();
      ++in_flight_;
      BlobPush::Run(
          target_.shared, target_.endpoint, std::move(blob), inner_cancel_.token(),
          [self = shared_from_this()](const absl::StatusOr<RegistryWriter::PushedBlob>& pushed) {
            --self->in_flight_;
            if (!pushed.ok()) return self->Finish(pushed.status());
            self->pushed_.sent_bytes += pushed->sent_bytes;
            self->PushBlobs();
          });
    }
    if (in_flight_ == 0 && blobs_.empty() && !done_.called()) PushManifest();
  }

  void PushManifest() {
    PutManifest(target_, pushed_.manifest.digest.ToString(), kManifestType, manifest_bytes_,
                inner_cancel_.token(),
                [self = shared_from_this()](absl::StatusOr<RegistryWriter::PushedManifest> pushed) {
                  if (!pushed.ok()) return self->Finish(pushed.status());
                  if (pushed->listed) return self->Finish(self->pushed_);
                  self->UpdateTag();
                });
  }

  void UpdateTag() {
    ReferrersTagUpdate::Run(target_.shared, target_.endpoint, subject_, pushed_.manifest,
                            inner_cancel_.token(),
                            [self = shared_from_this()](absl::Status updated) {
                              if (!updated.ok()) return self->Finish(std::move(updated));
                              self->pushed_.listed_by_tag = true;
                              self->Finish(self->pushed_);
                            });
  }

  void Finish(absl::StatusOr<RegistryWriter::PushedArtifact> result) {
    if (done_.called()) return;
    const auto keep = shared_from_this();
    registration_.Reset();
    if (!result.ok()) result = Annotate(result.status(), what_);
    done_(std::move(result));
    inner_cancel_.Cancel();  // cancel the other blobs
  }

  const Target target_;
  const std::string manifest_bytes_;
  const std::string what_;
  const Digest subject_;
  const CancelToken cancel_;
  CancelSource inner_cancel_;
  GuardedDone<absl::StatusOr<RegistryWriter::PushedArtifact>> done_;
  CancelToken::Registration registration_;
  std::deque<RegistryWriter::Blob> blobs_;
  size_t in_flight_ = 0;
  RegistryWriter::PushedArtifact pushed_;
};

class RemoteWriter : public RegistryWriter {
 public:
  RemoteWriter(Target target, std::shared_ptr<ImageSource> source)
      : target_(std::move(target)), source_(std::move(source)) {}

  std::shared_ptr<ImageSource> target() const override { return source_; }

  void PushBlob(Blob blob, CancelToken cancel, BlobDone done) override {
    BlobPush::Run(target_.shared, target_.endpoint, std::move(blob), std::move(cancel),
                  std::move(done));
  }
  void PushManifest(const std::string& tag_or_digest, const std::string& media_type,
                    std::string bytes, CancelToken cancel, ManifestDone done) override {
    PutManifest(target_, tag_or_digest, media_type, std::move(bytes), std::move(cancel),
                std::move(done));
  }
  void PushArtifact(Artifact artifact, CancelToken cancel, ArtifactDone done) override {
    if (artifact.artifact_type.empty() || artifact.subject.digest.empty() ||
        artifact.layers.size() > kMaxLayers) {
      return done(absl::InvalidArgumentError(
          StrCat("an artifact needs a type, a subject and at most ", kMaxLayers, " layers")));
    }
    auto push = std::make_shared<ArtifactPush>(target_, std::move(artifact), std::move(cancel),
                                               std::move(done));
    target_.shared->http.After({}, [push = std::move(push)] { push->Start(); });
  }

 private:
  const Target target_;
  const std::shared_ptr<ImageSource> source_;
};

}  // namespace

RegistryWriter::BlobBytes RegistryWriter::FromMemory(std::string bytes) {
  return [bytes = std::make_shared<const std::string>(std::move(bytes))](
             uint64_t offset, uint64_t length) -> absl::StatusOr<std::string> {
    if (offset > bytes->size()) return absl::OutOfRangeError("beyond the end of the blob");
    return bytes->substr(offset, length);
  };
}

std::string ArtifactManifest(const RegistryWriter::Artifact& artifact) {
  JsonWriter out;
  out.BeginObject();
  out.Member("schemaVersion", int64_t{2});
  out.Member("mediaType", kManifestType);
  out.Member("artifactType", artifact.artifact_type);
  out.Key("config");
  WriteDescriptor(out, EmptyDescriptor());
  out.Key("layers").BeginArray();
  for (const RegistryWriter::Layer& layer : artifact.layers) {
    Descriptor descriptor = Plain(layer.media_type, layer.blob.digest, layer.blob.size);
    descriptor.annotations = layer.annotations;
    WriteDescriptor(out, descriptor);
  }
  // Some registries reject an empty list.
  if (artifact.layers.empty()) WriteDescriptor(out, EmptyDescriptor());
  out.EndArray();
  out.Key("subject");
  const Descriptor& subject = artifact.subject;
  WriteDescriptor(out, Plain(subject.media_type, subject.digest, subject.size));
  WriteAnnotations(out, artifact.annotations);
  out.EndObject();
  return out.Take();
}

absl::StatusOr<std::string> UpdateReferrersIndex(const std::string& index,
                                                 const Descriptor& manifest,
                                                 const std::vector<std::string>& more) {
  JsonWriter entry;
  WriteDescriptor(entry, manifest);
  const std::string entry_json = entry.Take();
  Json root;
  if (!index.empty()) {
    absl::StatusOr<Json> parsed = Json::Parse(index);
    const bool good = parsed.ok() && (*parsed)["manifests"].is_array() &&
                      parsed->StringOr("mediaType", kIndexType) == kIndexType;
    if (!good) {
      return absl::FailedPreconditionError(
          "the tag that would list it holds something other than a list, which is not overwritten; "
          "delete the tag, or use --to REPOSITORY");
    }
    root = *std::move(parsed);
  }
  JsonWriter out;
  out.BeginObject();
  out.Member("schemaVersion", int64_t{2});
  out.Member("mediaType", kIndexType);
  out.Key("manifests").BeginArray();
  bool placed = false;
  for (const Json& element : root["manifests"].elements()) {
    if (more.empty() && Matches(element, manifest)) return index;
    if (element.StringOr("digest") != manifest.digest.ToString()) {
      out.Raw(element.Dump());
    } else if (!placed) {
      out.Raw(entry_json);
      placed = true;
    }
  }
  for (const std::string& element : more) out.Raw(element);
  if (!placed) out.Raw(entry_json);
  out.EndArray();
  for (const auto& [key, value] : root.members()) {
    if (key == "schemaVersion" || key == "mediaType" || key == "manifests") continue;
    out.Key(key).Raw(value.Dump());
  }
  out.EndObject();
  return out.Take();
}

absl::StatusOr<std::shared_ptr<RegistryWriter>> MakeRegistryWriter(
    std::shared_ptr<RegistryShared> shared, const Reference& reference,
    const SourceFactory::Access& access) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<RegistryRoute> route,
                           RegistryRoute::Create(shared, reference, access));
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<RegistryEndpoint> endpoint, route->PushEndpoint());
  endpoint->push = true;
  endpoint->scope = StrCat("repository:", endpoint->at.repository, ":pull,push");
  endpoint->auth_scope += " push";
  auto source = std::make_shared<RegistrySource>(shared, route->Only(*endpoint), access);
  return std::make_shared<RemoteWriter>(Target{std::move(shared), endpoint}, std::move(source));
}

}  // namespace imagefs
