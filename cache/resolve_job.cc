// SPDX-License-Identifier: Apache-2.0
#include "cache/resolve_job.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "cache/image_row.h"
#include "image/artifact.h"

namespace imagefs {
namespace {

// The configuration of many artifacts, which not every registry has (image-spec, manifest.md).
constexpr std::string_view kEmptyConfig = "{}";
constexpr int kMaxIndexDepth = 3;      // nesting of indexes
constexpr int kMaxNestedIndexes = 16;  // limit for all indexes that are read to find a platform

// A chain of callbacks, each of which holds the job.
class ResolveJob : public std::enable_shared_from_this<ResolveJob> {
 public:
  ResolveJob(ResolveRequest request, std::shared_ptr<ImageSource> source, const KeyValueStore& kv,
             IndexFinder& finder, ResolveContext context)
      : request_(std::move(request)),
        source_(std::move(source)),
        kv_(kv),
        finder_(finder),
        context_(std::move(context)) {}

  void Start() {
    // Without a platform the digest is that of a manifest, not of an index.
    if (request_.reference.digest.has_value() && request_.platform == Platform()) {
      PrefetchIndex(*request_.reference.digest);
    }
    GetManifest(request_.reference.TagOrDigest(), 0);
  }

 private:
  void GetManifest(const std::string& tag_or_digest, int depth) {
    source_->GetManifest(
        tag_or_digest, context_.cancel,
        [self = shared_from_this(), depth](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
          self->Check(self->OnManifest(std::move(fetched), depth));
        });
  }

  // Again costs nothing: the finder remembers what it has asked.
  void PrefetchIndex(const Digest& manifest) {
    if (!request_.trust.empty()) finder_.Prefetch(manifest, source_, request_.trust);
  }

  void Check(const absl::Status& status) {
    if (status.ok()) return;
    // Sources name what they requested themselves.
    const std::string reference = request_.reference.ToString();
    const bool named = ToStd(status.message()).find(reference) != std::string_view::npos;
    context_.finish(absl::IsCancelled(status) || named ? status : Annotate(status, reference));
  }

  absl::Status OnManifest(absl::StatusOr<ImageSource::FetchedManifest> fetched, int depth) {
    IMAGEFS_RETURN_IF_ERROR(fetched.status());
    if (depth == 0 && request_.reference.digest.has_value() &&
        fetched->digest != *request_.reference.digest) {
      return absl::DataLossError(StrCat("asked for ", request_.reference.digest->ToString(),
                                        " but got ", fetched->digest.ToString()));
    }
    IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                             ParseManifest(fetched->bytes, fetched->content_type));
    if (parsed.index.has_value()) {
      if (depth == 0) KeepIndex(*fetched);
      return OnIndex(*std::move(parsed.index), depth);
    }
    manifest_ = *std::move(fetched);
    manifest_parsed_ = *std::move(parsed.manifest);
    if (!IsArtifact(manifest_parsed_)) PrefetchIndex(manifest_.digest);  // one has no index
    if (depth > 0 || request_.listed_by.empty() || !request_.reference.digest.has_value()) {
      return GetConfig();
    }
    source_->GetManifest(
        request_.listed_by, context_.cancel,
        [self = shared_from_this()](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
          self->Check(self->OnListedBy(std::move(fetched)));
        });
    return absl::OkStatus();
  }

  // Keeps the index if it lists the manifest; the tag may name another image by now.
  absl::Status OnListedBy(absl::StatusOr<ImageSource::FetchedManifest> fetched) {
    if (absl::IsNotFound(fetched.status())) return GetConfig();
    IMAGEFS_RETURN_IF_ERROR(fetched.status());
    const absl::StatusOr<ManifestOrIndex> parsed =
        ParseManifest(fetched->bytes, fetched->content_type);
    if (!parsed.ok() || !parsed->index.has_value()) return GetConfig();
    const std::vector<Descriptor>& entries = parsed->index->manifests;
    if (std::any_of(entries.begin(), entries.end(),
                    [this](const Descriptor& entry) { return entry.digest == manifest_.digest; })) {
      KeepIndex(*fetched);
    }
    return GetConfig();
  }

  void KeepIndex(const ImageSource::FetchedManifest& index) {
    index_digest_ = index.digest;
    index_type_ = index.content_type;
    index_bytes_ = index.bytes.size();
  }

