// SPDX-License-Identifier: Apache-2.0
#include "cmd/print.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/print_parts.h"
#include "proto/control.pb.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages that are printed

namespace {

constexpr int64_t kJsonSchema = 1;  // docs/json.md

// Timings of mounts and pulls. All are printed; those of steps that did not run are 0.
constexpr std::string_view kSteps[] = {"resolve", "layers", "merge", "mount", "sync"};

double MillisecondsOf(const MountResult& result, std::string_view step) {
  int64_t microseconds = 0;
  for (const Timing& timing : result.timings()) {
    if (timing.step() == step) microseconds += timing.microseconds();
  }
  return static_cast<double>(microseconds) / 1000;
}

void WriteMount(JsonWriter& json, const Mount& mount) {
  json.Member("directory", mount.directory())
      .Member("reference", mount.reference())
      .Member("manifest", mount.manifest_digest())
      .Member("chain_id", mount.chain_id())
      .Member("mode", mount.mode())
      .Member("writable", mount.writable())
      .Key("options")
      .BeginArray();
  for (const std::string& option : mount.options()) json.String(option);
  json.EndArray();
}

// Returns the state and its cause in one line.
std::string StateOf(const Mount& mount, uint64_t own_namespace) {
  if (mount.mount_namespace() != 0 && mount.mount_namespace() != own_namespace) {
    return StrCat(mount.state(), ", in another namespace");
  }
  if (mount.state() == "filling") return StrCat("filling ", mount.filled_percent(), "%");
  // Obvious for mode fuse.
  if (mount.needs_daemon() && mount.mode() != "fuse")
    return StrCat(mount.state(), ", by the daemon");
  if (mount.reason().empty()) return mount.state();
  return StrCat(mount.state(), ": ", PrintableName(mount.reason(), 1000));
}

}  // namespace

std::string OneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return line;
}

std::string VersionJson(std::string_view version) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("version", version).Member("schema", kJsonSchema).EndObject();
  return Done(json);
}

std::string CheckedJson(const std::string& file) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("config", file).Member("ok", true).EndObject();
  return Done(json);
}

std::string StopJson(int64_t pid) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("stopped", pid != 0).Key("pid");
  if (pid == 0) {
    json.Null();
  } else {
    json.Int(pid);
  }
  json.EndObject();
  return Done(json);
}

std::string MountText(const MountResult& result, int64_t elapsed_microseconds) {
  const Image& image = result.image();
  std::string out;
  if (result.has_mount()) {
    StrAppend(&out, "mounted ", image.reference(), " on ", result.mount().directory(), " (",
              result.mount().mode(), result.mount().writable() ? ", writable" : "", ")");
  } else {
    StrAppend(&out, "pulled ", image.reference());
  }
  StrAppend(&out, ": ", Plural(static_cast<uint64_t>(result.layers_size()), "layer"), ", ");
  StrAppend(&out, FormatBytes(result.fetched_bytes()), " fetched, ");
  // Of a lazy mount.
  uint64_t missing = 0;
  for (const LayerEvent& layer : result.layers()) {
    if (layer.activity() == "done" || layer.reused()) continue;
    missing += layer.blob_bytes() - std::min(layer.blob_bytes(), layer.downloaded_bytes());
  }
  if (missing > 0) StrAppend(&out, FormatBytes(missing), " come when they are read, ");
  StrAppend(&out, FormatDuration(std::chrono::microseconds(elapsed_microseconds)), "\n");
  return out;
}

std::string MountJson(const MountResult& result) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject();
  if (result.has_mount()) {
    WriteMount(json, result.mount());
  } else {
    json.Member("reference", result.image().reference())
        .Member("manifest", result.image().manifest_digest())
        .Member("chain_id", result.image().chain_id());
  }
  json.Member("platform", result.image().platform());
  json.Key("layers").BeginArray();
  for (const LayerEvent& layer : result.layers()) {
    json.BeginObject()
        .Member("digest", layer.digest())
        .Member("diff_id", layer.diff_id())
        .Member("bytes", uint64_t{layer.blob_bytes()})
        .Member("fetched", uint64_t{layer.fetched_bytes()})
        .Member("reused", layer.reused())
        .Member("shared", layer.shared())
        .EndObject();
  }
  json.EndArray().Member("fetched_bytes", uint64_t{result.fetched_bytes()});
  json.Key("timings_ms").BeginObject();
  for (const std::string_view step : kSteps) json.Key(step).Double(MillisecondsOf(result, step));
  json.EndObject().EndObject();
  return Done(json);
}

