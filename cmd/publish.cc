#include "cmd/publish.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/registry_writer.h"
#include "image/index_bundle.h"
#include "image/layer_access.h"

namespace imagefs {
namespace {

constexpr std::string_view kManifestMediaType = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kIndexMediaType = "application/vnd.oci.image.index.v1+json";

// A member of a ustar archive (POSIX.1-1988): a regular file.
std::string TarMember(const std::string& name, std::string_view data) {
  std::string header(512, '\0');
  auto put = [&header](size_t at, const std::string& text) {
    header.replace(at, text.size(), text);
  };
  auto octal = [](uint64_t value, int digits) {
    char text[24];
    snprintf(text, sizeof(text), "%0*llo", digits, static_cast<unsigned long long>(value));
    return std::string(text);
  };
  put(0, name);
  put(100, octal(0644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(data.size(), 11));
  put(136, octal(0, 11));
  put(148, "        ");
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  uint64_t sum = 0;
  for (const char c : header) sum += static_cast<uint8_t>(c);
  put(148, octal(sum, 6) + '\0' + ' ');
  std::string out = header + std::string(data);
  out.append((512 - data.size() % 512) % 512, '\0');
  return out;
}

// The artifact as an OCI archive, as `skopeo copy oci-archive:` and `oras` read it.
absl::Status WriteArchive(const std::string& path, const std::string& manifest,
                          const std::vector<std::string>& blobs) {
  auto blob = [](const std::string& bytes) {
    return TarMember("blobs/sha256/" + Sha256Of(bytes).hex(), bytes);
  };
  std::string archive = TarMember("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  archive += TarMember(
      "index.json", StrCat(R"({"schemaVersion":2,"mediaType":")", kIndexMediaType,
                           R"(","manifests":[{"mediaType":")", kManifestMediaType,
                           R"(","digest":")", Sha256Of(manifest).ToString(), R"(","size":)",
                           manifest.size(), R"(,"artifactType":")", kIndexArtifactType, R"("}]})"));
  archive += blob(manifest);
  archive += blob("{}");  // the empty configuration
  for (const std::string& bytes : blobs) archive += blob(bytes);
  archive.append(1024, '\0');
  return WriteFileDurably(path, archive, 0644);
}

class PublishJob : public std::enable_shared_from_this<PublishJob> {
 public:
  PublishJob(ImageStore& store, SourceFactory& sources, Executor& executor, PublishRequest request,
             CancelToken cancel, absl::AnyInvocable<void(absl::StatusOr<PublishResult>)> done)
      : store_(store),
        sources_(sources),
        executor_(executor),
        request_(std::move(request)),
        cancel_(std::move(cancel)),
        done_(std::move(done)) {}

  void Start() {
    if (!request_.only_if_absent) return MakeIndexes();
    // Where it would go.
    absl::StatusOr<std::shared_ptr<ImageSource>> target =
        sources_.Open(*request_.to, request_.access);
    if (!target.ok()) return done_(target.status());
    target_ = *std::move(target);
    target_->GetReferrers(
        request_.image->manifest_digest, std::string(kIndexArtifactType), cancel_,
        [self = shared_from_this()](const absl::StatusOr<std::vector<Descriptor>>& found) {
          if (!found.ok()) return self->done_(found.status());
          if (!found->empty()) {
            self->result_.absent = false;
            return self->done_(std::move(self->result_));
          }
          self->MakeIndexes();
        });
  }

 private:
  void MakeIndexes() {
    const FlightTicket ticket =
        store_.MakeIndexes(request_.image, request_.source,
                           [self = shared_from_this()](absl::StatusOr<ChainRef> chain) {
                             if (!chain.ok()) return self->done_(chain.status());
                             self->executor_.Submit([self, chain = *chain] {
                               if (absl::Status status = self->Pack(*chain); !status.ok())
                                 self->done_(status);
                             });
                           });
    CancelToken::Registration registration = cancel_.OnCancel([ticket] { ticket.Leave(); });
    absl::MutexLock lock(&mu_);
    on_cancel_ = std::move(registration);
  }

  absl::StatusOr<std::string> PackLayer(const Layer& layer) {
    IndexBundle bundle;
    IMAGEFS_ASSIGN_OR_RETURN(bundle.access,
                             ReadFile(layer.directory + "/access", kMaxUnpackedBundle));
    IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<LayerAccess> access,
                             LayerAccess::FromBytes(bundle.access));
    if (access->layout() != DataLayout::kTar) {
      return absl::FailedPreconditionError("it was made of a table of contents, not of its tar");
    }
    IMAGEFS_ASSIGN_OR_RETURN(bundle.index,
                             ReadFile(layer.directory + "/index", kMaxUnpackedBundle));
    return PackBundle(bundle);
  }

  // Blocks on the disk and on the processor.
  absl::Status Pack(const Chain& chain) {
    RegistryWriter::Artifact artifact;
    artifact.artifact_type = std::string(kIndexArtifactType);
    artifact.subject.media_type = request_.image->manifest.media_type;
    if (artifact.subject.media_type.empty()) {
      artifact.subject.media_type = request_.image->content_type;
    }
    artifact.subject.digest = request_.image->manifest_digest;
    artifact.subject.size = request_.image->manifest_json.size();
    std::vector<std::string> blobs;
    auto add = [&](std::string bytes, std::string_view media_type,
                   std::map<std::string, std::string> annotations) {
      RegistryWriter::Layer layer;
      layer.media_type = std::string(media_type);
      layer.annotations = std::move(annotations);
      layer.blob.digest = Sha256Of(bytes);
      layer.blob.size = bytes.size();
      if (!request_.file.empty()) blobs.push_back(bytes);
      layer.blob.bytes = RegistryWriter::FromMemory(std::move(bytes));
      artifact.layers.push_back(std::move(layer));
    };
    for (size_t i = 0; i < chain.layers.size(); ++i) {
      const Descriptor& blob = request_.image->manifest.layers[i];
      PublishResult::Layer about{blob.digest, blob.size, 0, ""};
      absl::StatusOr<std::string> bytes = PackLayer(*chain.layers[i]);
      if (bytes.ok() && bytes->size() <= kMaxBundleBytes) {
        about.index_bytes = bytes->size();
        add(*std::move(bytes), kLayerIndexMediaType,
            {{std::string(kLayerAnnotation), blob.digest.ToString()},
             {std::string(kDiffIdAnnotation), chain.layers[i]->diff_id.ToString()}});
      } else {
        about.reason = bytes.ok() ? "its index is too large"
                       : absl::IsFailedPrecondition(bytes.status())
                           ? std::string(bytes.status().message())
                           : "its blob cannot be read in parts (one large zstd frame)";
      }
      result_.layers.push_back(std::move(about));
    }
    if (artifact.layers.empty()) {
      return absl::FailedPreconditionError(
          StrCat(request_.image->reference, ": no layer of it can be read in parts"));
    }
    if (request_.with_profile) {
      IMAGEFS_ASSIGN_OR_RETURN(const Profile profile,
                               store_.profiles().Get(request_.image->manifest_digest));
      add(profile.ToJson(), kProfileMediaType, {});
    }
    manifest_ = ArtifactManifest(artifact);
    result_.artifact = Sha256Of(manifest_).ToString();
    if (!request_.file.empty()) {
      IMAGEFS_RETURN_IF_ERROR(WriteArchive(request_.file, manifest_, blobs));
      result_.file = request_.file;
    }
    if (!request_.to.has_value()) {
      done_(std::move(result_));
      return absl::OkStatus();
    }
    return Push(std::move(artifact));
  }

  absl::Status Push(RegistryWriter::Artifact artifact) {
    IMAGEFS_ASSIGN_OR_RETURN(writer_, sources_.OpenWriter(*request_.to, request_.access));
    writer_->PushArtifact(
        std::move(artifact), cancel_,
        [self = shared_from_this()](absl::StatusOr<RegistryWriter::PushedArtifact> pushed) {
          if (!pushed.ok()) return self->done_(pushed.status());
          self->result_.listed_by_tag = pushed->listed_by_tag;
          self->result_.sent_bytes = pushed->sent_bytes;
          self->PushTag();
        });
    return absl::OkStatus();
  }

  // By this tag it is found with one question instead of two.
  void PushTag() {
    writer_->PushManifest(
        StrCat("sha256-", request_.image->manifest_digest.hex(), ".imagefs"),
        std::string(kManifestMediaType), manifest_, cancel_,
        [self = shared_from_this()](const absl::StatusOr<RegistryWriter::PushedManifest>& pushed) {
          if (!pushed.ok()) return self->done_(pushed.status());
          self->result_.repository =
              StrCat(self->request_.to->host, "/", self->request_.to->repository);
          self->done_(std::move(self->result_));
        });
  }

  ImageStore& store_;
  SourceFactory& sources_;
  Executor& executor_;
  const PublishRequest request_;
  const CancelToken cancel_;
  absl::AnyInvocable<void(absl::StatusOr<PublishResult>)> done_;
  PublishResult result_;
  std::string manifest_;
  std::shared_ptr<ImageSource> target_;
  std::shared_ptr<RegistryWriter> writer_;
  absl::Mutex mu_;
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

void Publish(ImageStore& store, SourceFactory& sources, Executor& executor, PublishRequest request,
             CancelToken cancel, absl::AnyInvocable<void(absl::StatusOr<PublishResult>)> done) {
  std::make_shared<PublishJob>(store, sources, executor, std::move(request), std::move(cancel),
                               std::move(done))
      ->Start();
}

}  // namespace imagefs
