// SPDX-License-Identifier: Apache-2.0
// One repository of a registry, accessed with one identity, to push to (OCI distribution-spec 1.1).
// Opened by SourceFactory::OpenWriter. Must not outlive the factory.
//
// Thread-safe. Asynchronous like ImageSource: methods return immediately, `done` runs exactly once
// on the HTTP client's thread (inline allowed), with kCancelled if the token fires first. Transient
// errors have already been retried with backoff. A push that ends early leaves nothing that can be
// referenced; deleting its open upload is best effort.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "fetch/source.h"
#include "image/manifest.h"

namespace imagefs {

class RegistryWriter {
 public:
  virtual ~RegistryWriter() = default;

  // Returns exactly `length` bytes from `offset` of a blob; called again for bytes to be resent.
  // May block on local disk only.
  using BlobBytes = std::function<absl::StatusOr<std::string>(uint64_t offset, uint64_t length)>;
  static BlobBytes FromMemory(std::string bytes);

  struct Blob {
    Digest digest;
    uint64_t size = 0;
    BlobBytes bytes;
    // A repository of the same registry that may have the blob: it is mounted from there if the
    // registry supports that and the user may read it. "" = none.
    std::string from;
  };
  struct PushedBlob {
    uint64_t sent_bytes = 0;  // 0 if the registry had the blob, and for a mount
    bool mounted = false;
  };
  using BlobDone = absl::AnyInvocable<void(absl::StatusOr<PushedBlob>)>;
  virtual void PushBlob(Blob blob, CancelToken cancel, BlobDone done) = 0;

  struct PushedManifest {
    Digest digest;
    // The registry itself lists the manifest under its subject (OCI-Subject).
    bool listed = false;
  };
  using ManifestDone = absl::AnyInvocable<void(absl::StatusOr<PushedManifest>)>;
  // If a digest is given, it must be that of `bytes`.
  virtual void PushManifest(const std::string& tag_or_digest, const std::string& media_type,
                            std::string bytes, CancelToken cancel, ManifestDone done) = 0;

  struct Layer {
    std::string media_type;
    std::map<std::string, std::string> annotations;
    Blob blob;
  };
  // The same repository at the endpoint that is pushed to: what is there already, and not what a
  // mirror or a cache remembers.
  virtual std::shared_ptr<ImageSource> target() const = 0;

  // A separate manifest that refers to the manifest `subject` of the same repository.
  struct Artifact {
    std::string artifact_type;
    Descriptor subject;  // media type, digest and size are used
    std::map<std::string, std::string> annotations;
    std::vector<Layer> layers;
  };
  struct PushedArtifact {
    Descriptor manifest;  // as in the subject's list
    bool listed_by_tag =
        false;                // the registry has no such list, so the tag sha256-<hex> was updated
    uint64_t sent_bytes = 0;  // of blobs
  };
  using ArtifactDone = absl::AnyInvocable<void(absl::StatusOr<PushedArtifact>)>;
  // Pushes the blobs, then the manifest by its digest, then, if the registry does not list
  // referrers, the tag that does (fetch/referrers_tag.h). An artifact is never visible before all
  // its blobs are present.
  virtual void PushArtifact(Artifact artifact, CancelToken cancel, ArtifactDone done) = 0;
};

// Returns the manifest of an artifact. Pure and deterministic.
std::string ArtifactManifest(const RegistryWriter::Artifact& artifact);

// Returns `index` (JSON; "" = none yet) with the entry for `manifest` added, or replacing the one
// with the same digest, and the entries `more` (JSON), which it must not have. Keeps everything
// else; returns `index` unchanged if it already contains the entry. Returns an error if it is not
// an index. Pure.
absl::StatusOr<std::string> UpdateReferrersIndex(const std::string& index,
                                                 const Descriptor& manifest,
                                                 const std::vector<std::string>& more = {});

}  // namespace imagefs
