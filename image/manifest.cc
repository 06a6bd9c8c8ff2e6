// SPDX-License-Identifier: Apache-2.0
#include "image/manifest.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "image/artifact.h"

namespace imagefs {
namespace {

// Keeps sums over kMaxLayers sizes far below 2^63.
constexpr int64_t kMaxBlobBytes = int64_t{1} << 50;
constexpr size_t kMaxAnnotations = 10'000;

constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
constexpr std::string_view kDockerList =
    "application/vnd.docker.distribution.manifest.list.v2+json";
constexpr std::string_view kSchema1Prefix = "application/vnd.docker.distribution.manifest.v1+";
constexpr std::string_view kErofsRole = "org.erofs.role";
constexpr std::string_view kErofsOverlay = "overlay-lower";

bool IsManifestType(std::string_view type) {
  return type == kOciManifest || type == kDockerManifest;
}
bool IsIndexType(std::string_view type) { return type == kOciIndex || type == kDockerList; }

absl::Status Invalid(std::string_view what, std::string_view why) {
  return absl::InvalidArgumentError(StrCat(what, ": ", why));
}

// ---- Platforms ----

std::string NormalArchitecture(std::string_view architecture) {
  if (architecture == "x86_64" || architecture == "x86-64") return "amd64";
  if (architecture == "aarch64") return "arm64";
  if (architecture == "i386" || architecture == "i486" || architecture == "i586" ||
      architecture == "i686") {
    return "386";
  }
  if (architecture == "armhf" || architecture == "armel") return "arm";
  return std::string(architecture);
}

// Canonicalizes a platform: architecture aliases, and the default variant if none is given (v7 for
// arm, v8 for arm64, v1 for amd64).
Platform Normal(const Platform& platform) {
  Platform out = platform;
  out.os = ToLower(platform.os);
  out.architecture = NormalArchitecture(ToLower(platform.architecture));
  out.variant = ToLower(platform.variant);
  if (!out.variant.empty() && absl::ascii_isdigit(out.variant.front())) {
    out.variant.insert(0, "v");
  }
  if (out.variant.empty()) {
    if (out.architecture == "arm") out.variant = platform.architecture == "armel" ? "v6" : "v7";
    if (out.architecture == "arm64") out.variant = "v8";
    if (out.architecture == "amd64") out.variant = "v1";
  }
  return out;
}

// Returns the version of a variant "vN" or "vN.M" as N * 100 + M.
std::optional<int> VariantVersion(std::string_view variant) {
  if (!ConsumePrefix(&variant, "v")) return std::nullopt;
  const size_t dot = variant.find('.');
  const std::optional<uint64_t> major = ParseDecimal(variant.substr(0, dot));
  const std::optional<uint64_t> minor =
      dot == std::string_view::npos ? 0 : ParseDecimal(variant.substr(dot + 1));
  if (!major || !minor || *major > 99 || *minor > 99) return std::nullopt;
  return static_cast<int>(*major * 100 + *minor);
}

// Returns the distance of `have` from `want`: 0 for an exact match, more for a lesser variant that
// is still compatible, nullopt for an incompatible platform.
std::optional<int> Distance(const Platform& have_given, const Platform& want_given) {
  const Platform have = Normal(have_given);
  const Platform want = Normal(want_given);
  if (have.os != want.os || have.architecture != want.architecture) return std::nullopt;
  if (have.variant == want.variant) return 0;
  const std::optional<int> have_version = VariantVersion(have.variant);
  const std::optional<int> want_version = VariantVersion(want.variant);
  if (!have_version || !want_version || *have_version > *want_version) return std::nullopt;
  return *want_version - *have_version;
}

std::string Amd64Variant() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) return "";
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") ||
      !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("fma")) {
    return "v2";
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return "v3";
  }
  return "v4";
#else
  return "";
#endif
}

// ---- Descriptors ----

absl::StatusOr<std::map<std::string, std::string>> ParseAnnotations(const Json& json,
                                                                    std::string_view what) {
  std::map<std::string, std::string> out;
  if (json.size() > kMaxAnnotations) return Invalid(what, "too many annotations");
  if (!json.is_object()) return out;
  for (const auto& [key, value] : json.members()) {
    if (std::optional<std::string> text = value.string()) out[key] = *std::move(text);
  }
  return out;
}

std::vector<std::string> StringList(const Json& json) {
  std::vector<std::string> out;
  if (!json.is_array()) return out;
  for (const Json& element : json.elements()) {
    if (std::optional<std::string> text = element.string()) out.push_back(*std::move(text));
  }
  return out;
}

