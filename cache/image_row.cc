// SPDX-License-Identifier: Apache-2.0
#include "cache/image_row.h"

#include <algorithm>

#include "base/json.h"
#include "base/status.h"

namespace imagefs {
namespace {

std::string TextOf(const Digest& digest) { return digest.empty() ? "" : digest.ToString(); }

absl::StatusOr<Digest> DigestOf(const std::string& text) {
  return text.empty() ? Digest() : Digest::Parse(text);
}

}  // namespace

absl::StatusOr<ImageRow> ImageRow::Parse(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  ImageRow row;
  row.reference = json.StringOr("reference");
  IMAGEFS_ASSIGN_OR_RETURN(row.manifest, Digest::Parse(json.StringOr("manifest")));
  IMAGEFS_ASSIGN_OR_RETURN(row.config, Digest::Parse(json.StringOr("config")));
  IMAGEFS_ASSIGN_OR_RETURN(row.index, DigestOf(json.StringOr("index")));
  row.index_type = json.StringOr("index_type");
  row.index_bytes = static_cast<uint64_t>(std::max<int64_t>(json.IntOr("index_bytes", 0), 0));
  row.content_type = json.StringOr("content_type");
  row.created = json.IntOr("created", 0);
  row.has_layers = json["layers"].is_array();
  for (const Json& layer : json["layers"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(Digest name, DigestOf(layer.string().value_or("")));
    row.layers.push_back(name);
  }
  return row;
}

std::string ImageRow::ToJson() const {
  JsonWriter writer;
  writer.BeginObject();
  if (!reference.empty()) writer.Member("reference", reference);
  writer.Member("manifest", manifest.ToString())
      .Member("index", TextOf(index))
      .Member("index_type", index_type)
      .Member("index_bytes", index_bytes)
      .Member("config", config.ToString())
      .Member("content_type", content_type)
      .Member("created", created)
      .Key("layers")
      .BeginArray();
  for (const Digest& layer : layers) writer.String(TextOf(layer));
  writer.EndArray().EndObject();
  return writer.Take();
}

}  // namespace imagefs
