// SPDX-License-Identifier: Apache-2.0
// OCI (image-spec) and Docker (schema 2) manifests, indexes and image configurations, parsed from
// untrusted bytes into validated values. Pure functions. image/artifact.h has the rules for
// artifacts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "image/layer_form.h"

namespace imagefs {

inline constexpr uint64_t kMaxManifestBytes = 4 << 20;  // the limit of registries and containerd
inline constexpr uint64_t kMaxConfigBytes = 8 << 20;
inline constexpr size_t kMaxLayers = 1000;

struct Platform {
  std::string os;
  std::string architecture;
  std::string variant;
  static absl::StatusOr<Platform> Parse(std::string_view text);  // "linux/arm64/v8"
  static Platform Host();
  std::string ToString() const;  // "" without a platform
  bool operator==(const Platform&) const = default;
  // Whether an image of the platform `have` serves; a missing variant matches any variant. An
  // artifact, which has no platform, serves all.
  bool Matches(const Platform& have) const;
};

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::optional<Platform> platform;
  std::vector<std::string> os_features;  // of the platform
  std::string artifact_type;
  std::map<std::string, std::string> annotations;
  // Alternative locations of the bytes, at most kMaxUrls, in order of preference; not validated.
  // Used by layers that may not be pushed to every registry (nondistributable, foreign).
  std::vector<std::string> urls;
};
inline constexpr size_t kMaxUrls = 8;

enum class LayerCompression { kUnknown, kNone, kGzip, kZstd };

// True for the types of a native EROFS layer, plain or compressed (erofs-image-spec).
bool IsErofsLayerType(std::string_view media_type);

// Returns a layer's compression according to its media type; the bytes are authoritative
// (image/decompress.h). Returns an error for encrypted layers and for types that are not
// file-system layers.
absl::StatusOr<LayerCompression> CompressionOfMediaType(std::string_view media_type);

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;  // bottom first
  std::map<std::string, std::string> annotations;
  // For artifacts (image-spec 1.1), verbatim: "" if absent. Layers of artifacts may have any type.
  std::string artifact_type;
  // The manifest that the artifact refers to. Images may have one too, and can be mounted
  // regardless, so an invalid descriptor reads as absent.
  std::optional<Descriptor> subject;
};

struct ImageIndex {
  std::string media_type;
  std::vector<Descriptor> manifests;
};

// A document that may be either; exactly one member is set.
struct ManifestOrIndex {
  std::optional<Manifest> manifest;
  std::optional<ImageIndex> index;
};

// `content_type` comes from a registry's header or a descriptor, without parameters; "" if unknown.
// Rejects an index announced as a manifest (and vice versa), schema 1, and documents of neither
// kind. The OCI and Docker types of the same kind are interchangeable.
absl::StatusOr<ManifestOrIndex> ParseManifest(std::string_view bytes,
                                              std::string_view content_type);

// False for entries of an index that are not images: attestations ("unknown/unknown"), artifacts,
// signatures. True guarantees nothing.
bool MayBeImage(const Descriptor& descriptor);
// The same for the manifest itself, which also detects artifacts that the descriptor does not
// declare.
bool MayBeImage(const Manifest& manifest);
// True for an entry that declares an artifact which stands for itself. Signatures, attestations and
// the like accompany an image and are not meant.
bool MayBeArtifact(const Descriptor& descriptor);

// Returns the best manifest in an index for `want`. Variants fall back (arm v7 > v6 > v5, amd64
// v1..), and an image that needs no os.features comes before one that does; entries that are not
// images (MayBeImage) never match; entries without a platform are a last resort, nested indexes
// before manifests. An index without any image may list one artifact. The error lists the available
// platforms.
absl::StatusOr<Descriptor> ChoosePlatform(const ImageIndex& index, const Platform& want);

// True for a nested index without a platform, which may contain any image. If ChoosePlatform
// returns one, replace all such indexes by their entries and choose again.
bool MayHoldAnyPlatform(const Descriptor& descriptor);

struct ImageConfig {
  Platform platform;
  // Bottom first. In a ResolvedImage, a layer of another form than a tar has its NameOfForm here.
  std::vector<Digest> diff_ids;
  std::string created;  // RFC 3339, verbatim
  std::vector<std::string> env, entrypoint, cmd;
  std::string working_dir, user;
};

absl::StatusOr<ImageConfig> ParseImageConfig(std::string_view bytes);

// ChainIDs of the prefixes 1..n (image-spec, config.md, Layer ChainID).
std::vector<Digest> ChainIds(const std::vector<Digest>& diff_ids);

// Everything about one image for one platform, checked for consistency: at least one layer, as many
// diff_ids as layers, every layer of a known type, the requested platform. Or about one artifact,
// whose manifest has only the layers that are shown, and whose configuration is otherwise empty.
struct ResolvedImage {
  std::string reference;     // canonical text
  Digest manifest_digest;    // of the platform's manifest
  Digest index_digest;       // of the index it came from; empty() if none
  std::string index_type;    // its media type; "" if not known
  uint64_t index_bytes = 0;  // its size; 0 if not known
  std::string content_type;
  std::string manifest_json;  // exact bytes
  std::string config_json;    // exact bytes
  Manifest manifest;
  ImageConfig config;
  std::string artifact_type;      // of an artifact (ArtifactTypeOf); "" = an image
  std::vector<LayerForm> forms;   // one per layer; empty: each is a tar
  std::vector<Digest> chain_ids;  // from the DiffIDs of the configuration, as runtimes know them
  // Ids of the layers in the store that recorded the image (cache/identity.h); empty if it comes
  // from elsewhere.
  std::vector<Digest> layer_ids;
  const Digest& chain_id() const { return chain_ids.back(); }
  LayerForm FormOf(size_t layer) const { return forms.empty() ? LayerForm() : forms[layer]; }
};

// Does not check the platform if `want.os` is empty.
absl::StatusOr<ResolvedImage> MakeResolvedImage(std::string reference, Digest index_digest,
                                                std::string manifest_json,
                                                std::string_view content_type,
                                                std::string config_json, const Platform& want);

}  // namespace imagefs