std::string UnmountJson(const UnmountReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Key("unmounted").BeginArray();
  for (const std::string& directory : reply.unmounted()) json.String(directory);
  json.EndArray().Key("failures").BeginArray();
  for (const UnmountReply::Failure& failure : reply.failures()) {
    json.BeginObject().Member("directory", failure.directory());
    WriteError(json, ParseKind(failure.kind()).value_or(FailureKind::kOther), failure.message());
    json.EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

const std::vector<std::string>& MountColumns() {
  static const std::vector<std::string> columns = {"DIRECTORY", "REFERENCE", "MODE",
                                                   "RW",        "AGE",       "STATE"};
  return columns;
}

std::string MountsText(const ListMountsReply& reply, int64_t now_unix, const TableStyle& style,
                       uint64_t own_namespace) {
  Table table(MountColumns());
  for (const Mount& mount : reply.mounts()) {
    table.Row({mount.directory(), mount.reference(), mount.mode(), mount.writable() ? "rw" : "ro",
               Age(mount.created_unix(), now_unix), StateOf(mount, own_namespace)});
  }
  return table.Text(style);
}

std::string MountsJson(const ListMountsReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginArray();
  for (const Mount& mount : reply.mounts()) {
    json.BeginObject();
    WriteMount(json, mount);
    json.Member("created", int64_t{mount.created_unix()})
        .Member("state", mount.state())
        .Member("needs_daemon", mount.needs_daemon())
        .Member("reason", mount.reason())
        .Member("upper", mount.upper())
        .Member("namespace", uint64_t{mount.mount_namespace()})
        .EndObject();
  }
  json.EndArray();
  return Done(json);
}

std::string AddedText(const MountResult& result) {
  const AddedImage& added = result.added();
  return StrCat("podman has ", added.name(), ": ",
                Plural(static_cast<uint64_t>(result.layers_size()), "layer"), ", ",
                FormatBytes(added.blob_bytes_present()), " of ", FormatBytes(added.blob_bytes()),
                " present\n");
}

std::string AddedListText(const ListAddedReply& reply, int64_t now_unix) {
  Table table({"NAME", "PLATFORM", "IMAGE ID", "STATE", "PRESENT", "OF", "AGE"});
  for (const AddedImage& image : reply.images()) {
    table.Row({image.name(), image.platform(), ShortDigest(image.image_id()), image.state(),
               FormatBytes(image.blob_bytes_present()), FormatBytes(image.blob_bytes()),
               Age(image.added_unix(), now_unix)});
  }
  return table.Text();
}

std::string AddedListJson(const ListAddedReply& reply, const absl::Status& status) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject();
  if (!reply.store().empty()) json.Member("store", reply.store());
  json.Key("images").BeginArray();
  for (const AddedImage& image : reply.images()) {
    json.BeginObject()
        .Member("name", image.name())
        .Member("reference", image.reference())
        .Member("platform", image.platform())
        .Member("image_id", image.image_id())
        .Member("manifest", image.manifest_digest())
        .Member("chain_id", image.chain_id())
        .Member("state", image.state())
        .Member("blob_bytes", uint64_t{image.blob_bytes()})
        .Member("blob_bytes_present", uint64_t{image.blob_bytes_present()})
        .Member("added", int64_t{image.added_unix()})
        .EndObject();
  }
  json.EndArray();
  if (!status.ok()) WriteError(json, KindOf(status), ToStd(status.message()));
  json.EndObject();
  return Done(json);
}

std::string LogLevelJson(const std::string& level) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("level", level).EndObject();
  return Done(json);
}

