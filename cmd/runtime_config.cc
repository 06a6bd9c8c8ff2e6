// SPDX-License-Identifier: Apache-2.0
#include "cmd/runtime_config.h"

#include <iterator>
#include <map>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kSpecVersion[] = "1.0.2";

void WriteStrings(JsonWriter& json, std::string_view key, const std::vector<std::string>& values) {
  json.Key(key).BeginArray();
  for (const std::string& value : values) json.String(value);
  json.EndArray();
}

struct MountLine {
  const char *destination, *type, *source;
  std::vector<std::string> options;
};

void WriteMounts(JsonWriter& json, bool rootless) {
  std::vector<MountLine> mounts = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
      {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777"}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
      {"/etc/resolv.conf", "bind", "/etc/resolv.conf", {"bind", "ro"}},
      {"/etc/hosts", "bind", "/etc/hosts", {"bind", "ro"}}};
  // A user namespace that does not own its network cannot mount a sysfs of its own.
  if (rootless) {
    mounts.push_back({"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}});
  } else {
    mounts[2].options.emplace_back("gid=5");
    mounts.push_back({"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}});
  }
  json.Key("mounts").BeginArray();
  for (const MountLine& mount : mounts) {
    json.BeginObject().Member("destination", mount.destination).Member("type", mount.type);
    json.Member("source", mount.source);
    WriteStrings(json, "options", mount.options);
    json.EndObject();
  }
  json.EndArray();
}

void WriteProcess(JsonWriter& json, const RunSpec& spec, const UserIds& ids, bool terminal) {
  // Those of docker's containers.
  static constexpr const char* kCapabilities[] = {
      "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
      "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
      "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
      "CAP_KILL",    "CAP_AUDIT_WRITE"};
  json.Key("process").BeginObject().Member("terminal", terminal);
  json.Key("user").BeginObject();
  json.Member("uid", uint64_t{ids.uid}).Member("gid", uint64_t{ids.gid});
  json.Key("additionalGids").BeginArray();
  for (const gid_t group : ids.groups) json.Uint(group);
  json.EndArray().EndObject();
  std::vector<std::string> words = {spec.programs[0]};
  words.insert(words.end(), spec.arguments.begin(), spec.arguments.end());
  WriteStrings(json, "args", words);
  std::vector<std::string> environment = spec.environment;
  if (ValueIn(environment, "HOME").empty()) SetIn(&environment, "HOME", ids.home);
  WriteStrings(json, "env", environment);
  json.Member("cwd", spec.directory);
  json.Key("capabilities").BeginObject();
  const std::vector<std::string> all(std::begin(kCapabilities), std::end(kCapabilities));
  WriteStrings(json, "bounding", all);
  WriteStrings(json, "effective", all);
  WriteStrings(json, "permitted", all);
  json.EndObject().Member("noNewPrivileges", false).EndObject();
}

void WriteIdMap(JsonWriter& json, std::string_view key, uint64_t id) {
  json.Key(key).BeginArray().BeginObject();
  json.Member("containerID", uint64_t{0}).Member("hostID", id).Member("size", uint64_t{1});
  json.EndObject().EndArray();
}

void WriteLinux(JsonWriter& json, const RuntimeOptions& options) {
  json.Key("linux").BeginObject();
  json.Key("namespaces").BeginArray();
  for (const char* type : {"mount", "pid", "ipc", "uts", "user"}) {
    if (type == std::string_view("user") && !options.rootless) continue;
    json.BeginObject().Member("type", type).EndObject();
  }
  json.EndArray();
  if (options.rootless) {
    WriteIdMap(json, "uidMappings", options.uid);
    WriteIdMap(json, "gidMappings", options.gid);
  }
  WriteStrings(json, "maskedPaths",
               {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap"});
  WriteStrings(json, "readonlyPaths",
               {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"});
  json.EndObject();
}

// The implicit annotations, and the labels, which come after them.
std::map<std::string, std::string> Annotations(const Json& image) {
  std::map<std::string, std::string> out;
  const auto set = [&out](const char* name, const std::string& value) {
    if (!value.empty()) out[StrCat("org.opencontainers.image.", name)] = value;
  };
  const Json config = image["config"];
  set("os", image.StringOr("os"));
  set("architecture", image.StringOr("architecture"));
  set("variant", image.StringOr("variant"));
  set("author", image.StringOr("author"));
  set("created", image.StringOr("created"));
  set("stopSignal", config.StringOr("StopSignal"));
  std::string ports;
  for (const auto& [port, unused] : config["ExposedPorts"].members()) {
    StrAppend(&ports, ports.empty() ? "" : ",", port);
  }
  set("exposedPorts", ports);
  for (const auto& [name, value] : config["Labels"].members()) {
    if (!name.empty()) out[name] = value.string().value_or("");
  }
  return out;
}

}  // namespace

absl::StatusOr<std::string> RuntimeConfig(std::string_view config_json, const RunSpec& spec,
                                          const UserIds& ids, const RuntimeOptions& options) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json image, Json::Parse(config_json));
  JsonWriter json(/*pretty=*/true);
  json.BeginObject().Member("ociVersion", kSpecVersion);
  WriteProcess(json, spec, ids, options.terminal);
  json.Key("root").BeginObject().Member("path", "rootfs").Member("readonly", options.read_only);
  json.EndObject();
  WriteMounts(json, options.rootless);
  json.Key("annotations").BeginObject();
  for (const auto& [name, value] : Annotations(image)) json.Member(name, value);
  json.EndObject();
  WriteLinux(json, options);
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace imagefs