absl::StatusOr<Descriptor> ParseDescriptor(const Json& json, std::string_view what) {
  if (!json.is_object()) return Invalid(what, "it is missing or not an object");
  Descriptor out;
  out.media_type = json.StringOr("mediaType");
  if (out.media_type.empty()) return Invalid(what, "its mediaType is missing");
  const std::optional<std::string> digest = json["digest"].string();
  if (!digest) return Invalid(what, "its digest is missing");
  absl::StatusOr<Digest> parsed = Digest::Parse(*digest);
  if (!parsed.ok()) return Annotate(parsed.status(), what);
  out.digest = *parsed;
  const std::optional<int64_t> size = json["size"].integer();
  if (!size) return Invalid(what, "its size is missing or not a whole number");
  if (*size < 0 || *size > kMaxBlobBytes) {
    return Invalid(what, StrCat("a size of ", *size, " bytes is impossible"));
  }
  out.size = static_cast<uint64_t>(*size);
  out.artifact_type = json.StringOr("artifactType");
  if (const Json platform = json["platform"]; platform.is_object()) {
    out.platform = Platform{platform.StringOr("os"), platform.StringOr("architecture"),
                            platform.StringOr("variant")};
    out.os_features = StringList(platform["os.features"]);
  }
  IMAGEFS_ASSIGN_OR_RETURN(out.annotations, ParseAnnotations(json["annotations"], what));
  out.urls = StringList(json["urls"]);
  if (out.urls.size() > kMaxUrls) out.urls.resize(kMaxUrls);
  return out;
}

absl::StatusOr<Manifest> ParseImageManifest(const Json& root, std::string media_type) {
  Manifest out;
  out.media_type = std::move(media_type);
  IMAGEFS_ASSIGN_OR_RETURN(out.config, ParseDescriptor(root["config"], "manifest, config"));
  const Json layers = root["layers"];
  if (!layers.is_array()) return Invalid("manifest", "its list of layers is missing");
  if (layers.size() > kMaxLayers) {
    return Invalid("manifest", StrCat("it has ", layers.size(), " layers; at most ", kMaxLayers,
                                      " are supported"));
  }
  for (const Json& layer : layers.elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(
        Descriptor descriptor,
        ParseDescriptor(layer, StrCat("manifest, layer ", out.layers.size() + 1)));
    out.layers.push_back(std::move(descriptor));
  }
  IMAGEFS_ASSIGN_OR_RETURN(out.annotations, ParseAnnotations(root["annotations"], "manifest"));
  out.artifact_type = root.StringOr("artifactType");
  absl::StatusOr<Descriptor> subject = ParseDescriptor(root["subject"], "manifest, subject");
  if (subject.ok()) out.subject = *std::move(subject);
  return out;
}

