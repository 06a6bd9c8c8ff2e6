// SPDX-License-Identifier: Apache-2.0
#include "cache/profile.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {

std::string Profile::ToJson() const {
  JsonWriter writer;
  writer.BeginObject().Member("version", int64_t{1}).Key("layers").BeginArray();
  for (const auto& [diff_id, data_bytes] : layers) {
    writer.BeginObject()
        .Member("diff_id", diff_id.ToString())
        .Member("data_bytes", data_bytes)
        .EndObject();
  }
  writer.EndArray().Key("parts").BeginArray();
  for (const Part& part : parts) {
    const auto it = std::find_if(layers.begin(), layers.end(),
                                 [&](const auto& layer) { return layer.first == part.layer; });
    if (it == layers.end()) continue;
    writer.BeginArray()
        .Uint(static_cast<uint64_t>(it - layers.begin()))
        .Uint(part.range.begin)
        .Uint(part.range.end)
        .EndArray();
  }
  writer.EndArray().EndObject();
  return writer.Take();
}

absl::StatusOr<Profile> Profile::Parse(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != 1) {
    return absl::InvalidArgumentError("a profile of an unknown version");
  }
  Profile profile;
  if (json["layers"].size() > kMaxLayers || json["parts"].size() > kMaxParts) {
    return absl::InvalidArgumentError("a profile with too many parts");
  }
  for (const Json& layer : json["layers"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Digest diff_id, Digest::Parse(layer.StringOr("diff_id")));
    profile.layers.emplace_back(diff_id, static_cast<uint64_t>(layer.IntOr("data_bytes", 0)));
  }
  for (const Json& part : json["parts"].elements()) {
    const int64_t layer = part.at(0).integer().value_or(-1);
    const int64_t begin = part.at(1).integer().value_or(-1);
    const int64_t end = part.at(2).integer().value_or(-1);
    if (layer < 0 || static_cast<size_t>(layer) >= profile.layers.size() || begin < 0 ||
        end <= begin ||
        static_cast<uint64_t>(end) > profile.layers[static_cast<size_t>(layer)].second) {
      return absl::InvalidArgumentError("a profile with an impossible part");
    }
    profile.parts.push_back({profile.layers[static_cast<size_t>(layer)].first,
                             {static_cast<uint64_t>(begin), static_cast<uint64_t>(end)}});
  }
  return profile;
}

absl::StatusOr<Profile> ProfileKeeper::Get(const Digest& manifest) {
  Collect(false);
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> text, kv_.Get(Key(manifest)));
  if (!text.has_value()) {
    return absl::NotFoundError(
        "there is no profile of that image; one is recorded when it is first started before its "
        "bytes are here");
  }
  return Profile::Parse(*text);
}

absl::Status ProfileKeeper::Put(const Digest& manifest, const Profile& profile) {
  WriteBatch batch;
  batch.Put(Key(manifest), profile.ToJson());
  return kv_.Write(batch, true);
}

absl::Status ProfileKeeper::Clear(const Digest& manifest) {
  {
    absl::MutexLock lock(&mu_);
    std::erase_if(runs_, [&](const Run& run) { return run.manifest == manifest; });
  }
  WriteBatch batch;
  batch.Delete(Key(manifest));
  return kv_.Write(batch, true);
}

void ProfileKeeper::Record(const Digest& manifest, Layers layers) {
  std::erase_if(layers, [](const auto& layer) { return layer.second == nullptr; });
  if (layers.empty()) return;
  const absl::StatusOr<std::optional<std::string>> known = kv_.Get(Key(manifest));
  if (known.ok() && known->has_value()) return;
  absl::MutexLock lock(&mu_);
  for (const Run& run : runs_) {
    if (run.manifest == manifest) return;
  }
  runs_.push_back({manifest, std::move(layers), Moment::Now()});
}

Profile ProfileKeeper::Read(const Run& run) {
  struct Touch {
    uint64_t order;
    Digest layer;
    ByteRange range;
  };
  std::vector<Touch> touches;
  Profile profile;
  for (const auto& [diff_id, layer] : run.layers) {
    profile.layers.emplace_back(diff_id, layer->span_table().data_bytes());
    for (const auto& [order, range] : layer->ReadParts())
      touches.push_back({order, diff_id, range});
  }
  std::sort(touches.begin(), touches.end(),
            [](const Touch& a, const Touch& b) { return a.order < b.order; });
  for (const Touch& touch : touches) {
    if (profile.parts.size() >= Profile::kMaxParts) break;
    if (!profile.parts.empty() && profile.parts.back().layer == touch.layer &&
        profile.parts.back().range.end == touch.range.begin) {
      profile.parts.back().range.end = touch.range.end;
    } else {
      profile.parts.push_back({touch.layer, touch.range});
    }
  }
  return profile;
}

void ProfileKeeper::Collect(bool all) {
  const Moment now = Moment::Now();
  EndIf([&](const Run& run) {
    Moment last = Moment::InfinitePast();
    for (const auto& [diff_id, layer] : run.layers) last = std::max(last, layer->last_read());
    const bool read = last != Moment::InfinitePast();
    return all || now - run.begun >= options_.longest || (read && now - last >= options_.quiet);
  });
}

void ProfileKeeper::Finish(absl::FunctionRef<bool(const Digest& manifest)> gone) {
  EndIf([&](const Run& run) { return gone(run.manifest); });
}

void ProfileKeeper::EndIf(absl::FunctionRef<bool(const Run& run)> ends) {
  std::vector<Run> over;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = runs_.begin(); it != runs_.end();) {
      if (!ends(*it)) {
        ++it;
        continue;
      }
      over.push_back(std::move(*it));
      it = runs_.erase(it);
    }
  }
  for (const Run& run : over) {
    const Profile profile = Read(run);
    if (profile.parts.empty()) continue;
    if (absl::Status status = Put(run.manifest, profile); !status.ok()) {
      LogWarning("profile.put_failed manifest=", run.manifest.Short(), " error=", status.message());
      continue;
    }
    LogInfo("profile.recorded manifest=", run.manifest.Short(), " parts=", profile.parts.size());
    if (options_.recorded) options_.recorded(run.manifest);
  }
}

void Replay(const Profile& profile, const ProfileKeeper::Layers& layers) {
  absl::flat_hash_map<Digest, std::shared_ptr<FillingLayer>> by_diff_id;
  for (const auto& [diff_id, layer] : layers) {
    if (layer == nullptr) continue;
    const Digest& id = diff_id;  // clang 14 cannot capture a binding in a lambda
    const auto it = std::find_if(profile.layers.begin(), profile.layers.end(),
                                 [&id](const auto& one) { return one.first == id; });
    if (it != profile.layers.end() && it->second == layer->span_table().data_bytes()) {
      by_diff_id[diff_id] = layer;
    }
  }
  for (const Profile::Part& part : profile.parts) {
    const auto it = by_diff_id.find(part.layer);
    if (it != by_diff_id.end()) it->second->Prefetch(part.range, Priority::kForeground);
  }
}

}  // namespace imagefs
