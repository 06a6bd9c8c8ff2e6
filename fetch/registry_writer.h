// One repository of a registry reached with one identity, to push to (OCI distribution-spec 1.1).
// Opened by SourceFactory::OpenWriter; must not be used after the factory is gone.
//
// Thread-safe. Asynchronous like ImageSource: methods return at once, `done` runs exactly once on
// the HTTP client's thread (inline allowed), with kCancelled when the token fires first. What may
// pass by itself has been retried with back-off before an error is delivered. A push that ends
// early leaves nothing that anybody can name; its open upload is deleted as far as possible.
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
#include "image/manifest.h"

namespace imagefs {

class RegistryWriter {
 public:
  virtual ~RegistryWriter() = default;

  // Gives exactly `length` bytes from `offset` of a blob; asked again for what has to be sent
  // again. May block on local disk only.
  using BlobBytes = std::function<absl::StatusOr<std::string>(uint64_t offset, uint64_t length)>;
  static BlobBytes FromMemory(std::string bytes);

  struct Blob {
    Digest digest;
    uint64_t size = 0;
    BlobBytes bytes;
    // A repository of the same registry that may have the blob: it is taken from there when the
    // registry does so and the user may read it. "" = none.
    std::string from;
  };
  struct PushedBlob {
    uint64_t sent_bytes = 0;  // 0 when the registry had the blob, and for a mount
    bool mounted = false;
  };
  using BlobDone = absl::AnyInvocable<void(absl::StatusOr<PushedBlob>)>;
  virtual void PushBlob(Blob blob, CancelToken cancel, BlobDone done) = 0;

  struct PushedManifest {
    Digest digest;
    // The registry lists the manifest under its subject by itself (OCI-Subject).
    bool listed = false;
  };
  using ManifestDone = absl::AnyInvocable<void(absl::StatusOr<PushedManifest>)>;
  // A digest must be that of `bytes`.
  virtual void PushManifest(const std::string& tag_or_digest, const std::string& media_type,
                            std::string bytes, CancelToken cancel, ManifestDone done) = 0;

  struct Layer {
    std::string media_type;
    std::map<std::string, std::string> annotations;
    Blob blob;
  };
  // A manifest of its own that belongs to the manifest `subject` of the same repository.
  struct Artifact {
    std::string artifact_type;
    Descriptor subject;  // media type, digest and size are written
    std::map<std::string, std::string> annotations;
    std::vector<Layer> layers;
  };
  struct PushedArtifact {
    Descriptor manifest;         // as the subject's list has it
    bool listed_by_tag = false;  // the registry has no list, so the tag sha256-<hex> was updated
    uint64_t sent_bytes = 0;     // of blobs
  };
  using ArtifactDone = absl::AnyInvocable<void(absl::StatusOr<PushedArtifact>)>;
  // Pushes the blobs, then the manifest by its digest, then, where the registry does not list it,
  // the tag that does. Nobody sees an artifact whose blobs are not all there. That tag is read,
  // changed and written, which two writers may do at once: it is read again and written again
  // until our entry is in it.
  virtual void PushArtifact(Artifact artifact, CancelToken cancel, ArtifactDone done) = 0;
};

// The manifest of an artifact: the same bytes for the same artifact. Pure.
std::string ArtifactManifest(const RegistryWriter::Artifact& artifact);

// `index` (a JSON text, "" = none yet) with the entry for `manifest` added, or put in place of the
// one of the same digest; what else is in it stays as it is, and `index` itself comes back when the
// entry is in it already. Error when it is no index. Pure.
absl::StatusOr<std::string> UpdateReferrersIndex(const std::string& index,
                                                 const Descriptor& manifest);

}  // namespace imagefs