absl::StatusOr<ImageIndex> ParseImageIndex(const Json& root, std::string media_type) {
  ImageIndex out;
  out.media_type = std::move(media_type);
  for (const Json& manifest : root["manifests"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(
        Descriptor descriptor,
        ParseDescriptor(manifest, StrCat("index, manifest ", out.manifests.size() + 1)));
    out.manifests.push_back(std::move(descriptor));
  }
  return out;
}

// Sent by servers that do not know manifests; the document then determines the type.
bool IsGenericContentType(std::string_view type) {
  return type.empty() || type == "application/json" || type == "application/octet-stream" ||
         type == "text/plain";
}

absl::Status RefuseSchema1() {
  return Invalid("manifest",
                 "docker's schema 1 is not supported; push the image again with a current client");
}

// Returns the type that the document declares, else that of the header or the document's shape.
// Interpreting one document in two ways is an attack, so header and document must agree on index or
// manifest. Docker and OCI types of the same kind are interchangeable; the document's type wins.
absl::StatusOr<std::string> TypeOfDocument(const Json& root, std::string_view content_type) {
  const std::string media_type = root.StringOr("mediaType");
  const bool generic = IsGenericContentType(content_type);
  if (content_type.starts_with(kSchema1Prefix) || media_type.starts_with(kSchema1Prefix) ||
      root["fsLayers"].exists() || root.IntOr("schemaVersion", 2) == 1) {
    return RefuseSchema1();
  }
  if (root["schemaVersion"].exists() && root.IntOr("schemaVersion", 0) != 2) {
    return Invalid("manifest", "its schemaVersion is not 2");
  }
  const bool same_kind = (IsManifestType(media_type) && IsManifestType(content_type)) ||
                         (IsIndexType(media_type) && IsIndexType(content_type));
  if (!generic && !media_type.empty() && media_type != content_type && !same_kind) {
    return Invalid("manifest", StrCat("it was announced as ", Printable(content_type),
                                      ", but its mediaType is ", Printable(media_type)));
  }
  const Json manifests = root["manifests"];
  const bool manifest_shape = root["layers"].exists() || root["config"].exists();
  // Go serializes an empty list as null.
  const bool index_shape = manifests.is_array() || (manifests.is_null() && !manifest_shape);
  if (index_shape && manifest_shape) {
    return Invalid("manifest", "it has both the members of an index and those of a manifest");
  }
  std::string type = !media_type.empty() ? media_type : generic ? "" : std::string(content_type);
  if (type.empty()) type = index_shape ? kOciIndex : manifest_shape ? kOciManifest : "";
  if (type.empty()) return Invalid("manifest", "it is neither an image manifest nor an index");
  if (!IsManifestType(type) && !IsIndexType(type)) {
    return Invalid("manifest", StrCat("the type ", Printable(type), " is not an image"));
  }
  if (IsIndexType(type) ? !index_shape : !manifest_shape) {
    return Invalid("manifest", StrCat("its content does not match its type ", Printable(type)));
  }
  return type;
}

// ---- Choosing and checking ----

// Artifacts that `cosign save` adds to a layout: signatures, attestations, SBOMs.
bool IsCosignArtifact(const Descriptor& descriptor) {
  const auto kind = descriptor.annotations.find("kind");
  if (kind == descriptor.annotations.end()) return false;
  std::string_view what = kind->second;
  return ConsumePrefix(&what, "dev.cosignproject.cosign/") && what != "image" &&
         what != "imageIndex";
}

bool HasPlatform(const Descriptor& descriptor) {
  return descriptor.platform && !descriptor.platform->os.empty();
}

// Returns the artifact in an index without images.
absl::StatusOr<Descriptor> OnlyArtifact(const ImageIndex& index, const Platform& want) {
  std::vector<const Descriptor*> found;
  for (const Descriptor& descriptor : index.manifests) {
    if (!MayBeArtifact(descriptor)) continue;
    if (HasPlatform(descriptor) && !Distance(*descriptor.platform, want)) continue;
    found.push_back(&descriptor);
  }
  if (found.size() == 1) return *found.front();
  if (found.empty()) return absl::NotFoundError("the index lists no image");
  return absl::NotFoundError(StrCat("the index lists ", found.size(),
                                    " artifacts; name one by its digest, for example @",
                                    found.front()->digest.ToString()));
}

absl::Status CheckPlatform(const ImageConfig& config, const Platform& want) {
  // A configuration without a platform is accepted.
  if (want.os.empty() || config.platform.os.empty()) return absl::OkStatus();
  Platform asked = want;
  // Old tools wrote the variant only into the index.
  if (config.platform.variant.empty()) asked.variant.clear();
  if (Distance(config.platform, asked)) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat(
      "the image is for ", Printable(config.platform.ToString()), ", not for ", want.ToString(),
      "; ask for it with --platform ", Printable(config.platform.ToString())));
}

absl::Status CheckLayer(const Descriptor& layer) {
  if (!IsErofsLayerType(layer.media_type)) {
    return CompressionOfMediaType(layer.media_type).status();
  }
  const auto role = layer.annotations.find(std::string(kErofsRole));
  if (role == layer.annotations.end() || role->second == kErofsOverlay) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("it is an EROFS image in the role \"", Printable(role->second),
             "\", which is not supported; ask for a variant of the image with plain layers"));
}

