// Manifests, indexes and image configurations of OCI (image-spec) and Docker (schema 2), parsed
// from hostile bytes into checked values. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

inline constexpr uint64_t kMaxManifestBytes = 4 << 20;  // what registries and containerd allow
inline constexpr uint64_t kMaxConfigBytes = 8 << 20;
inline constexpr size_t kMaxLayers = 1000;

struct Platform {
  std::string os;
  std::string architecture;
  std::string variant;
  static absl::StatusOr<Platform> Parse(std::string_view text);  // "linux/arm64/v8"
  static Platform Host();
  std::string ToString() const;
  bool operator==(const Platform&) const = default;
};

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::optional<Platform> platform;
  std::string artifact_type;
  std::map<std::string, std::string> annotations;
  // Where the bytes may be as well, at most kMaxUrls, in the order of asking; unchecked text. Of
  // layers that may not be pushed to every registry (nondistributable, foreign).
  std::vector<std::string> urls;
};
inline constexpr size_t kMaxUrls = 8;

enum class LayerCompression { kUnknown, kNone, kGzip, kZstd };

// What the media type says about a layer; the bytes have the last word (image/decompress.h).
// Error for encrypted layers and for types that are no file-system layer.
absl::StatusOr<LayerCompression> CompressionOfMediaType(std::string_view media_type);

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;  // bottom first
  std::map<std::string, std::string> annotations;
  // Of artifacts (image-spec 1.1), as written: "" when absent. Layers of artifacts have any type.
  std::string artifact_type;
  // What the artifact belongs to. Images may have one too and are mounted whatever it says, so one
  // that is no descriptor reads as absent.
  std::optional<Descriptor> subject;
};

struct ImageIndex {
  std::string media_type;
  std::vector<Descriptor> manifests;
};

// One document that may be either; exactly one member is set.
struct ManifestOrIndex {
  std::optional<Manifest> manifest;
  std::optional<ImageIndex> index;
};

// `content_type` is what a registry's header or a descriptor says, without parameters, "" when
// unknown. An index that is announced as a manifest or the other way round, schema 1, and a
// document of neither shape are refused; OCI's type and docker's of the same thing may stand for
// each other.
absl::StatusOr<ManifestOrIndex> ParseManifest(std::string_view bytes,
                                              std::string_view content_type);

// False for what an index lists beside images: attestations ("unknown/unknown"), artifacts,
// signatures. True promises nothing.
bool MayBeImage(const Descriptor& descriptor);
// The same of the manifest itself, which also tells an artifact that its descriptor does not name.
bool MayBeImage(const Manifest& manifest);

// The best manifest of an index for `want`: variants fall back (arm v7 > v6 > v5, amd64 v1..), what
// is no image (MayBeImage) never matches. What names no platform is a last resort, nested indexes
// before manifests. The error lists what there is.
absl::StatusOr<Descriptor> ChoosePlatform(const ImageIndex& index, const Platform& want);

// An index inside an index that names no platform: any image may be in it. When one is chosen, the
// entries of all such indexes are to be put in their places, and the choice made again.
bool MayHoldAnyPlatform(const Descriptor& descriptor);

struct ImageConfig {
  Platform platform;
  std::vector<Digest> diff_ids;  // bottom first
  std::string created;           // RFC 3339, as given
  std::vector<std::string> env, entrypoint, cmd;
  std::string working_dir, user;
};

absl::StatusOr<ImageConfig> ParseImageConfig(std::string_view bytes);

// ChainIDs of the prefixes 1..n (image-spec, config.md, Layer ChainID).
std::vector<Digest> ChainIds(const std::vector<Digest>& diff_ids);

// Everything about one image for one platform, checked against itself: at least one layer, as many
// diff_ids as layers, every layer a known type, the platform as asked.
struct ResolvedImage {
  std::string reference;   // canonical text
  Digest manifest_digest;  // of the platform's manifest
  Digest index_digest;     // of the index it came from; empty() when there was none
  std::string content_type;
  std::string manifest_json;  // exact bytes
  std::string config_json;    // exact bytes
  Manifest manifest;
  ImageConfig config;
  std::vector<Digest> chain_ids;
  // The names under which the store that recorded the image has its layers (cache/identity.h);
  // empty where it comes from elsewhere.
  std::vector<Digest> layer_ids;
  const Digest& chain_id() const { return chain_ids.back(); }
};

// An empty `want.os` = do not check the platform.
absl::StatusOr<ResolvedImage> MakeResolvedImage(std::string reference, Digest index_digest,
                                                std::string manifest_json,
                                                std::string_view content_type,
                                                std::string config_json, const Platform& want);

}  // namespace imagefs
