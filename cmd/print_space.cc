// SPDX-License-Identifier: Apache-2.0
// The output of the verbs about images and space.
#include <algorithm>

#include "base/json.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/print.h"
#include "cmd/print_parts.h"
#include "proto/control.pb.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages of every function below

namespace {

constexpr int kMostUsers = 3;

std::string UserText(const ImageUser& user) {
  const std::string name = PrintableName(user.name());
  if (user.kind() == "mount") return name;
  if (user.kind() != "containerd") return StrCat(user.kind(), " ", name);
  return name.empty() ? "containerd" : StrCat("containerd ", name, " (", user.containers(), ")");
}

std::string_view KindInWords(std::string_view kind) {
  if (kind == "layers-shared") return "layers of several images";
  if (kind == "layers-exclusive") return "layers of one image";
  if (kind == "layers-unlisted") return "layers of no listed image";
  if (kind == "partial") return "partial downloads";
  if (kind == "writable-mounts") return "files of writable mounts";
  if (kind == "containers") return "files of containers";
  if (kind == "podman") return "files for podman";
  return kind;
}

// An image of a shared store has no state of its own here.
std::string StateInWords(const Image& image) {
  if (!image.shared().empty()) return StrCat("shared, ", image.shared());
  return StrCat(image.state(), image.pinned() ? ", pinned" : "",
                image.listed() ? "" : ", not listed");
}

std::string PlatformInWords(const Image& image) {
  if (!image.artifact_type().empty()) return "artifact";
  return image.platform().empty() ? "-" : image.platform();
}

}  // namespace

std::string UsersOf(const Image& image, absl::FunctionRef<std::string(const ImageUser&)> text) {
  std::string out;
  for (int i = 0; i < image.used_by_size() && i < kMostUsers; ++i) {
    StrAppend(&out, i == 0 ? "" : ", ", text(image.used_by(i)));
  }
  if (image.used_by_size() > kMostUsers) {
    StrAppend(&out, " and ", image.used_by_size() - kMostUsers, " more");
  }
  return out.empty() ? "-" : out;
}

const std::vector<std::string>& ImageColumns() {
  static const std::vector<std::string> columns = {"REFERENCE",  "PLATFORM", "DIGEST", "LAYERS",
                                                   "COMPRESSED", "UNPACKED", "DISK",   "STATE",
                                                   "AGE",        "USED BY"};
  return columns;
}

std::string ImagesText(const ListImagesReply& reply, int64_t now_unix, const TableStyle& style) {
  Table table(ImageColumns());
  for (const Image& image : reply.images()) {
    table.Row({image.reference(), PlatformInWords(image), ShortDigest(image.manifest_digest()),
               StrCat(image.layers()), FormatBytes(image.compressed_bytes()),
               FormatBytes(image.unpacked_bytes()), FormatBytes(image.disk_bytes()),
               StateInWords(image), Age(image.created_unix(), now_unix), UsersOf(image, UserText)});
  }
  return table.Text(style);
}

std::string ImagesJson(const ListImagesReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginArray();
  for (const Image& image : reply.images()) {
    json.BeginObject()
        .Member("reference", image.reference())
        .Member("platform", image.platform())
        .Member("artifact_type", image.artifact_type())
        .Member("manifest", image.manifest_digest())
        .Member("chain_id", image.chain_id())
        .Member("layers", uint64_t{image.layers()})
        .Member("compressed_bytes", uint64_t{image.compressed_bytes()})
        .Member("unpacked_bytes", uint64_t{image.unpacked_bytes()})
        .Member("disk_bytes", uint64_t{image.disk_bytes()})
        .Member("state", image.shared().empty() ? image.state() : "shared")
        .Member("shared", image.shared())
        .Member("pinned", image.pinned())
        .Member("listed", image.listed())
        .Member("created", int64_t{image.created_unix()});
    json.Key("used_by").BeginArray();
    for (const ImageUser& user : image.used_by()) {
      json.BeginObject()
          .Member("kind", user.kind())
          .Member("name", user.name())
          .Member("containers", uint64_t{user.containers()})
          .EndObject();
    }
    json.EndArray().EndObject();
  }
  json.EndArray();
  return Done(json);
}

std::string ExportedText(const MountResult& result, const std::string& directory) {
  return StrCat(directory, " has ", result.image().reference(), ": ",
                Plural(static_cast<uint64_t>(result.layers_size()), "layer"), ", ",
                FormatBytes(result.exported_bytes()), " added\n");
}

std::string ImportedText(const MountResult& result, const std::string& directory) {
  return StrCat(result.image().reference(), " is in the store, from ", directory, "\n");
}

std::string SharedStoreJson(const std::vector<MountResult>& results, const std::string& directory,
                            bool exported, const absl::Status& status) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("directory", directory).Key("images").BeginArray();
  for (const MountResult& result : results) {
    const Image& image = result.image();
    json.BeginObject()
        .Member("reference", image.reference())
        .Member("platform", image.platform())
        .Member("manifest", image.manifest_digest())
        .Member("layers", uint64_t{image.layers()});
    if (exported) {
      json.Member("fetched_bytes", uint64_t{result.fetched_bytes()})
          .Member("added_bytes", uint64_t{result.exported_bytes()});
    }
    json.EndObject();
  }
  json.EndArray();
  if (!status.ok()) WriteError(json, KindOf(status), ToStd(status.message()));
  json.EndObject();
  return Done(json);
}

