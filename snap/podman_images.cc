// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_images.h"

#include <algorithm>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/time/time.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxNameBytes = 255;  // of host and repository together
constexpr size_t kLinkLength = 26;     // as in podman's own

// Go rejects a whole file because of a single unparsable time, so times are always normalized.
std::string TimeText(const std::string& created, int64_t fallback_unix) {
  const absl::Time earliest = absl::FromUnixSeconds(0);
  const absl::Time latest = absl::FromUnixSeconds(int64_t{253402300799});  // end of the year 9999
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, created, &time, &error) || time < earliest ||
      time > latest) {
    time = std::clamp(absl::FromUnixSeconds(fallback_unix), earliest, latest);
  }
  return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone());
}

std::string LinkOf(const std::string& id) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const Digest hash = Sha256Of(StrCat("imagefs link ", id));
  std::string link;
  for (size_t i = 0; i < kLinkLength; ++i) link += kLetters[hash.bytes()[i] % kLetters.size()];
  return link;
}

}  // namespace

absl::StatusOr<std::string> PodmanName(const Reference& reference) {
  if (reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError(
        StrCat(reference.ToString(),
               " has no name that podman knows; give it one with --name localhost/NAME:TAG"));
  }
  // A single name that podman cannot parse prevents it from listing any image.
  const bool readable = !reference.host.starts_with('[') &&
                        reference.host.size() + 1 + reference.repository.size() <= kMaxNameBytes;
  if (!readable) {
    return absl::InvalidArgumentError(
        StrCat("podman cannot read the name ", Printable(reference.ToString()),
               " (an IPv6 address, or more than ", kMaxNameBytes,
               " characters); give the image another one with --name localhost/NAME:TAG"));
  }
  Reference name = reference;
  if (name.digest.has_value()) name.tag.clear();
  return name.ToString();
}

std::string PodmanImageId(const ResolvedImage& image) { return image.manifest.config.digest.hex(); }

std::vector<PodmanLayer> PodmanLayers(const ResolvedImage& image) {
  std::vector<PodmanLayer> out;
  for (size_t i = 0; i < image.chain_ids.size(); ++i) {
    PodmanLayer layer;
    layer.digest = Sha256Of(StrCat("imagefs layer ", i, " of ", image.chain_id().ToString()));
    layer.id = layer.digest.hex();
    if (i > 0) {
      layer.parent = out.back().id;
      layer.id = Sha256Of(StrCat(layer.parent, "+", layer.digest.hex())).hex();
    }
    layer.link = LinkOf(layer.id);
    out.push_back(std::move(layer));
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> PodmanDocuments(const PodmanImage& image) {
  std::vector<std::pair<std::string, std::string>> out;
  out.emplace_back("manifest", image.first().manifest_json);
  for (const auto& manifest : image.manifests) {
    out.emplace_back(StrCat("manifest-", manifest->manifest_digest.ToString()),
                     manifest->manifest_json);
  }
  out.emplace_back(image.first().manifest.config.digest.ToString(), image.first().config_json);
  return out;
}

std::string PodmanFileName(std::string_view key) {
  const bool plain = std::all_of(key.begin(), key.end(), [](char c) {
    return c == '.' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');
  });
  return plain ? std::string(key) : StrCat("=", absl::Base64Escape(ToAbsl(key)));
}

std::string PodmanImagesJson(absl::Span<const PodmanImage> images) {
  JsonWriter json;
  json.BeginArray();
  for (const PodmanImage& image : images) {
    const auto documents = PodmanDocuments(image);
    json.BeginObject()
        .Member("id", PodmanImageId(image.first()))
        .Member("digest", image.first().manifest_digest.ToString());
    json.Key("names").BeginArray();
    for (const std::string& name : image.names) json.String(name);
    json.EndArray();
    json.Member("layer", PodmanLayers(image.first()).back().id).Member("metadata", "{}");
    json.Key("big-data-names").BeginArray();
    for (const auto& [key, bytes] : documents) json.String(key);
    json.EndArray().Key("big-data-sizes").BeginObject();
    for (const auto& [key, bytes] : documents) json.Member(key, uint64_t{bytes.size()});
    json.EndObject().Key("big-data-digests").BeginObject();
    for (const auto& [key, bytes] : documents) json.Member(key, Sha256Of(bytes).ToString());
    json.EndObject()
        .Member("created", TimeText(image.first().config.created, image.added_unix))
        .EndObject();
  }
  json.EndArray();
  return json.Take();
}

std::string PodmanLayersJson(absl::Span<const PodmanImage> images) {
  JsonWriter json;
  json.BeginArray();
  std::set<Digest> written;  // images may differ only in their configuration
  for (const PodmanImage& image : images) {
    if (!written.insert(image.first().chain_id()).second) continue;
    const std::vector<PodmanLayer> layers = PodmanLayers(image.first());
    for (size_t i = 0; i < layers.size(); ++i) {
      json.BeginObject().Member("id", layers[i].id);
      if (!layers[i].parent.empty()) json.Member("parent", layers[i].parent);
      json.Member("created", TimeText("", image.added_unix))
          // Podman considers an image without a size damaged.
          .Member("diff-digest", layers[i].digest.ToString())
          .Member("diff-size", i < image.layer_bytes.size() ? image.layer_bytes[i] : uint64_t{0})
          .EndObject();
    }
  }
  json.EndArray();
  return json.Take();
}

}  // namespace imagefs