absl::Status CheckLayers(const Manifest& manifest, const ImageConfig& config) {
  if (manifest.layers.empty()) return absl::InvalidArgumentError("it has no layers to mount");
  if (manifest.layers.size() != config.diff_ids.size()) {
    return absl::InvalidArgumentError(StrCat("the manifest has ", manifest.layers.size(),
                                             " layers, but the configuration ",
                                             config.diff_ids.size(), " diff_ids"));
  }
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    if (absl::Status status = CheckLayer(manifest.layers[i]); !status.ok()) {
      return Annotate(status, StrCat("layer ", i + 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckConfigBytes(const Descriptor& config, std::string_view bytes) {
  if (bytes.size() != config.size) {
    return absl::DataLossError(StrCat("the configuration has ", bytes.size(),
                                      " bytes where the manifest says ", config.size));
  }
  if (const Digest digest = Sha256Of(bytes); digest != config.digest) {
    return absl::DataLossError(StrCat("the configuration has the digest ", digest.ToString(),
                                      " where the manifest says ", config.digest.ToString()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Platform> Platform::Parse(std::string_view text) {
  const std::vector<std::string_view> parts = Split(text, '/');
  bool good = parts.size() == 2 || parts.size() == 3;
  for (std::string_view part : parts) {
    good = good && !part.empty() && part.size() <= 64 &&
           std::all_of(part.begin(), part.end(), [](char c) {
             return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
           });
  }
  if (!good) {
    return absl::InvalidArgumentError(
        StrCat("invalid platform \"", Printable(text),
               "\": write OS/ARCHITECTURE[/VARIANT], for example linux/arm64/v8"));
  }
  Platform out;
  out.os = ToLower(parts[0]);
  out.architecture = NormalArchitecture(ToLower(parts[1]));
  if (parts.size() == 3) out.variant = ToLower(parts[2]);
  return out;
}

Platform Platform::Host() {
  struct utsname name {};
  const std::string machine = uname(&name) == 0 ? name.machine : "";
  Platform out{"linux", NormalArchitecture(machine), ""};
  if (out.architecture == "amd64") out.variant = Amd64Variant();
  if (out.architecture == "arm64") out.variant = "v8";
  if (machine.starts_with("armv")) {
    out.architecture = "arm";
    out.variant = StrCat("v", machine.substr(4, 1));
  }
  if (machine == "loongarch64") out.architecture = "loong64";
  return out;
}

bool Platform::Matches(const Platform& have) const {
  if (have.os.empty() && have.architecture.empty()) return true;
  return os == have.os && architecture == have.architecture &&
         (variant.empty() || have.variant.empty() || variant == have.variant);
}

std::string Platform::ToString() const {
  if (os.empty() && architecture.empty()) return "";
  std::string out = StrCat(os, "/", architecture);
  if (!variant.empty()) StrAppend(&out, "/", variant);
  return out;
}

bool IsErofsLayerType(std::string_view media_type) {
  for (const std::string_view base : {"application/vnd.erofs.layer.v1", "application/vnd.erofs"}) {
    std::string_view suffix = media_type;
    if (ConsumePrefix(&suffix, base) && (suffix.empty() || suffix == "+zstd")) return true;
  }
  return false;
}

absl::StatusOr<LayerCompression> CompressionOfMediaType(std::string_view media_type) {
  constexpr std::string_view kBases[] = {
      "application/vnd.oci.image.layer.v1.tar",
      "application/vnd.oci.image.layer.nondistributable.v1.tar",
      "application/vnd.docker.image.rootfs.diff.tar",
      "application/vnd.docker.image.rootfs.foreign.diff.tar",
  };
  for (std::string_view base : kBases) {
    std::string_view suffix = media_type;
    if (!ConsumePrefix(&suffix, base)) continue;
    if (suffix.empty()) return LayerCompression::kNone;
    if (suffix.ends_with("+encrypted")) {
      return absl::InvalidArgumentError(
          StrCat("the type ", Printable(media_type),
                 " is encrypted, which is not supported; decrypt the image first"));
    }
    // OCI uses '+', Docker '.'; each occurs with the other's types.
    if (suffix == "+gzip" || suffix == ".gzip") return LayerCompression::kGzip;
    if (suffix == "+zstd" || suffix == ".zstd") return LayerCompression::kZstd;
    return absl::InvalidArgumentError(
        StrCat("the compression of type ", Printable(media_type), " is not supported"));
  }
  return absl::InvalidArgumentError(
      StrCat("the type ", Printable(media_type), " is not a file-system layer"));
}

absl::StatusOr<ManifestOrIndex> ParseManifest(std::string_view bytes,
                                              std::string_view content_type) {
  if (content_type.starts_with(kSchema1Prefix)) return RefuseSchema1();
  if (bytes.size() > kMaxManifestBytes) {
    return Invalid("manifest", StrCat("it has ", bytes.size(), " bytes; at most ",
                                      kMaxManifestBytes, " are allowed"));
  }
  absl::StatusOr<Json> root = Json::Parse(bytes);
  if (!root.ok()) return Annotate(root.status(), "manifest");
  if (!root->is_object()) return Invalid("manifest", "it is not a JSON object");
  IMAGEFS_ASSIGN_OR_RETURN(std::string type, TypeOfDocument(*root, content_type));
  ManifestOrIndex out;
  if (IsIndexType(type)) {
    IMAGEFS_ASSIGN_OR_RETURN(out.index, ParseImageIndex(*root, std::move(type)));
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(out.manifest, ParseImageManifest(*root, std::move(type)));
  }
  return out;
}

bool MayBeArtifact(const Descriptor& descriptor) {
  if (descriptor.artifact_type.empty() || IsCosignArtifact(descriptor)) return false;
  return descriptor.annotations.count("vnd.docker.reference.type") == 0 &&
         IsManifestType(descriptor.media_type);
}

bool MayBeImage(const Descriptor& descriptor) {
  if (!descriptor.artifact_type.empty() || IsCosignArtifact(descriptor)) return false;
  if (descriptor.annotations.count("vnd.docker.reference.type") != 0) return false;
  if (descriptor.platform && descriptor.platform->os == "unknown" &&
      descriptor.platform->architecture == "unknown") {
    return false;
  }
  return IsManifestType(descriptor.media_type) || IsIndexType(descriptor.media_type);
}

bool MayBeImage(const Manifest& manifest) {
  return manifest.artifact_type.empty() && !IsArtifact(manifest) &&
         std::all_of(manifest.layers.begin(), manifest.layers.end(),
                     [](const Descriptor& layer) { return CheckLayer(layer).ok(); });
}

bool MayHoldAnyPlatform(const Descriptor& descriptor) {
  return IsIndexType(descriptor.media_type) && MayBeImage(descriptor) && !HasPlatform(descriptor);
}

absl::StatusOr<Descriptor> ChoosePlatform(const ImageIndex& index, const Platform& want) {
  const Descriptor* best = nullptr;
  std::optional<int> best_distance;
  const Descriptor* nested = nullptr;      // may contain any platform
  const Descriptor* unlabelled = nullptr;  // may be any platform: the configuration will tell
  std::vector<std::string> offered;
  for (const Descriptor& descriptor : index.manifests) {
    if (!MayBeImage(descriptor)) continue;
    if (want.os.empty()) return descriptor;
    if (!HasPlatform(descriptor)) {
      const Descriptor*& first = IsIndexType(descriptor.media_type) ? nested : unlabelled;
      if (first == nullptr) first = &descriptor;
      continue;
    }
    offered.push_back(Printable(descriptor.platform->ToString()));
    std::optional<int> distance = Distance(*descriptor.platform, want);
    // Between equals: a tar can be mounted before it is fetched, a native EROFS layer cannot.
    if (distance) *distance = 2 * *distance + (descriptor.os_features.empty() ? 0 : 1);
    if (distance && (!best_distance || *distance < *best_distance)) {
      best = &descriptor;
      best_distance = distance;
    }
  }
  if (best == nullptr) best = nested != nullptr ? nested : unlabelled;
  if (best != nullptr) return *best;
  if (offered.empty()) return OnlyArtifact(index, want);
  std::sort(offered.begin(), offered.end());
  offered.erase(std::unique(offered.begin(), offered.end()), offered.end());
  constexpr size_t kMostListed = 30;
  std::string more;
  if (offered.size() > kMostListed) {
    more = StrCat(" and ", offered.size() - kMostListed, " more");
    offered.resize(kMostListed);
  }
  return absl::NotFoundError(StrCat("there is no image for ", want.ToString(),
                                    "; choose one with --platform: ", absl::StrJoin(offered, ", "),
                                    more));
}

absl::StatusOr<ImageConfig> ParseImageConfig(std::string_view bytes) {
  constexpr std::string_view kWhat = "image configuration";
  if (bytes.size() > kMaxConfigBytes) {
    return Invalid(kWhat, StrCat("it has ", bytes.size(), " bytes; at most ", kMaxConfigBytes,
                                 " are allowed"));
  }
  absl::StatusOr<Json> root = Json::Parse(bytes);
  if (!root.ok()) return Annotate(root.status(), kWhat);
  if (!root->is_object()) return Invalid(kWhat, "it is not a JSON object");
  ImageConfig out;
  out.platform =
      Platform{root->StringOr("os"), root->StringOr("architecture"), root->StringOr("variant")};
  out.created = root->StringOr("created");
  const Json rootfs = (*root)["rootfs"];
  if (!rootfs.is_object()) return Invalid(kWhat, "its rootfs is missing");
  if (rootfs.StringOr("type", "layers") != "layers") {
    return Invalid(kWhat, StrCat("a rootfs of type ", Printable(rootfs.StringOr("type")),
                                 " is not supported"));
  }
  const Json diff_ids = rootfs["diff_ids"];
  if (diff_ids.is_array() && diff_ids.size() > kMaxLayers) {
    return Invalid(kWhat, StrCat("it has ", diff_ids.size(), " diff_ids; at most ", kMaxLayers,
                                 " are supported"));
  }
  if (diff_ids.is_array()) {
    for (const Json& element : diff_ids.elements()) {
      const std::string what = StrCat(kWhat, ", diff_id ", out.diff_ids.size() + 1);
      const std::optional<std::string> text = element.string();
      if (!text) return Invalid(what, "it is not a string");
      absl::StatusOr<Digest> digest = Digest::Parse(*text);
      if (!digest.ok()) return Annotate(digest.status(), what);
      out.diff_ids.push_back(*digest);
    }
  }
  const Json config = (*root)["config"];
  out.env = StringList(config["Env"]);
  out.entrypoint = StringList(config["Entrypoint"]);
  out.cmd = StringList(config["Cmd"]);
  out.working_dir = config.StringOr("WorkingDir");
  out.user = config.StringOr("User");
  return out;
}

std::vector<Digest> ChainIds(const std::vector<Digest>& diff_ids) {
  std::vector<Digest> out;
  out.reserve(diff_ids.size());
  for (const Digest& diff_id : diff_ids) {
    out.push_back(out.empty() ? diff_id
                              : Sha256Of(StrCat(out.back().ToString(), " ", diff_id.ToString())));
  }
  return out;
}

namespace {

absl::Status FillImage(const Platform& want, ResolvedImage& out) {
  IMAGEFS_RETURN_IF_ERROR(CheckConfigBytes(out.manifest.config, out.config_json));
  IMAGEFS_ASSIGN_OR_RETURN(out.config, ParseImageConfig(out.config_json));
  IMAGEFS_RETURN_IF_ERROR(CheckLayers(out.manifest, out.config));
  IMAGEFS_RETURN_IF_ERROR(CheckPlatform(out.config, want));
  out.chain_ids = ChainIds(out.config.diff_ids);
  out.forms.resize(out.manifest.layers.size());
  for (size_t i = 0; i < out.forms.size(); ++i) {
    if (!IsErofsLayerType(out.manifest.layers[i].media_type)) continue;
    Digest& diff_id = out.config.diff_ids[i];
    out.forms[i].kind = LayerForm::Kind::kErofs;
    out.forms[i].content = diff_id;
    diff_id = NameOfForm(out.forms[i], diff_id);
  }
  return absl::OkStatus();
}

absl::Status FillArtifact(ResolvedImage& out) {
  IMAGEFS_RETURN_IF_ERROR(CheckConfigBytes(out.manifest.config, out.config_json));
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<ArtifactLayer> layers,
                           LayersOfArtifact(out.manifest, out.config_json));
  out.artifact_type = ArtifactTypeOf(out.manifest);
  out.manifest.layers.clear();
  for (ArtifactLayer& layer : layers) {
    out.config.diff_ids.push_back(NameOfForm(layer.form, layer.blob.digest));
    out.manifest.layers.push_back(std::move(layer.blob));
    out.forms.push_back(std::move(layer.form));
  }
  out.chain_ids = ChainIds(out.config.diff_ids);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ResolvedImage> MakeResolvedImage(std::string reference, Digest index_digest,
                                                std::string manifest_json,
                                                std::string_view content_type,
                                                std::string config_json, const Platform& want) {
  ResolvedImage out;
  absl::StatusOr<ManifestOrIndex> document = ParseManifest(manifest_json, content_type);
  if (!document.ok()) return Annotate(document.status(), reference);
  if (!document->manifest) return Invalid(reference, "an index where a manifest was expected");
  out.manifest = *std::move(document->manifest);
  out.manifest_digest = Sha256Of(manifest_json);
  out.index_digest = index_digest;
  out.content_type = out.manifest.media_type;
  out.manifest_json = std::move(manifest_json);
  out.config_json = std::move(config_json);
  const absl::Status status = IsArtifact(out.manifest) ? FillArtifact(out) : FillImage(want, out);
  if (!status.ok()) return Annotate(status, reference);
  out.reference = std::move(reference);
  return out;
}

}  // namespace imagefs