std::string InspectText(const InspectReply& reply) {
  const Image& image = reply.image();
  const bool artifact = !image.artifact_type().empty();
  std::string out =
      StrCat("reference  ", image.reference(), artifact ? "\nartifact   " : "\nplatform   ",
             artifact ? Printable(image.artifact_type()) : image.platform(), "\nmanifest   ",
             image.manifest_digest(), "\n");
  if (!reply.index_digest().empty()) StrAppend(&out, "index      ", reply.index_digest(), "\n");
  StrAppend(&out, "chain      ", image.chain_id(), "\n");
  absl::StatusOr<Json> config = Json::Parse(reply.config_json());
  if (config.ok()) {
    const Json settings = (*config)["config"];
    auto line = [&](std::string_view name, const Json& value) {
      if (!value.exists() || value.is_null()) return;
      const std::optional<std::string> text = value.string();
      // JSON escapes only ASCII control characters.
      StrAppend(
          &out, name,
          text.has_value() ? Printable(*text, SIZE_MAX) : PrintableName(value.Dump(), SIZE_MAX),
          "\n");
    };
    line("created    ", (*config)["created"]);
    line("entrypoint ", settings["Entrypoint"]);
    line("command    ", settings["Cmd"]);
    line("workdir    ", settings["WorkingDir"]);
    line("user       ", settings["User"]);
    for (const Json& variable : settings["Env"].elements()) line("env        ", variable);
  }
  Table table({"LAYER", "SIZE", "STATE", "SOURCE", "DIFFID", "CHAINID", "TYPE"});
  for (const InspectReply::Layer& layer : reply.layers()) {
    table.Row({ShortDigest(layer.digest()), FormatBytes(layer.size()), layer.state(),
               layer.source().empty() ? "-" : layer.source(), ShortDigest(layer.diff_id()),
               ShortDigest(layer.chain_id()), layer.media_type()});
  }
  return out + table.Text();
}

