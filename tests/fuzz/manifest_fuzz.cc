// SPDX-License-Identifier: Apache-2.0
// Manifests, indexes and configurations from hostile bytes. The first line of the input is the
// content type.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "image/artifact.h"
#include "image/manifest.h"

namespace {

// Whatever the annotations say, each file has a place of its own inside the root.
void Artifact(const imagefs::Manifest& manifest, std::string_view config) {
  imagefs::IsArtifact(manifest);
  const auto layers = imagefs::LayersOfArtifact(manifest, config);
  if (!layers.ok()) return;
  if (layers->empty() || layers->size() > manifest.layers.size()) abort();
  std::set<std::string> paths;
  for (const imagefs::ArtifactLayer& layer : *layers) {
    if (layer.form.kind != imagefs::LayerForm::Kind::kFile) continue;
    if (!imagefs::CheckFilePath(layer.form.file.path).ok()) abort();
    if (!paths.insert(layer.form.file.path).second) abort();
    if (!imagefs::FileTree(layer.form.file, layer.blob.size).ok() && layer.blob.size <= uint64_t{1}
                                                                                            << 40) {
      abort();
    }
    imagefs::JsonWriter writer;
    imagefs::WriteForm(layer.form, writer);
    const auto json = imagefs::Json::Parse(writer.Take());
    if (!json.ok() || !imagefs::ReadForm(*json).ok()) abort();
  }
}

void Manifest(std::string_view content_type, std::string_view body) {
  absl::StatusOr<imagefs::ManifestOrIndex> parsed = imagefs::ParseManifest(body, content_type);
  if (!parsed.ok()) return;
  if (parsed->manifest.has_value() == parsed->index.has_value()) abort();
  if (parsed->manifest) {
    if (parsed->manifest->layers.size() > imagefs::kMaxLayers) abort();
    for (const imagefs::Descriptor& layer : parsed->manifest->layers) {
      imagefs::CompressionOfMediaType(layer.media_type).IgnoreError();
    }
    Artifact(*parsed->manifest, body);
    // The configuration's digest cannot be hit, so this ends at that check.
    imagefs::MakeResolvedImage("fuzz", imagefs::Digest(), std::string(body), content_type,
                               std::string(body), imagefs::Platform())
        .IgnoreError();
    return;
  }
  for (const char* platform : {"linux/amd64/v3", "linux/arm64", "linux/arm"}) {
    absl::StatusOr<imagefs::Descriptor> chosen =
        imagefs::ChoosePlatform(*parsed->index, *imagefs::Platform::Parse(platform));
    if (!chosen.ok() || chosen->artifact_type.empty()) continue;
    for (const imagefs::Descriptor& other : parsed->index->manifests) {
      if (imagefs::MayBeImage(other)) abort();  // which would have been meant
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = input.find('\n');
  if (line == std::string_view::npos) return 0;
  const std::string_view content_type = input.substr(0, line);
  const std::string_view body = input.substr(line + 1);
  Manifest(content_type, body);
  absl::StatusOr<imagefs::ImageConfig> config = imagefs::ParseImageConfig(body);
  if (config.ok() && imagefs::ChainIds(config->diff_ids).size() != config->diff_ids.size()) abort();
  imagefs::Platform::Parse(content_type).IgnoreError();
  return 0;
}