std::string RemoveText(const RemoveReply& reply) {
  return StrCat(FormatBytes(reply.freed_bytes()), " freed\n");
}

std::string RemoveJson(const RemoveReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("freed_bytes", uint64_t{reply.freed_bytes()});
  json.Key("notes").BeginArray();
  for (const std::string& note : reply.notes()) json.String(note);
  json.EndArray().EndObject();
  return Done(json);
}

std::string DiskUsageText(const DiskUsageReply& reply) {
  Table table({"KIND", "COUNT", "IN USE", "DISK", "RECLAIMABLE"});
  uint64_t disk = 0, reclaimable = 0;
  for (const DiskUsageReply::Kind& kind : reply.kinds()) {
    disk += kind.disk_bytes();
    reclaimable += kind.reclaimable_bytes();
    if (kind.count() == 0 && kind.disk_bytes() == 0) continue;
    const bool has_users =
        kind.name().starts_with("layers-") || kind.name() == "indexes" || kind.name() == "partial";
    table.Row({std::string(KindInWords(kind.name())), StrCat(kind.count()),
               has_users ? StrCat(kind.in_use()) : "-", FormatBytes(kind.disk_bytes()),
               FormatBytes(kind.reclaimable_bytes())});
  }
  table.Row({"total", "", "", FormatBytes(disk), FormatBytes(reclaimable)});
  std::string out = table.Text();
  StrAppend(&out, "\n", reply.root(), ": ", Plural(reply.profiles(), "profile"),
            " in the database\n");
  if (reply.limit_bytes() == 0) {
    StrAppend(&out, "limit: none (store.limit)\n");
  } else {
    StrAppend(&out, "limit: ", FormatBytes(reply.used_bytes()), " of ",
              FormatBytes(reply.limit_bytes()), " used; above ", FormatBytes(reply.high_bytes()),
              ", space is given back until ", FormatBytes(reply.low_bytes()), "\n");
  }
  StrAppend(&out, "file system: ", FormatBytes(reply.free_bytes()), " of ",
            FormatBytes(reply.file_system_bytes()), " free; ", FormatBytes(reply.reserve_bytes()),
            " stay free (store.reserve); below ", FormatBytes(reply.fill_min_free_bytes()),
            " nothing is fetched in the background (fill.min_free)\n");
  return out;
}

std::string DiskUsageJson(const DiskUsageReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("root", reply.root());
  json.Key("kinds").BeginArray();
  for (const DiskUsageReply::Kind& kind : reply.kinds()) {
    json.BeginObject()
        .Member("kind", kind.name())
        .Member("count", uint64_t{kind.count()})
        .Member("in_use", uint64_t{kind.in_use()})
        .Member("disk_bytes", uint64_t{kind.disk_bytes()})
        .Member("reclaimable_bytes", uint64_t{kind.reclaimable_bytes()})
        .EndObject();
  }
  json.EndArray()
      .Member("profiles", uint64_t{reply.profiles()})
      .Member("profile_bytes", uint64_t{reply.profile_bytes()})
      .Member("used_bytes", uint64_t{reply.used_bytes()})
      .Member("limit_bytes", uint64_t{reply.limit_bytes()})
      .Member("high_bytes", uint64_t{reply.high_bytes()})
      .Member("low_bytes", uint64_t{reply.low_bytes()})
      .Member("file_system_bytes", uint64_t{reply.file_system_bytes()})
      .Member("free_bytes", uint64_t{reply.free_bytes()})
      .Member("reserve_bytes", uint64_t{reply.reserve_bytes()})
      .Member("fill_min_free_bytes", uint64_t{reply.fill_min_free_bytes()})
      .EndObject();
  return Done(json);
}

std::string PruneText(const PruneReply& reply, bool dry_run) {
  std::string out;
  const std::string_view done = dry_run ? "would be removed" : "removed";
  for (const std::string& image : reply.images()) StrAppend(&out, image, ": ", done, "\n");
  StrAppend(&out, Plural(reply.partial_downloads(), "partial download"), " (",
            FormatBytes(reply.partial_download_bytes()), ") and ", Plural(reply.layers(), "layer"),
            " (", FormatBytes(reply.layer_bytes()), "); ", FormatBytes(reply.freed_bytes()),
            dry_run ? " would be freed\n" : " freed\n");
  return out;
}

std::string PruneJson(const PruneReply& reply, bool dry_run) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("dry_run", dry_run)
      .Member("freed_bytes", uint64_t{reply.freed_bytes()})
      .Member("partial_downloads", uint64_t{reply.partial_downloads()})
      .Member("partial_download_bytes", uint64_t{reply.partial_download_bytes()})
      .Member("layers", uint64_t{reply.layers()})
      .Member("layer_bytes", uint64_t{reply.layer_bytes()});
  json.Key("images").BeginArray();
  for (const std::string& image : reply.images()) json.String(image);
  json.EndArray().EndObject();
  return Done(json);
}

}  // namespace imagefs
