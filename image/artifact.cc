// SPDX-License-Identifier: Apache-2.0
#include "image/artifact.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "image/rfc3339.h"

namespace imagefs {
namespace {

constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
constexpr std::string_view kEmptyType = "application/vnd.oci.empty.v1+json";

// Annotations of ModelPack layers, under the names of the specification and of its first versions.
constexpr std::string_view kModelPath = "org.cncf.model.filepath";
constexpr std::string_view kOldModelPath = "org.cnai.model.filepath";
constexpr std::string_view kModelMetadata = "org.cncf.model.file.metadata+json";
constexpr std::string_view kOldModelMetadata = "org.cnai.model.file.metadata+json";
// Annotations of ORAS.
constexpr std::string_view kTitle = "org.opencontainers.image.title";
constexpr std::string_view kUnpack = "io.deis.oras.content.unpack";
constexpr std::string_view kUnpackedDigest = "io.deis.oras.content.digest";

constexpr std::string_view kHelmChart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
constexpr std::string_view kHelmProvenance = "application/vnd.cncf.helm.chart.provenance.v1.prov";

constexpr size_t kMaxMetadataBytes = 64 << 10;
constexpr uint32_t kPermissions = 0777;
constexpr uint32_t kMaxId = std::numeric_limits<uint32_t>::max() - 1;  // -1 is no owner

// The value of the first of these annotations that is there; "" if none is.
std::string Annotation(const Descriptor& blob, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const auto found = blob.annotations.find(std::string(name));
    if (found != blob.annotations.end()) return found->second;
  }
  return "";
}

bool IsTarType(std::string_view type) {
  return type.ends_with(".tar") || type.ends_with(".tar+gzip") || type.ends_with(".tar+zstd") ||
         type.ends_with(".tar.gzip") || type.ends_with(".tar.zstd");
}

// As `helm pull` names the files of a chart.
std::string HelmPath(const Descriptor& blob, std::string_view config) {
  const absl::StatusOr<Json> chart = Json::Parse(config);
  if (!chart.ok()) return "";
  const std::string name = chart->StringOr("name"), version = chart->StringOr("version");
  if (name.empty() || version.empty()) return "";
  const std::string path = StrCat(name, "-", version, ".tgz");
  if (path.find('/') != std::string::npos) return "";
  if (blob.media_type == kHelmChart) return path;
  return blob.media_type == kHelmProvenance ? path + ".prov" : "";
}

absl::StatusOr<uint32_t> Number(const Json& json, std::string_view key, uint32_t fallback,
                                uint32_t most = std::numeric_limits<uint32_t>::max()) {
  if (!json[key].exists()) return fallback;
  const int64_t number = json.IntOr(key, -1);
  if (number < 0 || number > most) {
    return absl::InvalidArgumentError(StrCat("its file metadata has an impossible ", key));
  }
  return static_cast<uint32_t>(number);
}

// Applies ModelPack's metadata. Bits that give a program privileges are no part of a model.
absl::Status ApplyMetadata(const std::string& text, uint64_t blob_bytes, FileLabel& file) {
  const absl::StatusOr<Json> json = text.size() > kMaxMetadataBytes
                                        ? absl::InvalidArgumentError("it is too long")
                                        : Json::Parse(text);
  if (!json.ok() || !json->is_object()) {
    return absl::InvalidArgumentError("its file metadata is not a JSON object");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const uint32_t type, Number(*json, "typeflag", '0'));
  if (type != '0' && type != 0) {
    return absl::InvalidArgumentError("its file metadata does not describe a regular file");
  }
  IMAGEFS_ASSIGN_OR_RETURN(file.mode, Number(*json, "mode", file.mode));
  file.mode &= kPermissions;
  IMAGEFS_ASSIGN_OR_RETURN(file.uid, Number(*json, "uid", 0, kMaxId));
  IMAGEFS_ASSIGN_OR_RETURN(file.gid, Number(*json, "gid", 0, kMaxId));
  if ((*json)["size"].exists()) {
    const int64_t size = json->IntOr("size", -1);
    if (size < 0 || static_cast<uint64_t>(size) != blob_bytes) {
      return absl::InvalidArgumentError(StrCat("its file metadata says another size than the ",
                                               blob_bytes, " bytes of its blob"));
    }
  }
  const std::optional<FileTime> time = ParseRfc3339(json->StringOr("mtime"));
  if (!time.has_value()) {
    return absl::InvalidArgumentError("its file metadata has an impossible mtime");
  }
  file.mtime_seconds = time->seconds;
  file.mtime_nanoseconds = time->nanoseconds;
  return absl::OkStatus();
}

absl::StatusOr<LayerForm> TarForm(const Descriptor& blob) {
  LayerForm form;
  form.kind = LayerForm::Kind::kBlobTar;
  if (const std::string text = Annotation(blob, {kUnpackedDigest}); !text.empty()) {
    absl::StatusOr<Digest> digest = Digest::Parse(text);
    if (!digest.ok()) return Annotate(digest.status(), kUnpackedDigest);
    form.content = *digest;
  }
  return form;
}

absl::StatusOr<LayerForm> FormOf(const Descriptor& blob, std::string_view config) {
  const std::string model_path = Annotation(blob, {kModelPath, kOldModelPath});
  const std::string title = Annotation(blob, {kTitle});
  const bool helm = blob.media_type == kHelmChart || blob.media_type == kHelmProvenance;
  // A tar of ModelPack has its path inside as well. Of ORAS, a title alone makes a tar a file.
  const bool unpack =
      Annotation(blob, {kUnpack}) == "true" ||
      (IsTarType(blob.media_type) && !helm && (!model_path.empty() || title.empty()));
  if (unpack) return TarForm(blob);
  LayerForm form;
  form.kind = LayerForm::Kind::kFile;
  form.content = blob.digest;
  std::string& path = form.file.path;
  path = !model_path.empty() ? model_path : title;
  if (path.empty() && helm) path = HelmPath(blob, config);
  if (path.empty()) path = StrCat("sha256-", blob.digest.hex());
  if (path.starts_with("./")) path.erase(0, 2);
  IMAGEFS_RETURN_IF_ERROR(CheckFilePath(path));
  const std::string metadata = Annotation(blob, {kModelMetadata, kOldModelMetadata});
  if (!metadata.empty()) IMAGEFS_RETURN_IF_ERROR(ApplyMetadata(metadata, blob.size, form.file));
  return form;
}

// Each file must have a path of its own, and none may be below another.
absl::Status CheckPaths(const std::vector<ArtifactLayer>& layers) {
  std::vector<std::string> paths;
  for (const ArtifactLayer& layer : layers) {
    if (layer.form.kind == LayerForm::Kind::kFile) paths.push_back(layer.form.file.path);
  }
  // With NUL for the slash, what is below a path comes directly after it.
  for (std::string& path : paths) std::replace(path.begin(), path.end(), '/', '\0');
  std::sort(paths.begin(), paths.end());
  for (size_t i = 1; i < paths.size(); ++i) {
    std::string& upper = paths[i - 1];
    const bool same = paths[i] == upper;
    if (!same && !paths[i].starts_with(upper + '\0')) continue;
    std::replace(upper.begin(), upper.end(), '\0', '/');
    return absl::InvalidArgumentError(
        same ? StrCat("two blobs of the artifact have the path \"", Printable(upper), "\"")
             : StrCat("\"", Printable(upper), "\" is a file of the artifact and a directory"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsArtifact(const Manifest& manifest) {
  const std::string& type = manifest.config.media_type;
  // Registries contain images with this generic type from the early days of schema 2.
  if (type == "application/octet-stream") return !manifest.artifact_type.empty();
  return type != kOciConfig && type != kDockerConfig;
}

std::string ArtifactTypeOf(const Manifest& manifest) {
  if (!manifest.artifact_type.empty()) return manifest.artifact_type;
  return manifest.config.media_type;
}

absl::StatusOr<std::vector<ArtifactLayer>> LayersOfArtifact(const Manifest& manifest,
                                                            std::string_view config) {
  std::vector<ArtifactLayer> out;
  std::set<std::pair<std::string, std::string>> seen;  // blobs and forms
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    const Descriptor& blob = manifest.layers[i];
    if (blob.media_type == kEmptyType && Annotation(blob, {kTitle}).empty()) continue;
    absl::StatusOr<LayerForm> form = FormOf(blob, config);
    if (!form.ok()) return Annotate(form.status(), StrCat("blob ", i + 1, " of the artifact"));
    const Digest name = NameOfForm(*form, blob.digest);
    if (seen.emplace(blob.digest.hex(), name.hex()).second) {
      out.push_back({blob, *std::move(form)});
    }
  }
  if (out.empty()) return absl::InvalidArgumentError("the artifact has no files to mount");
  IMAGEFS_RETURN_IF_ERROR(CheckPaths(out));
  return out;
}

}  // namespace imagefs