std::string InspectJson(const InspectReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("reference", reply.image().reference())
      .Member("platform", reply.image().platform())
      .Member("artifact_type", reply.image().artifact_type())
      .Member("manifest_digest", reply.image().manifest_digest());
  json.Key("index_digest");
  if (reply.index_digest().empty()) {
    json.Null();
  } else {
    json.String(reply.index_digest());
  }
  json.Member("chain_id", reply.image().chain_id());
  json.Key("manifest");
  absl::StatusOr<Json> manifest = Json::Parse(reply.manifest_json());
  json.Document(manifest.ok() ? *manifest : Json());
  json.Key("config");
  // The configuration of an artifact may be anything.
  const absl::StatusOr<Json> config = Json::Parse(reply.config_json());
  if (config.ok() && config->is_object()) {
    json.Document(*config);
  } else {
    json.BeginObject().EndObject();
  }
  json.Key("layers").BeginArray();
  for (const InspectReply::Layer& layer : reply.layers()) {
    json.BeginObject()
        .Member("digest", layer.digest())
        .Member("media_type", layer.media_type())
        .Member("size", uint64_t{layer.size()})
        .Member("diff_id", layer.diff_id())
        .Member("chain_id", layer.chain_id())
        .Member("state", layer.state())
        .Member("source", layer.source())
        .EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

std::string CheckText(const control::v1::CheckReply& reply) {
  Table table({"LAYER", "STATE", "SIZE"});
  for (const auto& layer : reply.layers()) {
    table.Row({layer.name(), layer.state(), FormatBytes(layer.data_bytes())});
  }
  std::string text = table.Text();
  const auto line = [&text](std::string_view kind, const std::string& name,
                            const std::string& problem, const std::string& action,
                            std::string_view otherwise) {
    StrAppend(&text, kind, " ", name, ": ", problem, problem.empty() ? "" : "; ",
              action.empty() ? otherwise : std::string_view(action), "\n");
  };
  for (const auto& layer : reply.layers()) {
    if (layer.state() == "right" || layer.state() == "filling") continue;
    line("layer", layer.name(), layer.state() == "absent" ? "absent" : layer.reason(),
         layer.action(), "it is fetched when it is needed");
  }
  for (const auto& finding : reply.findings()) {
    line(finding.kind(), finding.name(), finding.problem(), finding.action(),
         "not repaired; use --repair");
  }
  return text;
}

std::string CheckJson(const control::v1::CheckReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Key("layers").BeginArray();
  for (const auto& layer : reply.layers()) {
    json.BeginObject()
        .Member("name", layer.name())
        .Member("diff_id", layer.diff_id())
        .Member("state", layer.state())
        .Member("bytes", uint64_t{layer.data_bytes()})
        .Member("reason", layer.reason())
        .Member("action", layer.action())
        .EndObject();
  }
  json.EndArray().Key("findings").BeginArray();
  for (const auto& finding : reply.findings()) {
    json.BeginObject()
        .Member("kind", finding.kind())
        .Member("name", finding.name())
        .Member("problem", finding.problem())
        .Member("action", finding.action())
        .EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

std::string RpullJson(const InspectReply& about, const std::string& name,
                      const std::string& name_space, const std::string& snapshotter) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("reference", name)
      .Member("namespace", name_space)
      .Member("snapshotter", snapshotter)
      .Member("manifest", about.image().manifest_digest())
      .Member("chain_id", about.image().chain_id())
      .Key("layers")
      .BeginArray();
  for (const InspectReply::Layer& layer : about.layers()) {
    json.BeginObject()
        .Member("digest", layer.digest())
        .Member("diff_id", layer.diff_id())
        .Member("chain_id", layer.chain_id())
        .EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

std::string IndexText(const control::v1::MountResult& result) {
  const control::v1::IndexResult& index = result.index();
  Table table({"LAYER", "SIZE", "INDEX", "SHARE"});
  for (const control::v1::IndexResult::Layer& layer : index.layers()) {
    const uint64_t permille =
        layer.blob_bytes() == 0 ? 0 : layer.index_bytes() * 1000 / layer.blob_bytes();
    table.Row({ShortDigest(layer.digest()), FormatBytes(layer.blob_bytes()),
               layer.index_bytes() == 0 ? "-" : FormatBytes(layer.index_bytes()),
               layer.index_bytes() == 0 ? layer.reason()
                                        : StrCat(permille / 10, ".", permille % 10, "%")});
  }
  std::string out = table.Text();
  if (index.hot_pack_bytes() > 0) {
    StrAppend(&out, "hot pack: ", FormatBytes(index.hot_pack_bytes()), " for ",
              FormatBytes(index.hot_pack_data_bytes()), " of pages\n");
  }
  if (!index.repository().empty()) {
    StrAppend(&out, "published to ", index.repository(), " as ", index.artifact_digest(), " (",
              FormatBytes(index.sent_bytes()), " sent)\n");
  }
  if (!index.file().empty()) StrAppend(&out, "written to ", index.file(), "\n");
  for (const std::string& id : index.signed_by()) StrAppend(&out, "signed by ", id, "\n");
  for (const std::string& id : index.signatures_lost()) {
    StrAppend(&out, "no longer signed by ", id, "; sign with that key, too, if nodes rely on it\n");
  }
  return out;
}

std::string IndexJson(const control::v1::MountResult& result) {
  const control::v1::IndexResult& index = result.index();
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("reference", result.image().reference())
      .Member("manifest", result.image().manifest_digest())
      .Member("artifact", index.artifact_digest())
      .Member("repository", index.repository())
      .Member("listed_by_tag", index.listed_by_tag())
      .Member("sent_bytes", uint64_t{index.sent_bytes()})
      .Member("hot_pack_bytes", uint64_t{index.hot_pack_bytes()})
      .Member("hot_pack_data_bytes", uint64_t{index.hot_pack_data_bytes()})
      .Member("file", index.file());
  json.Key("signed_by").BeginArray();
  for (const std::string& id : index.signed_by()) json.String(id);
  json.EndArray().Key("signatures_lost").BeginArray();
  for (const std::string& id : index.signatures_lost()) json.String(id);
  json.EndArray().Key("layers").BeginArray();
  for (const control::v1::IndexResult::Layer& layer : index.layers()) {
    json.BeginObject()
        .Member("digest", layer.digest())
        .Member("blob_bytes", uint64_t{layer.blob_bytes()})
        .Member("index_bytes", uint64_t{layer.index_bytes()})
        .Member("reason", layer.reason())
        .EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

std::string MountStatusText(const MountStatusReply& reply) {
  std::string out =
      StrCat("directory  ", reply.mount().directory(), "\nreference  ", reply.mount().reference(),
             "\nchain      ", reply.mount().chain_id(), "\nmode       ", reply.mount().mode(),
             "\noptions    ", absl::StrJoin(reply.mount().options(), ","), "\nstate      ",
             StateOf(reply.mount(), reply.mount().mount_namespace()), "\n");
  if (reply.layers().empty()) return out;
  Table table(
      {"LAYER", "STATE", "SOURCE", "PRESENT", "OF", "FETCHED", "NEEDED", "WAITING", "IN FLIGHT"});
  std::string reasons;
  for (const MountStatusReply::Layer& layer : reply.layers()) {
    std::string flights;
    for (const MountStatusReply::Transfer& transfer : layer.in_flight()) {
      StrAppend(&flights, flights.empty() ? "" : " ",
                FormatBytes(transfer.end() - transfer.begin()), " ", transfer.priority());
    }
    // Not known of a layer whose image is no longer recorded.
    const bool known = layer.blob_bytes() > 0;
    table.Row({ShortDigest(layer.diff_id()), layer.state(), layer.source(),
               known ? FormatBytes(layer.blob_bytes_present()) : "-",
               known ? FormatBytes(layer.blob_bytes()) : "-",
               FormatBytes(layer.blob_bytes_fetched()), FormatBytes(layer.blob_bytes_needed()),
               StrCat(layer.waiting()), flights.empty() ? "-" : flights});
    if (layer.hot_bytes() > 0 && layer.state() == "filling") {
      StrAppend(&reasons, ShortDigest(layer.diff_id()), ": ", FormatBytes(layer.hot_bytes()),
                " came with the hot pack\n");
    }
    if (!layer.reason().empty()) {
      StrAppend(&reasons, ShortDigest(layer.diff_id()), ": ", layer.reason(), "\n");
    }
  }
  return out + table.Text() + reasons;
}

// The members of a picture are of the status page, not of the command's output.
void WriteMap(JsonWriter& json, const MountStatusReply::Layer& layer) {
  json.Key("map").BeginObject().Member("bytes", uint64_t{layer.map_bytes()});
  json.Key("names").BeginArray();
  for (const std::string& name : layer.names()) json.String(name);
  json.EndArray().Key("runs").BeginArray();
  for (const MountStatusReply::Run& run : layer.runs()) {
    json.BeginArray().Uint(run.begin()).Uint(run.end()).BeginArray();
    for (const uint64_t bytes : run.bytes()) json.Uint(bytes);
    json.EndArray().Uint(run.files()).BeginArray();
    for (const uint32_t name : run.names()) json.Uint(name);
    json.EndArray().EndArray();
  }
  json.EndArray().EndObject();
}

void WriteEvents(JsonWriter& json, const MountStatusReply& reply) {
  json.Member("now_us", int64_t{reply.now_us()})
      .Member("events_began_unix_ms", int64_t{reply.events_began_unix_ms()})
      .Member("events_dropped", uint64_t{reply.events_dropped()});
  json.Key("events").BeginArray();
  for (const MountStatusReply::Event& event : reply.events()) {
    json.BeginObject()
        .Member("step", event.step())
        .Member("layer", uint64_t{event.layer()})
        .Member("began_us", int64_t{event.began_us()})
        .Member("answered_us", int64_t{event.answered_us()})
        .Member("ended_us", int64_t{event.ended_us()})
        .Member("begin", uint64_t{event.begin()})
        .Member("end", uint64_t{event.end()})
        .Member("priority", event.priority())
        .Member("failed", event.failed())
        .Member("hedge", event.hedge())
        .Member("detail", event.detail())
        .EndObject();
  }
  json.EndArray();
}

std::string MountStatusJson(const MountStatusReply& reply, bool pretty) {
  JsonWriter json(pretty);
  json.BeginObject()
      .Member("directory", reply.mount().directory())
      .Member("reference", reply.mount().reference())
      .Member("manifest", reply.mount().manifest_digest())
      .Member("chain_id", reply.mount().chain_id())
      .Member("mode", reply.mount().mode())
      .Member("namespace", uint64_t{reply.mount().mount_namespace()})
      .Key("options")
      .BeginArray();
  for (const std::string& option : reply.mount().options()) json.String(option);
  json.EndArray()
      .Member("state", reply.mount().state())
      .Member("needs_daemon", reply.mount().needs_daemon())
      .Member("reason", reply.mount().reason());
  json.Key("layers").BeginArray();
  for (const MountStatusReply::Layer& layer : reply.layers()) {
    json.BeginObject()
        .Member("diff_id", layer.diff_id())
        .Member("digest", layer.digest())
        .Member("state", layer.state())
        .Member("source", layer.source())
        .Member("reason", layer.reason())
        .Member("blob_bytes", uint64_t{layer.blob_bytes()})
        .Member("blob_bytes_present", uint64_t{layer.blob_bytes_present()})
        .Member("blob_bytes_fetched", uint64_t{layer.blob_bytes_fetched()})
        .Member("blob_bytes_needed", uint64_t{layer.blob_bytes_needed()})
        .Member("data_bytes", uint64_t{layer.data_bytes()})
        .Member("data_bytes_present", uint64_t{layer.data_bytes_present()})
        .Member("hot_bytes", uint64_t{layer.hot_bytes()})
        .Member("waiting", uint64_t{layer.waiting()});
    json.Key("in_flight").BeginArray();
    for (const MountStatusReply::Transfer& transfer : layer.in_flight()) {
      json.BeginObject()
          .Member("begin", uint64_t{transfer.begin()})
          .Member("end", uint64_t{transfer.end()})
          .Member("priority", transfer.priority())
          .EndObject();
    }
    json.EndArray();
    if (layer.runs_size() > 0) WriteMap(json, layer);
    json.EndObject();
  }
  json.EndArray();
  if (!pretty) WriteEvents(json, reply);
  json.EndObject();
  return Done(json);
}

std::string ProfileText(const ProfileReply& reply) {
  const absl::StatusOr<Json> json = Json::Parse(reply.json());
  if (!json.ok()) return "";
  std::map<int64_t, std::pair<uint64_t, uint64_t>> by_layer;  // parts, bytes
  uint64_t bytes = 0;
  for (const Json& part : (*json)["parts"].elements()) {
    const auto size =
        static_cast<uint64_t>(part.at(2).integer().value_or(0) - part.at(1).integer().value_or(0));
    auto& [parts, sum] = by_layer[part.at(0).integer().value_or(0)];
    ++parts;
    sum += size;
    bytes += size;
  }
  Table table({"LAYER", "PARTS", "BYTES", "OF"});
  for (const auto& [index, about] : by_layer) {
    const Json layer = (*json)["layers"].at(static_cast<size_t>(index));
    table.Row({ShortDigest(layer.StringOr("diff_id")), StrCat(about.first),
               FormatBytes(about.second),
               FormatBytes(static_cast<uint64_t>(layer.IntOr("data_bytes", 0)))});
  }
  return StrCat("manifest   ", reply.manifest_digest(), "\nread       ", FormatBytes(bytes),
                " of the layers' tars, in the order of ", Plural((*json)["parts"].size(), "part"),
                "\n", table.Text());
}

std::string ProfileJson(const ProfileReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("manifest", reply.manifest_digest()).EndObject();
  return Done(json);
}

std::string StatusText(const StatusReply& reply) {
  std::string out = StrCat("imagefs ", reply.version(), ", pid ", reply.pid(), ", up ",
                           FormatDuration(std::chrono::seconds(reply.uptime_seconds())), ", ",
                           FormatBytes(reply.rss_bytes()), " resident\nstore ", reply.root(),
                           ", run ", reply.run(), "\n", Plural(reply.mounts(), "mount"), ", ",
                           Plural(reply.images(), "image"), ", ",
                           Plural(static_cast<uint64_t>(reply.layers_size()), "layer"), "\n");
  for (const std::string& warning : reply.warnings()) StrAppend(&out, "warning: ", warning, "\n");
  for (const StatusReply::Counter& counter : reply.counters()) {
    StrAppend(&out, "  ", counter.name(), " ", counter.value(), "\n");
  }
  for (const std::string& file : reply.hosts_files())
    StrAppend(&out, "endpoints from ", file, "\n");
  Table endpoints({"ENDPOINT", "FAILURES", "WRONG BYTES", "LEFT OUT FOR", "CAUSE"});
  for (const StatusReply::Endpoint& endpoint : reply.endpoints()) {
    endpoints.Row({endpoint.endpoint(), StrCat(endpoint.failures()), StrCat(endpoint.lies()),
                   FormatDuration(std::chrono::milliseconds(endpoint.left_out_for_ms())),
                   Printable(endpoint.cause(), 200)});
  }
  if (reply.endpoints_size() > 0) out += endpoints.Text();
  Table flights(
      {"FLIGHT", "LEADERS", "JOINS", "HANDOVERS", "CANCELLED", "FAILED", "ACTIVE", "WAITING"});
  std::string running;
  for (const StatusReply::Flight& flight : reply.flights()) {
    flights.Row({flight.name(), StrCat(flight.leaders()), StrCat(flight.joins()),
                 StrCat(flight.handovers()), StrCat(flight.cancelled()), StrCat(flight.failed()),
                 StrCat(flight.active()), StrCat(flight.waiting())});
    for (const std::string& key : flight.running()) {
      StrAppend(&running, "running: ", flight.name(), " ", key, "\n");
    }
  }
  out += flights.Text() + running;
  Table layers({"LAYER", "STATE", "SOURCE", "DATA", "INDEX"});
  for (const StatusReply::Layer& layer : reply.layers()) {
    layers.Row({ShortDigest(layer.diff_id()), layer.state(), layer.source(),
                FormatBytes(layer.data_bytes()), FormatBytes(layer.index_bytes())});
  }
  return out + layers.Text();
}

std::string StatusJson(const StatusReply& reply) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("version", reply.version())
      .Member("pid", int64_t{reply.pid()})
      .Member("root", reply.root())
      .Member("run", reply.run())
      .Member("uptime_seconds", int64_t{reply.uptime_seconds()})
      .Member("rss_bytes", uint64_t{reply.rss_bytes()})
      .Member("mounts", uint64_t{reply.mounts()})
      .Member("images", uint64_t{reply.images()});
  json.Key("warnings").BeginArray();
  for (const std::string& warning : reply.warnings()) json.String(warning);
  json.EndArray().Key("counters").BeginObject();
  for (const StatusReply::Counter& counter : reply.counters()) {
    json.Member(counter.name(), uint64_t{counter.value()});
  }
  json.EndObject().Key("hosts_files").BeginArray();
  for (const std::string& file : reply.hosts_files()) json.String(file);
  json.EndArray().Key("endpoints").BeginArray();
  for (const StatusReply::Endpoint& endpoint : reply.endpoints()) {
    json.BeginObject()
        .Member("endpoint", endpoint.endpoint())
        .Member("cause", endpoint.cause())
        .Member("failures", uint64_t{endpoint.failures()})
        .Member("wrong_bytes", uint64_t{endpoint.lies()})
        .Member("left_out_for_ms", uint64_t{endpoint.left_out_for_ms()})
        .EndObject();
  }
  json.EndArray().Key("flights").BeginObject();
  for (const StatusReply::Flight& flight : reply.flights()) {
    json.Key(flight.name())
        .BeginObject()
        .Member("leaders", uint64_t{flight.leaders()})
        .Member("joins", uint64_t{flight.joins()})
        .Member("handovers", uint64_t{flight.handovers()})
        .Member("cancelled", uint64_t{flight.cancelled()})
        .Member("failed", uint64_t{flight.failed()})
        .Member("active", uint64_t{flight.active()})
        .Member("waiting", uint64_t{flight.waiting()});
    json.Key("running").BeginArray();
    for (const std::string& key : flight.running()) json.String(key);
    json.EndArray().EndObject();
  }
  json.EndObject().Key("layers").BeginArray();
  for (const StatusReply::Layer& layer : reply.layers()) {
    json.BeginObject()
        .Member("diff_id", layer.diff_id())
        .Member("state", layer.state())
        .Member("data_bytes", uint64_t{layer.data_bytes()})
        .Member("index_bytes", uint64_t{layer.index_bytes()})
        .Member("source", layer.source())
        .EndObject();
  }
  json.EndArray().EndObject();
  return Done(json);
}

}  // namespace imagefs