  absl::Status GetConfig() {
    const Digest& config = manifest_parsed_.config.digest;
    if (config == Sha256Of(kEmptyConfig)) return OnConfig(std::string(kEmptyConfig));
    absl::StatusOr<std::optional<std::string>> known =
        kv_.Get(StrCat(kConfigKeyPrefix, config.hex()));
    if (known.ok() && known->has_value() && Sha256Of(**known) == config) {
      return OnConfig(**std::move(known));
    }
    source_->GetSmallBlob(manifest_parsed_.config, kMaxConfigBytes, context_.cancel,
                          [self = shared_from_this()](absl::StatusOr<std::string> config) {
                            self->Check(self->OnConfig(std::move(config)));
                          });
    return absl::OkStatus();
  }

  absl::Status OnIndex(ImageIndex index, int depth) {
    if (depth >= kMaxIndexDepth) {
      return absl::InvalidArgumentError("image indexes are nested too deeply");
    }
    IMAGEFS_ASSIGN_OR_RETURN(const Descriptor chosen, ChoosePlatform(index, request_.platform));
    if (!MayHoldAnyPlatform(chosen)) {
      PrefetchIndex(chosen.digest);
      GetManifest(chosen.digest.ToString(), depth + 1);
      return absl::OkStatus();
    }
    // Another nested index may have a better match, so all are read.
    index_ = std::move(index);
    index_at_ = 0;
    flat_ = ImageIndex();
    return Flatten(depth + 1);
  }

  // Moves the entries of index_ to flat_, replacing nested indexes (which are fetched) by their
  // entries; then chooses from flat_.
  absl::Status Flatten(int depth) {
    while (index_at_ < index_.manifests.size()) {
      Descriptor& entry = index_.manifests[index_at_++];
      if (!MayHoldAnyPlatform(entry)) {
        flat_.manifests.push_back(std::move(entry));
        continue;
      }
      if (++nested_indexes_ > kMaxNestedIndexes) {
        return absl::InvalidArgumentError(
            StrCat("more than ", kMaxNestedIndexes, " image indexes inside its index"));
      }
      source_->GetManifest(
          entry.digest.ToString(), context_.cancel,
          [self = shared_from_this(), depth](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
            self->Check(self->OnNestedIndex(std::move(fetched), depth));
          });
      return absl::OkStatus();
    }
    return OnIndex(std::move(flat_), depth);
  }

  absl::Status OnNestedIndex(absl::StatusOr<ImageSource::FetchedManifest> fetched, int depth) {
    IMAGEFS_RETURN_IF_ERROR(fetched.status());
    IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                             ParseManifest(fetched->bytes, fetched->content_type));
    if (!parsed.index.has_value()) {
      return absl::InvalidArgumentError(StrCat("its index lists ", fetched->digest.ToString(),
                                               " as an index, but it is not one"));
    }
    for (Descriptor& entry : parsed.index->manifests) flat_.manifests.push_back(std::move(entry));
    return Flatten(depth);
  }

  absl::Status OnConfig(absl::StatusOr<std::string> config) {
    IMAGEFS_RETURN_IF_ERROR(config.status());
    IMAGEFS_ASSIGN_OR_RETURN(
        ResolvedImage image,
        MakeResolvedImage(request_.reference.ToString(), index_digest_, std::move(manifest_.bytes),
                          manifest_.content_type, *std::move(config), request_.platform));
    image.index_type = index_type_;
    image.index_bytes = index_bytes_;
    context_.finish(std::make_shared<const ResolvedImage>(std::move(image)));
    return absl::OkStatus();
  }

  const ResolveRequest request_;
  const std::shared_ptr<ImageSource> source_;
  const KeyValueStore& kv_;
  IndexFinder& finder_;
  const ResolveContext context_;
  Digest index_digest_;  // what is kept of the index that the manifest came from
  std::string index_type_;
  uint64_t index_bytes_ = 0;
  ImageIndex index_, flat_;  // see Flatten
  size_t index_at_ = 0;
  int nested_indexes_ = 0;
  ImageSource::FetchedManifest manifest_;
  Manifest manifest_parsed_;
};

}  // namespace

void StartResolve(ResolveRequest request, std::shared_ptr<ImageSource> source,
                  const KeyValueStore& kv, IndexFinder& finder, ResolveContext context) {
  std::make_shared<ResolveJob>(std::move(request), std::move(source), kv, finder,
                               std::move(context))
      ->Start();
}

}  // namespace imagefs
